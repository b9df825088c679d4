"""The causal convolution with a long filter: arguments checked, and the way to compute it chosen.

Shapes: B batch, L length, D channels, T taps.
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import (
    REAL_DTYPES,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
)
from ssmlab.ops._filters import with_skip
from ssmlab.ops._products import is_narrow
from ssmlab.ops.fft_conv.fft import conv_by_fft
from ssmlab.ops.fft_conv.products import conv_by_products

_NAME = "fft_conv"
# Where products of matrices on a GPU take less time than transforms, measured on an H100
# (docs/log.md): up to so many steps, and from so many elements (b, t, d) on, below which starting a
# few dozen products takes longer than the few transforms.
_LONGEST = 512
_LEAST = 1 << 23


def fft_conv(u: Tensor, k: Tensor, D: Tensor | None = None) -> Tensor:
    """y[b, t, d] = sum over j <= t of k[d, j] * u[b, t - j, d], plus D[d] * u[b, t, d].

    Two ways to compute it. Through the FFT: spectra are of float32 (float64 if u, k or D is),
    whatever the inputs are; the transform is long enough that nothing wraps around. As products
    with Toeplitz matrices: on CUDA for bfloat16 or float16 u (k and D not float64) of at
    most 512 steps and at least 2^23 elements. Then k is rounded to u's dtype, as the
    weights of a convolution are under autocast; sums are of float32, the gradients of k and D
    are those sums, D is not rounded, and D * u is added to the convolution rounded to u's dtype.

    Only u, k and D are kept for the backward pass, which makes spectra or matrices again; these
    exist for one block of channels at a time. Differentiable once (``fft_conv_reference`` more
    often); deterministic.

    Args:
        u: (B, L, D), float32, float64, bfloat16 or float16; strides are free.
        k: (D, T) real filter, first tap on the present input; taps from L on are not reached.
        D: (D,) skip, or None.

    Returns:
        y (B, L, D) in u's dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.

    Source: Mamba, equation (3b), the global convolution form of a time-invariant SSM.
    """
    for name, value in (("u", u), ("k", k)):
        check_tensor(_NAME, name, value)
    check_dims(_NAME, "u", u, (3,), "(B, L, D)")
    check_dims(_NAME, "k", k, (2,), "(D, T), T taps of each channel")
    channels = u.shape[2]
    if u.numel() == 0 or k.numel() == 0:
        raise ValueError(
            f"{_NAME}: u is (B, L, D) = {tuple(u.shape)} and k (D, T) = {tuple(k.shape)}; expected "
            f"every size to be at least 1"
        )
    check_shape(_NAME, "k", k, (channels, k.shape[1]), "(D, T), D from u")
    for name, value in (("u", u), ("k", k)):
        check_dtype(_NAME, name, value, REAL_DTYPES)
    dtype = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    if D is not None:
        check_tensor(_NAME, "D", D)
        check_shape(_NAME, "D", D, (channels,), "(D,), D from u")
        check_dtype(_NAME, "D", D, REAL_DTYPES)
        dtype = torch.promote_types(dtype, D.dtype)
    check_device(_NAME, u.device, k=k, D=D)
    taps = k[:, : u.shape[1]].to(dtype)
    if is_narrow(u, dtype) and _products_win(*u.shape):
        return conv_by_products(u, taps, None if D is None else D.to(dtype))
    if D is not None:
        taps = with_skip(taps, D)
    return conv_by_fft(u, taps)


def _products_win(batch: int, length: int, channels: int) -> bool:
    return length <= _LONGEST and batch * length * channels >= _LEAST
