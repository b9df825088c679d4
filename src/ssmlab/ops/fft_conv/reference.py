"""The long convolution as its plain sum: O(L²), for tests and for eyes.

Shapes: B batch, L length, D channels, T taps.
"""

import torch
from torch import Tensor

from ssmlab.ops._filters import toeplitz_matrix


def fft_conv_reference(u: Tensor, k: Tensor, D: Tensor | None = None) -> Tensor:
    """What :func:`fft_conv` computes, by one lower-triangular Toeplitz matrix a channel.

    Args:
        u: (B, L, D). k: (D, T). D: (D,) or None. Any real dtypes; differentiable any number of times.

    Returns:
        y (B, L, D) in u's dtype; sums in the widest of the dtypes, float32 at least.
    """
    length = u.shape[1]
    dtype = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    toeplitz = toeplitz_matrix(k.to(dtype)[:, :length], length)
    y = torch.einsum("dts,bsd->btd", toeplitz, u.to(dtype))
    if D is not None:
        y = y + D.to(dtype) * u.to(dtype)
    return y.to(u.dtype)
