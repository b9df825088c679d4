"""One step of the causal convolution, for decoding.

Shape letters: B batch, D channels, W width (taps).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._checks import check_dims, check_tensor
from ssmlab.ops.causal_conv1d.checks import check_activation, check_filter, check_state
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype

_NAME = "causal_conv1d_update"


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
    check_tensor(_NAME, "x", x)
    check_dims(_NAME, "x", x, (2,), "(B, D), one time step")
    silu = check_activation(_NAME, activation)
    batch, channels = x.shape
    width = check_filter(_NAME, x, channels, weight, bias)
    check_state(_NAME, "state", x, state, (batch, width - 1, channels), "(B, W-1, D)")
    dtype = accumulation_dtype(x, weight, bias)
    window = torch.cat((state.to(x.dtype), x[:, None]), dim=1)
    y = (window.to(dtype) * weight.to(dtype).t()).sum(dim=1)
    if bias is not None:
        y = y + bias.to(dtype)
    if silu:
        y = F.silu(y)
    return y.to(x.dtype), window[:, 1:].clone()
