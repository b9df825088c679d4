"""The causal convolution with a long filter, in O(L log L), with little memory of its own.

Shapes: B batch, L length, D channels, T taps, F frequencies.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Spectra are made for a block of channels at a time, so that each takes about this much and no more.
# On a CPU that is also what stays in the cache: 16 MB took twice the time of 2 MB.
_BLOCK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}


def conv_by_fft(u: Tensor, taps: Tensor) -> Tensor:
    """:func:`ssmlab.ops.fft_conv` of u (B, L, D) and taps (D, T <= L), these of the dtype of the
    spectra: float32 or float64."""
    return _FFTConv.apply(u, taps)


class _FFTConv(torch.autograd.Function):
    """The convolution proper: u (B, L, D) of any dtype, taps (D, T <= L) of the computing dtype."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(u, taps)
        length = u.shape[1]
        size = transform_length(length + taps.shape[1] - 1)
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        for block in _blocks(u, size, taps.dtype):
            spectrum = torch.fft.rfft(u[:, :, block].to(taps.dtype), n=size, dim=1)
            spectrum *= torch.fft.rfft(taps[block].t(), n=size, dim=0)
            y[:, :, block] = torch.fft.irfft(spectrum, n=size, dim=1)[:, :length]
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grad_outputs
        u, taps = ctx.saved_tensors
        length, count = u.shape[1], taps.shape[1]
        size = transform_length(length + count - 1)
        need_u, need_taps = ctx.needs_input_grad
        grad_u = torch.empty(u.shape, dtype=u.dtype, device=u.device) if need_u else None
        grad_taps = torch.empty_like(taps) if need_taps else None
        for block in _blocks(u, size, taps.dtype):
            of_grad = torch.fft.rfft(grad[:, :, block].to(taps.dtype), n=size, dim=1)
            # Correlations: with the size above, negative lags wrap to where nothing is read.
            if grad_taps is not None:
                of_u = torch.fft.rfft(u[:, :, block].to(taps.dtype), n=size, dim=1)
                of_u = (of_u.conj_physical_() * of_grad).sum(0)
                grad_taps[block] = torch.fft.irfft(of_u, n=size, dim=0)[:count].t()
            if grad_u is not None:
                of_grad *= torch.fft.rfft(taps[block].t(), n=size, dim=0).conj_physical_()
                grad_u[:, :, block] = torch.fft.irfft(of_grad, n=size, dim=1)[:, :length]
        return grad_u, grad_taps


def _blocks(u: Tensor, size: int, dtype: torch.dtype) -> list[slice]:
    """Blocks of channels whose spectra take about ``_BLOCK_BYTES``; 16 channels at least, so that
    the strided transform uses whole cache lines."""
    batch, _, channels = u.shape
    budget = _BLOCK_BYTES.get(u.device.type, 1 << 26)
    width = max(16, budget // (batch * size * dtype.itemsize))
    return [slice(start, start + width) for start in range(0, channels, width)]


def transform_length(least: int) -> int:
    """The smallest even number >= ``least`` without prime factors above 5: fast, and short."""
    best = 1 << max(1, (least - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            two = max(2, 1 << max(0, (-(-least // three) - 1).bit_length()))
            if two * three >= least:
                best = min(best, two * three)
            three *= 3
        five *= 5
    return best
