"""One step of the causal convolution, for decoding.

Shape letters: B batch, D channels, W width (taps).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops.causal_conv1d.checks import check_activation, check_filter, check_same_device
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype


def causal_conv1d_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One time step of :func:`causal_conv1d`; nothing is changed in place, all is differentiable.

    Args:
        x: (B, D), the input of this step; float32, bfloat16, float16 or float64.
        state: (B, W-1, D), the W-1 inputs before it, oldest first; converted to x's dtype.
        weight: (D, W); bias: (D,) or None; activation: None, "silu" or "swish".

    Returns:
        y (B, D) and the new state (B, W-1, D), both of x's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    if x.ndim != 2:
        raise ValueError(f"x must have 2 dimensions (B, D), got shape {tuple(x.shape)}")
    silu = check_activation(activation)
    check_filter(x, weight, bias)
    batch, channels = x.shape
    width = weight.shape[1]
    if tuple(state.shape) != (batch, width - 1, channels):
        raise ValueError(
            f"state must have shape (B, W-1, D) = ({batch}, {width - 1}, {channels}), "
            f"got {tuple(state.shape)}"
        )
    check_same_device(x, state=state)
    dtype = accumulation_dtype(x, weight, bias)
    window = torch.cat((state.to(x.dtype), x[:, None]), dim=1)
    y = (window.to(dtype) * weight.to(dtype).t()).sum(dim=1)
    if bias is not None:
        y = y + bias.to(dtype)
    if silu:
        y = F.silu(y)
    return y.to(x.dtype), window[:, 1:].clone()
