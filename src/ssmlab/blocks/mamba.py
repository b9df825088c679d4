"""The Mamba block's mixer: projections, short convolution, S6 and gate.

Shapes: B batch, L length, M model width, D = expand * M channels, W width of the convolution.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.recompute import recompute_level, run_fused
from ssmlab.mixers.linear import Linear, mark_no_weight_decay
from ssmlab.mixers.s6 import S6
from ssmlab.ops import causal_conv1d, causal_conv1d_update


class MambaState(NamedTuple):
    """What a Mamba block carries from step to step.

    Attributes:
        conv: (B, W-1, D), the last inputs of the convolution.
        ssm: (B, D, K), the state of the SSM.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """out_proj(S6(silu(conv(x))) * silu(z)) with (x, z) = in_proj(input).

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
        self.conv1d = _ShortConv(channels, config.d_conv, config.conv_bias)
        self.ssm = S6(config.ssm, channels, config.dt_rank(d_model))
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
        y, ssm = self.ssm.step(x, state.ssm, z)
        return self.out_proj(y), MambaState(conv, ssm)

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """The state before the first step: zeros."""
        weight = self.conv1d.weight
        channels, _, width = weight.shape
        conv = torch.zeros(
            batch_size,
            width - 1,
            channels,
            device=device or weight.device,
            dtype=dtype or weight.dtype,
        )
        return MambaState(conv, self.ssm.init_state(batch_size, device, dtype))


class _ShortConv(nn.Module):
    """Causal depthwise convolution with SiLU; weight (D, 1, W) and bias as ``nn.Conv1d`` has them."""

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
            mark_no_weight_decay(self.bias)

    def forward(
        self, x: Tensor, state: Tensor | None, return_state: bool, cu_seqlens: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        return causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            "silu",
            initial_state=state,
            return_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d_update(x, state, self.weight.squeeze(1), self.bias, "silu")
