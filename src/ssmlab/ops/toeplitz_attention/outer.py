"""Toeplitz attention by its outer products: y = Q · T (K ⊗ V), and its gradients, in slices.

Shapes: B batch, L length, H heads, E width of q and k, F width of v, T taps. With U = k vᵀ and
A = q dyᵀ, E F numbers a step and head each, and T the Toeplitz matrix of a head,

    y_f = Σ_e q_e (T U)_ef,    dq_e = Σ_f (T U)_ef dy_f,
    dk_e = Σ_f (Tᵀ A)_ef v_f,  dv_f = Σ_e k_e (Tᵀ A)_ef,  dh[d] = Σ_t A_t · U_{t-d}

T is multiplied by in strips (``toeplitz``), the E F B sequences of a head being the columns of the
other matrix, so that a strip is read once for very many of them; or, where L is very long, through
the FFT. Products take operands of ``dtype``; sums over e and f are of the taps' dtype. The outer
products are kept for some heads and some of the batch at a time. The batch comes last: whatever is
multiplied or summed over then has long contiguous runs.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ssmlab.ops._products import batched_product
from ssmlab.ops.fft_conv.fft import transform_length
from ssmlab.ops.toeplitz_attention.toeplitz import Cut, Diagonals, arrange, put, slices

# What the outer products of a slice, and all that is made of them, take at a time, about.
_BLOCK_BYTES = {"cuda": 1 << 29, "cpu": 1 << 23}
_ORDER = (2, 1, 3, 0)  # slices are (H, L', E, B)


class _Filter(Protocol):
    """T of all heads, applied to some of them: (H', L', C) -> (H', L', C)."""

    padded: int  # L'
    # Wide numbers in memory for each of the outer products, about, with all that is made of it.
    copies: int

    def forward(self, heads: slice, u: Tensor) -> Tensor:
        """T u."""
        ...

    def backward(self, heads: slice, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """T u and Tᵀ a; what they add to the gradient of the taps is taken in."""
        ...

    def gradient(self) -> Tensor:
        """By the taps, (H, T): all that was taken in."""
        ...


def forward(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, dtype: torch.dtype, fft: bool) -> Tensor:
    """y (B, L, H, F) in q's dtype; taps (H, T <= L)."""
    y = v.new_empty(v.shape)
    wide, T, rest = taps.dtype, _filter(q, taps, dtype, fft), _lost_by_rounding(taps, dtype)
    for heads, rows in _slices(q, v, T, wide):
        Q, K, V = (arrange(t, heads, rows, _ORDER, T.padded, dtype) for t in (q, k, v))
        U = _outer(K, V)
        mixed = T.forward(heads, U.flatten(2)).view(U.shape)
        del U
        Q = Q.to(wide)
        found = _contract(mixed, Q.unsqueeze(3), 2)
        if rest is not None:
            found += _dot(Q, K, rest[heads]) * V
        put(y, heads, rows, _ORDER, found)
    return y


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, dtype: torch.dtype, fft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by q, k and v in their dtypes, and by taps."""
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    wide, T, rest = taps.dtype, _filter(q, taps, dtype, fft), _lost_by_rounding(taps, dtype)
    for heads, rows in _slices(q, v, T, wide):
        Q, K, V, Y = (arrange(t, heads, rows, _ORDER, T.padded, dtype) for t in (q, k, v, grad))
        U, A = _outer(K, V), _outer(Q, Y)
        mixed, back = (t.view(U.shape) for t in T.backward(heads, U.flatten(2), A.flatten(2)))
        del U, A
        Q, K, V, Y = (t.to(wide) for t in (Q, K, V, Y))
        dQ = _contract(mixed, Y.unsqueeze(2), 3)
        del mixed
        dK = _contract(back, V.unsqueeze(2), 3)
        dV = _contract(back, K.unsqueeze(3), 2)
        del back
        if rest is not None:
            S, G = _dot(Q, K, rest[heads]), _dot(Y, V, rest[heads])
            dQ, dK, dV = dQ + G * K, dK + G * Q, dV + S * Y
        for t, found in ((dq, dQ), (dk, dK), (dv, dV)):
            put(t, heads, rows, _ORDER, found)
    return dq, dk, dv, T.gradient()


def _lost_by_rounding(taps: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Of the first tap, which a skip connection makes the largest by far, what is lost of it in
    ``dtype``, (H, 1, 1, 1): one step has no need of the outer products."""
    if dtype == taps.dtype:
        return None
    first = taps[:, 0]
    return (first - first.to(dtype))[:, None, None, None]


def _filter(q: Tensor, taps: Tensor, dtype: torch.dtype, fft: bool) -> _Filter:
    return _Spectra(taps, q.shape[1]) if fft else _Strips(taps, q.shape[1], dtype)


class _Strips:
    """T by products with its strips."""

    def __init__(self, taps: Tensor, length: int, dtype: torch.dtype) -> None:
        self.taps, self.dtype = taps, dtype
        self.cut = Cut(length)
        self.padded, self.copies = self.cut.padded, 5
        self.diagonals: Diagonals | None = None

    def forward(self, heads: slice, u: Tensor) -> Tensor:
        cut, y = self.cut, torch.empty_like(u)
        strip = cut.later(self.taps[heads].to(self.dtype))
        for i in range(cut.count):
            end = (i + 1) * cut.steps
            batched_product(strip[..., cut.columns(i)], u[:, :end], y[:, cut.block(i)])
        return y

    def backward(self, heads: slice, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        cut, taps, back = self.cut, self.taps, torch.empty_like(a)
        if self.diagonals is None:
            self.diagonals = Diagonals(cut, taps.shape[0], taps.dtype, taps.device)
        strip = cut.earlier(taps[heads].to(self.dtype))
        for i in range(cut.count):
            start, end = i * cut.steps, (i + 1) * cut.steps
            left = strip[..., : cut.padded - start]
            batched_product(left, a[:, start:], back[:, cut.block(i)])
            entries = a.new_empty((a.shape[0], cut.steps, end), dtype=taps.dtype)
            batched_product(a[:, cut.block(i)], u[:, :end].mT, entries)
            self.diagonals.add(heads, i, entries)
        return self.forward(heads, u), back

    def gradient(self) -> Tensor:
        assert self.diagonals is not None
        return self.diagonals.sums(self.taps.shape[1])


class _Spectra:
    """T by the FFT, in the dtype of the taps."""

    def __init__(self, taps: Tensor, length: int) -> None:
        self.padded, self.copies, self.count = length, 12, taps.shape[1]
        self.size = transform_length(length + self.count - 1)
        # Correlations: with this size negative lags wrap to where nothing is read.
        self.taps = torch.fft.rfft(taps, n=self.size, dim=1).unsqueeze(2)
        self.sums = torch.zeros_like(self.taps.squeeze(2))

    def forward(self, heads: slice, u: Tensor) -> Tensor:
        return self._back(self._of(u).mul_(self.taps[heads]))

    def backward(self, heads: slice, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        of_u, of_a, taps = self._of(u), self._of(a), self.taps[heads]
        self.sums[heads] += (of_u.conj() * of_a).sum(2)
        return self._back(of_u.mul_(taps)), self._back(of_a.mul_(taps.conj()))

    def gradient(self) -> Tensor:
        return torch.fft.irfft(self.sums, n=self.size, dim=1)[:, : self.count].contiguous()

    def _of(self, u: Tensor) -> Tensor:
        return torch.fft.rfft(u, n=self.size, dim=1)

    def _back(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum, n=self.size, dim=1)[:, : self.padded]


def _slices(q: Tensor, v: Tensor, T: _Filter, wide: torch.dtype) -> Iterator[tuple[slice, slice]]:
    batch, _, heads, width = q.shape
    size = T.copies * wide.itemsize * T.padded * width * v.shape[3]
    return slices(heads, batch, size, _BLOCK_BYTES.get(q.device.type, 1 << 26))


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """(H, L, E, B) and (H, L, F, B) -> (H, L, E, F, B)."""
    return one.unsqueeze(3) * other.unsqueeze(2)


def _contract(mixed: Tensor, factor: Tensor, dim: int) -> Tensor:
    """The sum over ``dim`` of mixed times factor, in the latter's dtype."""
    return (mixed * factor).sum(dim)


def _dot(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """weight (H, 1, 1, 1) times the dot products of (H, L, E, B), in weight's dtype: (H, L, 1, B)."""
    return (one * other.to(weight.dtype)).sum(2, keepdim=True).mul_(weight)
