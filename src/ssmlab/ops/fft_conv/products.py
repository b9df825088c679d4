"""The causal convolution with a long filter as products of matrices, for tensor cores.

Shapes: B batch, L length, D channels, T taps. Time is cut into n blocks of P steps. The matrix
of a channel, k[t - s] at row t and column s, is Toeplitz: all that a block of outputs needs of
it is one strip of P columns, so a strip is made, not the L x L matrix, and every product
uses as many of its rows as there are steps up to the block. That is half of the arithmetic of the
whole matrix, and L / P of its bytes less.

Strips are read off the taps through overlapping views; a product over the batch (the gradient of
the taps) is summed along its diagonals through a view too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssmlab.ops._filters import cut_time
from ssmlab.ops._products import batched_product, write_into

# The most steps in a block: a smaller one makes more products, which read their operands more
# often, a larger one longer strips. Bytes of (64, 512, 768), forward and backward, on paper: 2.7 GB
# at 64 (8 products a pass), 2.9 GB at 128 (4), 4.0 GB at 256 (2).
_STEPS = 128
# Matrices are made for a block of channels at a time, so that they take about this much.
_BLOCK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}
_LEAST_CHANNELS = 32  # of a block: transposing copies then use whole sectors of memory


def conv_by_products(u: Tensor, taps: Tensor, skip: Tensor | None = None) -> Tensor:
    """:func:`ssmlab.ops.fft_conv` of u (B, L, D), taps (D, T <= L) and skip (D,).

    Products are of u's dtype, to which taps are rounded, with sums in at least float32. taps and
    skip are of float32, or float64 for u of float64; so are their gradients. Any device.
    """
    return _Products.apply(u, taps, skip)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, taps: Tensor, skip: Tensor | None) -> Tensor:
        ctx.save_for_backward(u, taps, skip)
        cut = _Cut(u, taps.shape[1])
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        with torch.autocast(u.device.type, enabled=False):
            for block in cut.channels():
                strip = cut.strip(taps[block].to(u.dtype)).flip(1)  # k[reach P + r - x]
                rows = cut.rows(u[:, :, block])
                for i in range(cut.count):
                    first = max(0, i - cut.reach)
                    x = strip[:, (cut.reach + first - i) * cut.steps :]
                    part = rows[:, :, first * cut.steps : (i + 1) * cut.steps]
                    cut.put(y, i, block, torch.bmm(part, x), u, skip)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grad_outputs
        u, taps, skip = ctx.saved_tensors
        need_u, need_taps, need_skip = ctx.needs_input_grad
        grad_u = grad_taps = None
        with torch.autocast(u.device.type, enabled=False):
            if need_u:
                grad_u = _grad_input(grad, u, taps, skip)
            if need_taps or need_skip:
                grad_taps = _grad_taps(grad, u, taps.shape[1] if need_taps else 1, taps.dtype)
        grad_skip = grad_taps[:, 0].clone() if need_skip and grad_taps is not None else None
        return grad_u, grad_taps if need_taps else None, grad_skip


def _grad_input(grad: Tensor, u: Tensor, taps: Tensor, skip: Tensor | None) -> Tensor:
    """du[s] = sum over t >= s of k[t - s] dy[t]."""
    cut = _Cut(u, taps.shape[1])
    grad_u = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    for block in cut.channels():
        strip = cut.strip(taps[block].to(u.dtype)).flip(2)  # k[x - r]
        rows = cut.rows(grad[:, :, block])
        for i in range(cut.count):
            last = min(cut.count, i + cut.reach + 1)
            x = strip[:, : (last - i) * cut.steps]
            part = rows[:, :, i * cut.steps : last * cut.steps]
            cut.put(grad_u, i, block, torch.bmm(part, x), grad, skip)
    return grad_u


def _grad_taps(grad: Tensor, u: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """dk[j] = sum over b and t of dy[b, t] u[b, t - j], (D, count) in ``dtype``."""
    cut = _Cut(u, count)
    steps, lags = cut.steps, cut.reach + 1
    grad_taps = torch.empty(u.shape[2], count, dtype=dtype, device=u.device)
    # The P x P product of blocks that lie q apart, at row s and column t, belongs to the lag
    # q P + t - s. It is put into the right half of rows of 2 P, whose left half is zero; in rows of
    # 2 P + 1, the same memory has in column c all that belongs to the lag q P + c - P, else zeros.
    width = cut.channels()[0].stop
    matrix = 2 * steps * steps
    memory = torch.zeros(width * lags * matrix + steps, dtype=dtype, device=u.device)
    for block in cut.channels():
        of_u, of_grad = cut.blocks(u[:, :, block]), cut.blocks(grad[:, :, block])
        size = of_u.shape[0]
        products = memory[: size * lags * matrix].view(size, lags, steps, 2 * steps)[..., steps:]
        for q in range(lags):
            early = of_u[:, : cut.count - q].flatten(1, 2)  # (D, blocks and batch, P)
            late = of_grad[:, q:].flatten(1, 2)
            batched_product(early.transpose(1, 2), late, products[:, q])
        strides = (lags * matrix, matrix, 2 * steps + 1, 1)
        sums = memory.as_strided((size, lags, steps, 2 * steps), strides).sum(2)
        by_lag = sums[:, :, steps:]
        by_lag[:, :-1] += sums[:, 1:, :steps]
        grad_taps[block] = by_lag.flatten(1)[:, :count]
    return grad_taps


class _Cut:
    """How time and channels of u are cut: ``count`` blocks of ``steps`` steps; taps reach ``reach``
    blocks back."""

    def __init__(self, u: Tensor, taps: int) -> None:
        self.batch, self.length, self.width = u.shape
        self.count, self.steps = cut_time(self.length, _STEPS)
        self.reach = min(self.count - 1, (taps + self.steps - 2) // self.steps)
        self.device, self.itemsize = u.device, u.itemsize

    def channels(self) -> list[slice]:
        """Blocks of channels, equal but for the last: what a pass over one makes takes about
        ``_BLOCK_BYTES`` (u and its gradient once more, products or strips)."""
        copies = 2 * self.itemsize * self.batch * self.count * self.steps
        matrices = 2 * max(4, self.itemsize) * (self.reach + 1) * self.steps**2
        budget = _BLOCK_BYTES.get(self.device.type, 1 << 26)
        most = max(_LEAST_CHANNELS, budget // (copies + matrices))
        size = -(-self.width // -(-self.width // most))
        return [slice(start, min(start + size, self.width)) for start in range(0, self.width, size)]

    def strip(self, taps: Tensor) -> Tensor:
        """(D, (reach + 1) P, P), a view: k[x + r - (P - 1)] at row x and column r, zero outside."""
        rows = (self.reach + 1) * self.steps
        padded = F.pad(taps, (self.steps - 1, rows - taps.shape[1]))
        return padded.unfold(1, self.steps, 1)

    def rows(self, u: Tensor) -> Tensor:
        """u (B, L, D) as (D, B, n P), zeros after L."""
        whole = self.count * self.steps
        make = torch.empty if whole == self.length else torch.zeros
        rows = make(u.shape[2], self.batch, whole, dtype=u.dtype, device=u.device)
        rows[:, :, : self.length].permute(1, 2, 0).copy_(u)
        return rows

    def blocks(self, u: Tensor) -> Tensor:
        """u (B, L, D) as (D, n, B, P), zeros after L."""
        full = self.length // self.steps
        make = torch.empty if full == self.count else torch.zeros
        shape = (u.shape[2], self.count, self.batch, self.steps)
        blocks = make(shape, dtype=u.dtype, device=u.device)
        end = full * self.steps
        if full:
            into = blocks[:, :full].permute(2, 1, 3, 0)
            into.copy_(u[:, :end].unflatten(1, (full, self.steps)))
        if end < self.length:
            blocks[:, full, :, : self.length - end].permute(1, 2, 0).copy_(u[:, end:])
        return blocks

    def put(
        self, y: Tensor, i: int, block: slice, product: Tensor, u: Tensor, skip: Tensor | None
    ) -> None:
        """Write block i of y (B, L, D): the product (D, B, P), plus skip times u if there is one."""
        time = slice(i * self.steps, min((i + 1) * self.steps, self.length))
        product = product.permute(1, 2, 0)[:, : time.stop - time.start]
        into = y[:, time, block]
        if skip is None:
            into.copy_(product)
        else:  # in float32, rounded once
            write_into(into, torch.addcmul, product, u[:, time, block], skip[block])
