"""SSD as its plain recurrence, step by step.

Shapes: B batch, L length, H heads, P channels of a head, G groups of heads, N state.
"""

import torch
from torch import Tensor


def ssd_reference(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ, y_t = h_t C_t + D x_t; arguments as :func:`ssd`.

    Returns:
        y (B, L, H, P) in x's dtype and the last state (B, H, P, N).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    repeat = x.shape[2] // B.shape[2]
    h = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=dtype)
    if initial_state is not None:
        h = h + initial_state
    outputs = []
    for t in range(x.shape[1]):
        x_t, dt = x[:, t].to(dtype), delta[:, t].to(dtype)
        B_t, C_t = (f[:, t].to(dtype).repeat_interleave(repeat, 1)[:, :, None] for f in (B, C))
        h = torch.exp(dt * A)[..., None, None] * h + (dt[..., None] * x_t)[..., None] * B_t
        y = (h * C_t).sum(-1)
        outputs.append(y if D is None else y + D[:, None] * x_t)
    return torch.stack(outputs, 1).to(x.dtype), h
