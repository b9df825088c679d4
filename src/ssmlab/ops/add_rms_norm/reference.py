"""Residual addition and norm in plain torch, for any device and float type.

Shapes: T rows, M width.
"""

import torch
from torch import Tensor


def forward(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y (T, M), the sum (T, M) (empty without x) and the rows' 1/rms (T,)."""
    wide = accumulation_dtype(x, residual, weight)
    h, total = residual.to(wide), residual.new_empty(0)
    if x is not None:
        total = (h + x.to(wide)).to(residual.dtype)
        h = total.to(wide)  # the norm sees what the stream holds
    rstd = torch.rsqrt(h.square().mean(-1) + eps)
    return (h * rstd[:, None] * weight.to(wide)).to(out_dtype), total, rstd


def backward(
    dy: Tensor,
    dsum: Tensor | None,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    x_dtype: torch.dtype | None,
    wants_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty if ``x_dtype`` is None), residual and weight (empty unless wanted)."""
    wide = rstd.dtype
    dy = dy.to(wide)
    normed = total.to(wide) * rstd[:, None]
    slope = dy * weight.to(wide)
    d = (slope - normed * (slope * normed).mean(-1, keepdim=True)) * rstd[:, None]
    if dsum is not None:
        d = d + dsum.to(wide)
    dweight = (dy * normed).sum(0).to(weight.dtype) if wants_weight else weight.new_empty(0)
    dx = d.to(x_dtype, copy=True) if x_dtype is not None else total.new_empty(0)
    return dx, d.to(total.dtype), dweight


def accumulation_dtype(x: Tensor | None, residual: Tensor, weight: Tensor) -> torch.dtype:
    """float64 if any of them is, else float32."""
    given = [t.dtype for t in (x, residual, weight) if t is not None]
    return torch.float64 if torch.float64 in given else torch.float32
