"""The Hyena operator: projections, short convolutions, and long implicit ones between products.

Shapes: B batch, L length, M model width, O order, W width of the short convolution, P past inputs.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.blocks.short_conv import ShortConv
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_int
from ssmlab.mixers.linear import Linear
from ssmlab.mixers.long_conv import LongConv, LongConvConfig
from ssmlab.mixers.packing import run_packed


@dataclass(frozen=True)
class HyenaConfig:
    """The Hyena operator (arXiv 2302.10866).

    Attributes:
        order: O >= 2, number of products; there are O - 1 long convolutions.
        d_conv: width of the short depthwise convolution on each projection.
        long_conv: the implicit filters.
        bias: in_proj and out_proj have biases.
    """

    order: int = 2
    d_conv: int = 3
    long_conv: LongConvConfig = field(default_factory=LongConvConfig)
    bias: bool = True

    def __post_init__(self) -> None:
        check_positive_int("HyenaConfig", order=self.order, d_conv=self.d_conv)
        if self.order < 2:
            raise ConfigError(
                f"HyenaConfig.order={self.order}: expected at least 2, one long convolution between "
                "two products"
            )


class HyenaState(NamedTuple):
    """What a Hyena operator carries from step to step: a cache that grows with every step.

    Attributes:
        conv: (B, W-1, (O+1) M), the last projections.
        inputs: O - 1 tensors (B, P, M), all past inputs of each long convolution.
    """

    conv: Tensor
    inputs: tuple[Tensor, ...]


class Hyena(nn.Module):
    """v <- x_i ⊙ (k_i * v), order - 1 times, from v ⊙ x_{O-1}, with (x_0 ... x_{O-1}, v) projections.

    Of order 2 it is H3 with both SSMs replaced: x_0 ⊙ (k * (x_1 ⊙ v)).

    Arguments:
        config: widths and switches.
        d_model: M.
        init_std: standard deviation of the projections; None for the fan-in rule of ``Linear``.
        out_scale: factor on out_proj's start values (1/sqrt of the number of residual additions).

    Source: arXiv 2302.10866, definition 3.1 and Algorithms 1 to 3.
    """

    def __init__(
        self,
        config: HyenaConfig,
        d_model: int,
        *,
        init_std: float | None = None,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        parts = config.order + 1
        self.order = config.order
        self.in_proj = Linear(d_model, parts * d_model, bias=config.bias, std=init_std)
        self.conv1d = ShortConv(parts * d_model, config.d_conv, bias=True, activation=None)
        self.filters = nn.ModuleList(
            LongConv(config.long_conv, d_model) for _ in range(config.order - 1)
        )
        self.out_proj = Linear(d_model, d_model, bias=config.bias, std=init_std, scale=out_scale)

    def forward(
        self,
        x: Tensor,
        state: HyenaState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, HyenaState]:
        """x (B, L, M) -> y (B, L, M), or (y, state).

        ``cu_seqlens`` packs sequences along L, B = 1 then; they are run one after another, and states
        can be had only of sequences of one length.

        Raises:
            ValueError: more steps than the filters' l_max, those of the state included.
        """
        if cu_seqlens is not None:
            return run_packed(self, (x,), state, return_state, cu_seqlens)
        u = self.conv1d(self.in_proj(x), None if state is None else state.conv, return_state, None)
        conv = None
        if return_state:
            u, conv = u
        *factors, v = u.chunk(self.order + 1, dim=-1)
        inputs = []
        for index, long_conv in enumerate(self.filters):
            before = None if state is None else state.inputs[index]
            v = long_conv(v * factors.pop(), None, before, return_state)
            if return_state:
                v, seen = v
                inputs.append(seen)
        y = self.out_proj(v * factors[0])
        return y if conv is None else (y, HyenaState(conv, tuple(inputs)))

    def step(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        """One step of decoding: x (B, M) -> y (B, M) and the new state."""
        u, conv = self.conv1d.step(self.in_proj(x), state.conv)
        *factors, v = u.chunk(self.order + 1, dim=-1)
        inputs = []
        for long_conv, before in zip(self.filters, state.inputs, strict=True):
            v, seen = long_conv.step(v * factors.pop(), before)  # type: ignore[operator]
            inputs.append(seen)
        return self.out_proj(v * factors[0]), HyenaState(conv, tuple(inputs))

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HyenaState:
        """Zeros, and no inputs yet."""
        inputs = tuple(
            f.init_state(batch_size, device, dtype)  # type: ignore[operator]
            for f in self.filters
        )
        return HyenaState(self.conv1d.init_state(batch_size, device, dtype), inputs)
