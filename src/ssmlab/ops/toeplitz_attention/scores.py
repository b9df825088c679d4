"""Toeplitz attention by its scores: y = (Q Kᵀ ⊙ T) V, and its gradients, in slices.

Shapes: B batch, L length, H heads, E width of q and k, F width of v, T taps; blocks of P steps as in
``toeplitz``. A block of outputs meets only the inputs up to its end. With S = Q Kᵀ, M = S ⊙ T and
G = dY Vᵀ:

    dV = Mᵀ dY,   dQ = (G ⊙ T) K,   dK = (G ⊙ T)ᵀ Q,   dh[d] = sum of (S ⊙ G) along diagonal d

Products take operands of ``dtype`` and give sums in ``taps``' dtype, in which the mask is, too.
Scores are kept for some heads, some of the batch and one block of outputs at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ssmlab.ops._products import batched_product, entry_dtype
from ssmlab.ops.toeplitz_attention.toeplitz import Cut, Diagonals, arrange, put, slices

# Scores in memory at a time.
_ENTRIES = {"cuda": 1 << 26, "cpu": 1 << 20}
_ORDER = (2, 0, 1, 3)  # slices are (H, B, n P, E)


def forward(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, dtype: torch.dtype) -> Tensor:
    """y (B, L, H, F) in q's dtype; taps (H, T <= L)."""
    y = v.new_empty(v.shape)
    cut = Cut(q.shape[1])
    strip = cut.later(taps).unsqueeze(1)
    for heads, rows in _slices(q, cut):
        Q, K, V = (arrange(t, heads, rows, _ORDER, cut.padded, dtype) for t in (q, k, v))
        result = V.new_empty(V.shape)
        for i in range(cut.count):
            block, end = cut.block(i), (i + 1) * cut.steps
            S = _product(Q[:, :, block], K[:, :, :end].mT, entry_dtype(dtype, taps.dtype))
            M = _weigh(S, strip[heads, ..., cut.columns(i)], dtype)
            batched_product(M, V[:, :, :end], result[:, :, block])
        put(y, heads, rows, _ORDER, result)
    return y


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by q, k and v in their dtypes, and by taps."""
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    wide, entry = taps.dtype, entry_dtype(dtype, taps.dtype)
    cut = Cut(q.shape[1])
    strip = cut.later(taps).unsqueeze(1)
    diagonals = Diagonals(cut, q.shape[2], wide, q.device)
    for heads, rows in _slices(q, cut):
        Q, K, V, Y = (arrange(t, heads, rows, _ORDER, cut.padded, dtype) for t in (q, k, v, grad))
        dQ, dK, dV = (t.new_zeros(t.shape, dtype=wide) for t in (Q, K, V))
        for i in range(cut.count):
            block, end = cut.block(i), (i + 1) * cut.steps
            mask = strip[heads, ..., cut.columns(i)]
            S = _product(Q[:, :, block], K[:, :, :end].mT, entry)
            G = _product(Y[:, :, block], V[:, :, :end].mT, entry)
            M = _weigh(S, mask, dtype)
            dV[:, :, :end] += _product(M.mT, Y[:, :, block], wide)
            del M
            diagonals.add(heads, i, (S.to(wide) * G).sum(1))
            del S
            G = _weigh(G, mask, dtype)
            batched_product(G, K[:, :, :end], dQ[:, :, block])
            dK[:, :, :end] += _product(G.mT, Q[:, :, block], wide)
            del G
        for t, found in ((dq, dQ), (dk, dK), (dv, dV)):
            put(t, heads, rows, _ORDER, found)
    return dq, dk, dv, diagonals.sums(taps.shape[1])


def _slices(q: Tensor, cut: Cut) -> Iterator[tuple[slice, slice]]:
    batch, _, heads, _ = q.shape
    budget = _ENTRIES.get(q.device.type, 1 << 20)
    return slices(heads, batch, cut.steps * cut.padded, budget)


def _weigh(scores: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """scores times mask, which is of the wide dtype, rounded once."""
    if scores.dtype == mask.dtype == dtype:
        return scores * mask
    return torch.mul(scores, mask, out=scores.new_empty(scores.shape, dtype=dtype))


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    out = a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=dtype)
    batched_product(a, b, out)
    return out
