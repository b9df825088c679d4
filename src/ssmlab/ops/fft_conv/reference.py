"""The long convolution as its plain sum: O(L²), for tests and for eyes.

Shapes: B batch, L length, D channels, T taps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def fft_conv_reference(u: Tensor, k: Tensor, D: Tensor | None = None) -> Tensor:
    """What :func:`fft_conv` computes, by one lower-triangular Toeplitz matrix a channel.

    Args:
        u: (B, L, D). k: (D, T). D: (D,) or None. Any real dtypes; differentiable any number of times.

    Returns:
        y (B, L, D) in u's dtype; sums in the widest of the dtypes, float32 at least.
    """
    length = u.shape[1]
    dtype = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    taps = k.to(dtype)[:, :length]
    taps = F.pad(taps, (length - 1, length - taps.shape[1]))  # k at -(L-1) ... L-1
    toeplitz = taps.unfold(1, length, 1).flip(2)  # row t, column s: k at t - s
    y = torch.einsum("dts,bsd->btd", toeplitz, u.to(dtype))
    if D is not None:
        y = y + D.to(dtype) * u.to(dtype)
    return y.to(u.dtype)
