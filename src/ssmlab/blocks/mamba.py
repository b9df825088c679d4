"""The Mamba block's mixer: projections, short convolution, S6 (or another mixer) and gate.

Shapes: B batch, L length, M model width, D = expand * M channels, W width of the convolution.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.blocks.in_place import step_in_place
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.recompute import recompute_level, run_fused
from ssmlab.blocks.short_conv import ShortConv
from ssmlab.mixers.inner import build_inner
from ssmlab.mixers.linear import Linear


class MambaState(NamedTuple):
    """What a Mamba block carries from step to step.

    Attributes:
        conv: (B, W-1, D), the last inputs of the convolution.
        ssm: the state of the mixer inside, for S6 (B, D, K).
    """

    conv: Tensor
    ssm: Any


class Mamba(nn.Module):
    """out_proj(S6(silu(conv(x))) * silu(z)) with (x, z) = in_proj(input).

    ``ssm`` is the mixer that the config names, S6 unless it names another.

    Arguments:
        config: widths and switches.
        d_model: M.
        out_scale: factor on out_proj's start values (1/sqrt of the number of residual additions).

    Source: section 3.4 and Figure 3 of arXiv 2312.00752.
    """

    def __init__(self, config: MambaConfig, d_model: int, *, out_scale: float = 1.0) -> None:
        super().__init__()
        self.config = config
        channels = config.d_inner(d_model)
        self.in_proj = Linear(d_model, 2 * channels, bias=config.bias, std=None)
        self.conv1d = ShortConv(channels, config.d_conv, config.conv_bias)
        self.ssm = build_inner(config, d_model, channels)
        self.out_proj = Linear(channels, d_model, bias=config.bias, std=None, scale=out_scale)

    def forward(
        self,
        x: Tensor,
        state: MambaState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, MambaState]:
        """x (B, L, M) -> y (B, L, M), or (y, state). ``cu_seqlens`` packs sequences, B = 1 then."""
        xz = self.in_proj(x)
        if state is None and not return_state and (level := recompute_level(self, xz)) is not None:
            return run_fused(self, xz, cu_seqlens, level)
        x, z = xz.chunk(2, dim=-1)
        x = self.conv1d(x, None if state is None else state.conv, return_state, cu_seqlens)
        conv = None
        if return_state:
            x, conv = x
        y = self.ssm(x, z, None if state is None else state.ssm, return_state, cu_seqlens)
        if conv is None:
            return self.out_proj(y)
        y, ssm = y
        return self.out_proj(y), MambaState(conv, ssm)

    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One step of decoding: x (B, M) -> y (B, M) and the new state."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, conv = self.conv1d.step(x, state.conv)
        y, ssm = self.ssm.step(x, state.ssm, z)  # type: ignore[operator]
        return self.out_proj(y), MambaState(conv, ssm)

    def step_(self, x: Tensor, state: MambaState) -> Tensor:
        """As ``step``, the new state written over the old one."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = self.conv1d.step_(x, state.conv)
        return self.out_proj(step_in_place(self.ssm, x, state.ssm, z))

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """The state before the first step: zeros."""
        conv = self.conv1d.init_state(batch_size, device, dtype)
        ssm = self.ssm.init_state(batch_size, device, dtype)  # type: ignore[operator]
        return MambaState(conv, ssm)
