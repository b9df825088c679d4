"""Pre-norm residual block, and its norms.

Shapes: M model width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.blocks.in_place import step_in_place
from ssmlab.mixers.linear import mark_no_weight_decay


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last dimension, computed in fp32 at least.

    The output has the weight's dtype, whatever the residual stream is kept in.
    Source: Zhang and Sennrich, arXiv 1910.07467, equation (4).
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mark_no_weight_decay(nn.Parameter(torch.ones(width)))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., M) -> (..., M)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        y = F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)
        return y.to(self.weight.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, in fp32 at least.

    The output has the weight's dtype, whatever the residual stream is kept in.
    Source: Ba, Kiros and Hinton, arXiv 1607.06450, equation (4).
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mark_no_weight_decay(nn.Parameter(torch.ones(width)))
        self.bias = mark_no_weight_decay(nn.Parameter(torch.zeros(width)))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., M) -> (..., M)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        y = F.layer_norm(x.to(dtype), self.weight.shape, weight, bias, self.eps)
        return y.to(self.weight.dtype)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}


class ResidualBlock(nn.Module):
    """residual + mixer(norm(residual)); the sum keeps the residual's dtype."""

    def __init__(self, mixer: nn.Module, width: int, norm_eps: float, norm: str = "rms") -> None:
        super().__init__()
        self.norm = NORMS[norm](width, norm_eps)
        self.mixer = mixer

    def forward(
        self,
        residual: Tensor,
        state: Any = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """residual (B, L, M) -> (residual (B, L, M), the mixer's state or None)."""
        y, state = self.mix(self.norm(residual), state, return_state, cu_seqlens)
        return residual + y.to(residual.dtype), state

    def mix(
        self, x: Tensor, state: Any, return_state: bool, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The mixer alone: the normed x (B, L, M) -> what is to be added (B, L, M), and as above."""
        if not return_state:
            return self.mixer(x, state, cu_seqlens=cu_seqlens), None
        return self.mixer(x, state, True, cu_seqlens)

    def step(self, residual: Tensor, state: Any) -> tuple[Tensor, Any]:
        """residual (B, M) and state -> both after one step."""
        y, state = self.mixer.step(self.norm(residual), state)  # type: ignore[operator]
        return residual + y.to(residual.dtype), state

    def step_(self, residual: Tensor, state: Any) -> Tensor:
        """As ``step``, the new state written over the old one."""
        return residual + step_in_place(self.mixer, self.norm(residual), state).to(residual.dtype)

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """The mixer's state before the first step."""
        return self.mixer.init_state(batch_size, device, dtype)  # type: ignore[operator]
