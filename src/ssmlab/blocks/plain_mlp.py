"""Plain MLP block, the "P" of a layer pattern.

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
class PlainMLPConfig:
    """MLP of two matrices.

    Attributes:
        d_hidden: H; "auto" is ``expand`` times d_model.
        expand: see above; without effect on a given d_hidden.
        bias: fc1 and fc2 have biases.
    """

    d_hidden: int | Literal["auto"] = "auto"
    expand: int = 4
    bias: bool = True

    def __post_init__(self) -> None:
        check_positive_int("PlainMLPConfig", expand=self.expand)
        if self.d_hidden != "auto":
            if isinstance(self.d_hidden, str):
                raise ConfigError(
                    f"PlainMLPConfig.d_hidden: expected a whole number >= 1 or 'auto', "
                    f"got {self.d_hidden!r}"
                )
            check_positive_int("PlainMLPConfig", d_hidden=self.d_hidden)

    def hidden(self, d_model: int) -> int:
        """The hidden width H in a model of width ``d_model``."""
        return self.expand * d_model if self.d_hidden == "auto" else self.d_hidden

    def effective(self, d_model: int) -> "PlainMLPConfig":
        """The same in a model of width ``d_model``, its hidden width resolved."""
        return replace(self, d_hidden=self.hidden(d_model), expand=PlainMLPConfig.expand)


class PlainMLP(nn.Module):
    """y = fc2(gelu(fc1(x))), GELU in its tanh form, as GPT-2 has it.

    Arguments:
        config: widths and biases.
        d_model: M.
        init_std: standard deviation of both; None for the fan-in rule of ``Linear``.
        out_scale: factor on fc2's start values (1/sqrt of the number of residual additions).
    """

    def __init__(
        self,
        config: PlainMLPConfig,
        d_model: int,
        *,
        init_std: float | None = None,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        hidden = config.hidden(d_model)
        self.fc1 = Linear(d_model, hidden, bias=config.bias, std=init_std)
        self.fc2 = Linear(hidden, d_model, bias=config.bias, std=init_std, scale=out_scale)

    def forward(
        self,
        x: Tensor,
        state: None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, None]:
        """x (B, L, M) -> y (B, L, M). Each step stands alone: there is no state and no boundary."""
        y = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return (y, None) if return_state else y

    def step(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """x (B, M) -> y (B, M) and no state."""
        return self(x), None

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """There is no state."""
        return None
