"""Filters over time, as operators and mixers take them: taps (H, T), the first on the present step.

Shapes: H channels or heads, T taps, L length.
"""

from torch import Tensor
from torch.nn import functional as F


def with_skip(taps: Tensor, D: Tensor) -> Tensor:
    """taps (H, T) with the skip D (H,), a filter of one tap, added; in taps' dtype."""
    return taps + F.pad(D.to(taps.dtype)[:, None], (0, taps.shape[1] - 1))


def toeplitz_matrix(taps: Tensor, length: int) -> Tensor:
    """taps (H, T <= L) -> (H, L, L), a view: the tap at t - s at row t, column s; zero outside."""
    padded = F.pad(taps, (length - 1, length - taps.shape[1]))  # at -(L-1) ... L-1
    return padded.unfold(1, length, 1).flip(2)


def cut_time(length: int, most: int) -> tuple[int, int]:
    """How many blocks of how many steps, about ``most``, cover ``length`` steps: a multiple of 8
    steps, so that rows of matrices of 16 bits are aligned to 16 bytes."""
    count = -(-length // most)
    return count, -(-length // (8 * count)) * 8
