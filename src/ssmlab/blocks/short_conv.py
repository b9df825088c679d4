"""The short causal depthwise convolution of a block.

Shapes: B batch, L length, D channels, W width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.mixers.linear import mark_no_weight_decay
from ssmlab.ops import causal_conv1d, causal_conv1d_update


class ShortConv(nn.Module):
    """Causal depthwise convolution; weight (D, 1, W) and bias as ``nn.Conv1d`` has them.

    Arguments:
        channels: D. width: W.
        bias: whether there is one.
        activation: "silu" or None.
    """

    def __init__(
        self, channels: int, width: int, bias: bool, activation: str | None = "silu"
    ) -> None:
        super().__init__()
        self.activation = activation
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
            mark_no_weight_decay(self.bias)

    def forward(
        self, x: Tensor, state: Tensor | None, return_state: bool, cu_seqlens: Tensor | None
    ) -> Any:
        """x (B, L, D) -> y (B, L, D), or (y, state (B, W-1, D))."""
        return causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            self.activation,
            initial_state=state,
            return_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) -> y (B, D) and the new state."""
        return causal_conv1d_update(x, state, self.weight.squeeze(1), self.bias, self.activation)

    def step_(self, x: Tensor, state: Tensor) -> Tensor:
        """As ``step``, the new state written over the old one."""
        weight = self.weight.squeeze(1)
        return causal_conv1d_update(x, state, weight, self.bias, self.activation, in_place=True)[0]

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Zeros (B, W-1, D)."""
        channels, _, width = self.weight.shape
        return torch.zeros(
            batch_size,
            width - 1,
            channels,
            device=device or self.weight.device,
            dtype=dtype or self.weight.dtype,
        )
