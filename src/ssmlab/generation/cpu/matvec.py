"""Products of a matrix with one or a few vectors, as fast as the matrix can be read.

The matrix is read once, row after row; the vectors stay in the first cache. Reading sets the pace
for few vectors, and rows next to each other come at half the speed if they are read at once; so only
where there are many vectors do four rows meet four of them at a time, each number read used sixteen
times a load. The processor foresees one long read, not parts of rows, nor rows with much to do in
between: there it is told what comes next. Some processors gain by being told of whole rows too
(a third on Intel's of 2023), others lose by it (a fifth on AMD's of 2017): see ``fetching``.

Shapes: B vectors, K columns.
"""

from typing import Any

from ssmlab.ops._cpu.compiling import inline, inline_sum
from ssmlab.ops._cpu.intrinsics import LINE, prefetch

_AHEAD = 2  # rows, where it is always told
ALWAYS_TOLD = 4  # vectors, from which on there is so much to do between rows
_MANY = 12  # vectors, from which on arithmetic sets the pace


@inline_sum
def _dot(w: Any, x: Any) -> Any:
    total = w.dtype.type(0)
    for k in range(x.shape[0]):
        total += w[k] * x[k]
    return total


@inline_sum
def _dot_1x4(w: Any, x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    a0 = a1 = a2 = a3 = w.dtype.type(0)
    for k in range(w.shape[0]):
        a0 += w[k] * x0[k]
        a1 += w[k] * x1[k]
        a2 += w[k] * x2[k]
        a3 += w[k] * x3[k]
    return a0, a1, a2, a3


@inline_sum
def _dot_4x4(w0: Any, w1: Any, w2: Any, w3: Any, x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    a00 = a01 = a02 = a03 = w0.dtype.type(0)
    a10 = a11 = a12 = a13 = w0.dtype.type(0)
    a20 = a21 = a22 = a23 = w0.dtype.type(0)
    a30 = a31 = a32 = a33 = w0.dtype.type(0)
    for k in range(w0.shape[0]):
        a00 += w0[k] * x0[k]
        a01 += w0[k] * x1[k]
        a02 += w0[k] * x2[k]
        a03 += w0[k] * x3[k]
        a10 += w1[k] * x0[k]
        a11 += w1[k] * x1[k]
        a12 += w1[k] * x2[k]
        a13 += w1[k] * x3[k]
        a20 += w2[k] * x0[k]
        a21 += w2[k] * x1[k]
        a22 += w2[k] * x2[k]
        a23 += w2[k] * x3[k]
        a30 += w3[k] * x0[k]
        a31 += w3[k] * x1[k]
        a32 += w3[k] * x2[k]
        a33 += w3[k] * x3[k]
    return a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33


@inline
def _fetch(row: Any) -> None:
    for k in range(0, row.shape[0], LINE):
        prefetch(row, k)


@inline
def product(
    weight: Any,
    first: int,
    end: int,
    k0: int,
    k1: int,
    x: Any,
    x0: int,
    out: Any,
    ahead: int,
) -> None:
    """out[b, r] = weight[r, k0:k1] . x[b, x0 : x0 + k1 - k0], for first <= r < end and all b.

    ``ahead`` is how far before their use whole rows are asked for, in numbers; 0 does not ask.
    """
    batch, width = x.shape[0], k1 - k0
    told = batch >= ALWAYS_TOLD or width < weight.shape[1]
    rows = _AHEAD if told else (max(1, ahead // width) if ahead > 0 else 0)
    whole = batch // 4 * 4
    r = first
    if batch >= _MANY:
        while r + 4 <= end:
            for i in range(r + 4, min(r + 8, end)):
                _fetch(weight[i, k0:k1])
            for b in range(0, whole, 4):
                sums = _dot_4x4(
                    weight[r, k0:k1],
                    weight[r + 1, k0:k1],
                    weight[r + 2, k0:k1],
                    weight[r + 3, k0:k1],
                    x[b, x0 : x0 + width],
                    x[b + 1, x0 : x0 + width],
                    x[b + 2, x0 : x0 + width],
                    x[b + 3, x0 : x0 + width],
                )
                out[b, r], out[b + 1, r], out[b + 2, r], out[b + 3, r] = sums[0:4]
                out[b, r + 1], out[b + 1, r + 1], out[b + 2, r + 1], out[b + 3, r + 1] = sums[4:8]
                out[b, r + 2], out[b + 1, r + 2], out[b + 2, r + 2], out[b + 3, r + 2] = sums[8:12]
                out[b, r + 3], out[b + 1, r + 3], out[b + 2, r + 3], out[b + 3, r + 3] = sums[12:16]
            for b in range(whole, batch):
                for i in range(4):
                    out[b, r + i] = _dot(weight[r + i, k0:k1], x[b, x0 : x0 + width])
            r += 4
    while r < end:
        row = weight[r, k0:k1]
        if rows > 0 and r + rows < end:
            _fetch(weight[r + rows, k0:k1])
        for b in range(0, whole, 4):
            a0, a1, a2, a3 = _dot_1x4(
                row,
                x[b, x0 : x0 + width],
                x[b + 1, x0 : x0 + width],
                x[b + 2, x0 : x0 + width],
                x[b + 3, x0 : x0 + width],
            )
            out[b, r], out[b + 1, r], out[b + 2, r], out[b + 3, r] = a0, a1, a2, a3
        for b in range(whole, batch):
            out[b, r] = _dot(row, x[b, x0 : x0 + width])
        r += 1
