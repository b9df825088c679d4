"""Gated MLP block (SwiGLU), the "F" of a layer pattern.

B batch, L length, M model width, H hidden width.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_int
from ssmlab.mixers.linear import Linear


@dataclass(frozen=True)
class MLPConfig:
    """Gated MLP.

    Attributes:
        d_hidden: H; "auto" is 8/3 of d_model, which makes the block's three matrices the 8 M² numbers
            of a plain MLP of expansion 4, rounded up to ``multiple_of``.
        multiple_of: what an "auto" width is rounded up to; a multiple of 8 keeps matrix units busy.
        bias: fc1 and fc2 have biases.
    """

    d_hidden: int | Literal["auto"] = "auto"
    multiple_of: int = 8
    bias: bool = False

    def __post_init__(self) -> None:
        check_positive_int("MLPConfig", multiple_of=self.multiple_of)
        if self.d_hidden != "auto":
            if isinstance(self.d_hidden, str):
                raise ConfigError(
                    f"MLPConfig.d_hidden: expected a whole number >= 1 or 'auto', "
                    f"got {self.d_hidden!r}"
                )
            check_positive_int("MLPConfig", d_hidden=self.d_hidden)

    def hidden(self, d_model: int) -> int:
        """The hidden width H in a model of width ``d_model``."""
        if self.d_hidden != "auto":
            return self.d_hidden
        wanted = -(-8 * d_model // 3)
        return -(-wanted // self.multiple_of) * self.multiple_of

    def effective(self, d_model: int) -> "MLPConfig":
        """The same in a model of width ``d_model``, its hidden width resolved."""
        return replace(self, d_hidden=self.hidden(d_model), multiple_of=MLPConfig.multiple_of)


class GatedMLP(nn.Module):
    """y = fc2(u * silu(g)) with (u, g) = fc1(x).

    Arguments:
        config: widths and biases.
        d_model: M.
        init_std: standard deviation of fc1; None for the fan-in rule of ``Linear``.
        out_scale: factor on fc2's start values (1/sqrt of the number of residual additions).
    """

    def __init__(
        self,
        config: MLPConfig,
        d_model: int,
        *,
        init_std: float | None = 0.02,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        hidden = config.hidden(d_model)
        self.fc1 = Linear(d_model, 2 * hidden, bias=config.bias, std=init_std)
        self.fc2 = Linear(hidden, d_model, bias=config.bias, std=init_std, scale=out_scale)

    def forward(
        self,
        x: Tensor,
        state: None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, None]:
        """x (B, L, M) -> y (B, L, M). Each step stands alone: there is no state and no boundary."""
        u, gate = self.fc1(x).chunk(2, dim=-1)
        y = self.fc2(u * F.silu(gate))
        return (y, None) if return_state else y

    def step(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """x (B, M) -> y (B, M) and no state."""
        return self(x), None

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """There is no state."""
        return None
