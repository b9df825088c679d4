"""Toeplitz matrices in strips, sums along diagonals, and slices of heads and batch as they are taken.

Shapes: B batch, L length, H heads, T taps. Time is cut into n blocks of P steps. The rows of the
matrix of a head that belong to one block of outputs differ from those of another by a shift only, so
one strip of P rows and n P columns has them all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._filters import cut_time

# The most steps in a block: a smaller one computes less above the diagonal, by more products.
_STEPS = 128


class Cut:
    """How L steps are cut: ``count`` blocks of ``steps`` steps, ``padded`` in all."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.count, self.steps = cut_time(length, _STEPS)
        self.padded = self.count * self.steps

    def block(self, i: int) -> slice:
        """The steps of block i."""
        return slice(i * self.steps, (i + 1) * self.steps)

    def columns(self, i: int) -> slice:
        """The columns of ``later`` for block i of outputs and all inputs up to its end."""
        return slice((self.count - 1 - i) * self.steps, None)

    def later(self, taps: Tensor) -> Tensor:
        """taps (H, T <= L) -> (H, P, n P): h[(n - 1) P + r - x] at row r, column x; zero outside."""
        return self._extended(taps).flip(1).unfold(1, self.padded, 1).flip(1)

    def earlier(self, taps: Tensor) -> Tensor:
        """taps (H, T <= L) -> (H, P, n P): h[x - r] at row r, column x; zero outside."""
        return self._extended(taps).unfold(1, self.padded, 1).flip(1)

    def _extended(self, taps: Tensor) -> Tensor:
        """h at -(P - 1) ... n P - 1."""
        return F.pad(taps, (self.steps - 1, self.padded - taps.shape[1]))


class Diagonals:
    """Gradients of the entries of strips (``Cut.later``), and their sums along diagonals: by h.

    Without atomics: a strip lies in the right part of rows that are P longer, with zeros before it.
    In the same memory, read as rows of one number more, each row begins one column later than the
    one above, so that a column has all that belongs to one lag.
    """

    def __init__(self, cut: Cut, heads: int, dtype: torch.dtype, device: torch.device) -> None:
        self.cut = cut
        shape = (heads, cut.steps, cut.padded + cut.steps)
        self.memory = torch.zeros(shape, dtype=dtype, device=device)

    def add(self, heads: slice, i: int, entries: Tensor) -> None:
        """Add the gradients (H', P, (i + 1) P) of what block i of outputs met."""
        strip = self.memory[heads, :, self.cut.steps :]
        strip[..., self.cut.columns(i)] += entries

    def sums(self, taps: int) -> Tensor:
        """By the taps, (H, T)."""
        heads, steps, width = self.memory.shape
        shape, strides = (heads, steps, width - steps), (steps * width, width + 1, 1)
        # Column c has the lag n P - 1 - c.
        return self.memory.as_strided(shape, strides, 1).sum(1).flip(1)[:, :taps].contiguous()


def slices(heads: int, batch: int, size: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Some heads and rows of the batch at a time, of ``size`` for one of each, within ``budget`` in
    all: whole heads, or where one is too much parts of its batch."""
    most = max(1, budget // size)
    some_heads, some_rows = (most // batch, batch) if most >= batch else (1, most)
    for head in range(0, heads, some_heads):
        for row in range(0, batch, some_rows):
            yield (
                slice(head, min(head + some_heads, heads)),
                slice(row, min(row + some_rows, batch)),
            )


Order = tuple[int, int, int, int]
"""Where the dimensions of (B, L, H, E) go in a slice."""


def arrange(
    t: Tensor, heads: slice, rows: slice, order: Order, padded: int, dtype: torch.dtype
) -> Tensor:
    """Some heads and rows of t (B, L, H, E) in another order and dtype, L padded with zeros."""
    part, time = t[rows, :, heads].permute(order), order.index(1)
    shape = [padded if i == time else size for i, size in enumerate(part.shape)]
    make = torch.empty if padded == t.shape[1] else torch.zeros
    arranged = make(shape, dtype=dtype, device=t.device)
    arranged.narrow(time, 0, t.shape[1]).copy_(part)
    return arranged


def put(to: Tensor, heads: slice, rows: slice, order: Order, found: Tensor) -> None:
    """Write what was found in a slice, arranged as above, into (B, L, H, E)."""
    to[rows, :, heads].permute(order).copy_(found.narrow(order.index(1), 0, to.shape[1]))
