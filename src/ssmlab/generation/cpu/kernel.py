"""One token through a whole stack of Mamba blocks, by several threads that meet thrice a block.

Thread t owns a slice of the D channels in every block: of them it computes the input projection, the
convolution, its share of x_proj's sums, and the state; and it owns rows of out_proj, which it reads
from end to end as memory likes it best. Threads meet where x_proj's sums, the channels and
out_proj's rows are complete. The rest of width M each thread computes for itself.

Shapes: B rows of the batch, M model width, D channels, N state, R rank of Δ, W taps, V vocabulary, T
threads. Source of the arithmetic: Algorithm 2 and section 3.4 of arXiv 2312.00752, one step.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from ssmlab.generation.cpu import matvec, sync
from ssmlab.generation.cpu.matvec import product
from ssmlab.generation.cpu.sync import barrier, call_int, integers, pointer
from ssmlab.ops._cpu import compiling, intrinsics
from ssmlab.ops._cpu.compiling import inline
from ssmlab.ops._cpu.maths import expm1_base2, log1p_unit
from ssmlab.ops.selective_scan.cpu.tile import Array

# All files that the code below is compiled from.
SOURCES = (__file__, *(str(m.__file__) for m in (intrinsics, matvec, sync)))

# Columns of the table of addresses; 0 where a block has no such tensor.
NORM, IN, IN_BIAS, CONV, CONV_BIAS, X, DT, DT_BIAS, A, SKIP, OUT, OUT_BIAS = range(12)
COLUMNS = 12

_LOG2E = np.float32(1.4426950408889634)


class Sizes(NamedTuple):
    """M, D, N, R, W and V of the model, how many blocks, B, T, ``ahead`` of ``matvec.product``."""

    model: int
    channels: int
    states: int
    rank: int
    taps: int
    vocabulary: int
    blocks: int
    batch: int
    threads: int
    ahead: int


class Buffers(NamedTuple):
    """What is read and written at every step; float32 but where said."""

    ids: Array  # (B,) int64
    embedding: Array  # (V or more, M)
    head: Array  # (V or more, M)
    norm_f: Array  # (M,)
    eps: Array  # (1,), of the norms
    table: Array  # (blocks, COLUMNS) int64, addresses of the blocks' weights
    conv: Array  # (blocks, B, W-1, D), the last inputs of the convolutions
    ssm: Array  # (blocks, B, N, D), the states
    residual: Array  # (T, B, M), each thread's own
    normed: Array  # (T, B, M), each thread's own
    xz: Array  # (B, 2D)
    low_rank: Array  # (T, B, R + 2N), each thread's part of x_proj's sums
    signals: Array  # (T, B, R + 2N), each thread's copy of the whole sums
    delta: Array  # (B, D)
    out: Array  # (B, M), what a block adds to the residual
    logits: Array  # (B, V)
    counter: Array  # (2,) int64, of the barrier
    slices: Array  # (T + 1,) int64, first channel of each thread
    widths: Array  # (T + 1,) int64, first row of out_proj of each thread
    rows: Array  # (T + 1,) int64, first token of each thread


@inline
def _normalise(residual: Any, weight: Any, eps: Any, out: Any) -> None:
    """RMSNorm of every row of the batch."""
    for b in range(residual.shape[0]):
        total = np.float32(0)
        for m in range(residual.shape[1]):
            total += residual[b, m] * residual[b, m]
        scale = np.float32(1) / np.sqrt(total / np.float32(residual.shape[1]) + eps)
        for m in range(residual.shape[1]):
            out[b, m] = residual[b, m] * scale * weight[m]


@inline
def _silu(x: Any) -> Any:
    return x / (expm1_base2(-x * _LOG2E) + np.float32(2))


@inline
def _convolve(
    xz: Any, window: Any, weight: Any, bias: Any, has_bias: bool, d0: int, d1: int
) -> None:
    """xz[:d0..d1] becomes silu(conv(x)), window moves on by one step; one row of the batch."""
    taps = weight.shape[0]
    for d in range(d0, d1):
        total = weight[taps - 1, d] * xz[d]
        if has_bias:
            total += bias[d]
        for w in range(taps - 1):
            total += weight[w, d] * window[w, d]
        for w in range(taps - 2):
            window[w, d] = window[w + 1, d]
        if taps > 1:
            window[taps - 2, d] = xz[d]
        xz[d] = _silu(total)


@inline
def _advance(
    h: Any, A: Any, delta: Any, u: Any, z: Any, skip: Any, B: Any, C: Any, d0: int, d1: int
) -> None:
    """One step of the state of channels d0..d1; u becomes the gated output."""
    y = np.zeros(d1 - d0, np.float32)
    for n in range(h.shape[0]):
        Bn, Cn, hn, An = B[n], C[n], h[n, d0:d1], A[n, d0:d1]
        dn, un = delta[d0:d1], u[d0:d1]
        for d in range(d1 - d0):
            kicked = hn[d] + dn[d] * un[d] * Bn
            now = expm1_base2(dn[d] * An[d]) * hn[d] + kicked
            hn[d] = now
            y[d] += now * Cn
    for d in range(d0, d1):
        u[d] = (y[d - d0] + skip[d] * u[d]) * _silu(z[d])


@inline
def _softplus(row: Any, bias: Any, d0: int, d1: int) -> None:
    for d in range(d0, d1):
        x = row[d] + bias[d]
        e = expm1_base2(-abs(x) * _LOG2E) + np.float32(1)
        row[d] = (np.float32(0) if x < np.float32(0) else x) + log1p_unit(e)


@inline
def _add_parts(parts: Any, residual: Any) -> None:
    """residual += the sum of all parts, in the same order in every thread."""
    for b in range(residual.shape[0]):
        for t in range(parts.shape[0]):
            part = parts[t, b]
            for m in range(residual.shape[1]):
                residual[b, m] += part[m]


@compiling.kernel(*SOURCES)
def decode(x: Buffers, sizes: Sizes, thread: int) -> None:
    """Thread ``thread``'s part of one step: x.ids -> x.logits, states moved on."""
    M, D, N, R, W, _, blocks, batch, threads, ahead = sizes
    d0, d1 = x.slices[thread], x.slices[thread + 1]
    residual, normed = x.residual[thread], x.normed[thread]
    low_rank, signals = x.low_rank[thread], x.signals[thread]
    S = R + 2 * N
    for b in range(batch):
        residual[b, :] = x.embedding[x.ids[b], :]
    for block in range(blocks):
        at = x.table[block]
        _normalise(residual, carray(pointer(at[NORM]), (M,)), x.eps[0], normed)
        w_in = carray(pointer(at[IN]), (2 * D, M))
        product(w_in, d0, d1, 0, M, normed, 0, x.xz, ahead)
        product(w_in, D + d0, D + d1, 0, M, normed, 0, x.xz, ahead)
        if at[IN_BIAS] != 0:
            bias = carray(pointer(at[IN_BIAS]), (2 * D,))
            for b in range(batch):
                for d in range(d0, d1):
                    x.xz[b, d] += bias[d]
                    x.xz[b, D + d] += bias[D + d]
        w_conv, has_bias = carray(pointer(at[CONV]), (W, D)), at[CONV_BIAS] != 0
        b_conv = carray(pointer(at[CONV_BIAS] if has_bias else at[CONV]), (D,))
        for b in range(batch):
            _convolve(x.xz[b], x.conv[block, b], w_conv, b_conv, has_bias, d0, d1)
        product(carray(pointer(at[X]), (S, D)), 0, S, d0, d1, x.xz, d0, low_rank, ahead)
        barrier(x.counter, threads)
        signals[:, :] = np.float32(0)
        _add_parts(x.low_rank, signals)
        product(carray(pointer(at[DT]), (D, R)), d0, d1, 0, R, signals, 0, x.delta, ahead)
        A_, skip = carray(pointer(at[A]), (N, D)), carray(pointer(at[SKIP]), (D,))
        b_dt = carray(pointer(at[DT_BIAS]), (D,))
        for b in range(batch):
            _softplus(x.delta[b], b_dt, d0, d1)
            _advance(
                x.ssm[block, b],
                A_,
                x.delta[b],
                x.xz[b, :D],
                x.xz[b, D:],
                skip,
                signals[b, R : R + N],
                signals[b, R + N :],
                d0,
                d1,
            )
        barrier(x.counter, threads)
        m0, m1 = x.widths[thread], x.widths[thread + 1]
        product(carray(pointer(at[OUT]), (M, D)), m0, m1, 0, D, x.xz, 0, x.out, ahead)
        barrier(x.counter, threads)
        for b in range(batch):
            for m in range(M):
                residual[b, m] += x.out[b, m]
        if at[OUT_BIAS] != 0:
            bias = carray(pointer(at[OUT_BIAS]), (M,))
            for b in range(batch):
                for m in range(M):
                    residual[b, m] += bias[m]
    _normalise(residual, x.norm_f, x.eps[0], normed)
    product(x.head, x.rows[thread], x.rows[thread + 1], 0, M, normed, 0, x.logits, ahead)


# Numbers at the start of a call's table; then come Sizes, then the addresses of Buffers.
SIZE_OF_TEAM, NUMBER_IN_TEAM, TOO_FEW = range(3)
_SIZES = 3
_BUFFERS = _SIZES + len(Sizes._fields)
_LENGTH = _BUFFERS + len(Buffers._fields)


def call_table(x: Buffers, sizes: Sizes, size_of_team: int, number_in_team: int) -> Array:
    """What ``enter`` needs, (_LENGTH,) int64; good for as long as the buffers live."""
    addresses = [array.ctypes.data for array in x]
    return np.array([size_of_team, number_in_team, 0, *sizes, *addresses], np.int64)


def enter(argument: Any) -> None:
    """``decode`` as OpenMP calls it, with the address of a call's table.

    With another number of threads than the table's it does nothing but say so there: those who came
    would wait for the others for ever.
    """
    call = carray(argument, (_LENGTH,), np.int64)
    s = Sizes(
        call[_SIZES],
        call[_SIZES + 1],
        call[_SIZES + 2],
        call[_SIZES + 3],
        call[_SIZES + 4],
        call[_SIZES + 5],
        call[_SIZES + 6],
        call[_SIZES + 7],
        call[_SIZES + 8],
        call[_SIZES + 9],
    )
    if call_int(call[SIZE_OF_TEAM]) != s.threads:
        call[TOO_FEW] = 1
        return
    a = call[_BUFFERS:]
    B, D, M, T, V, S = s.batch, s.channels, s.model, s.threads, s.vocabulary, s.rank + 2 * s.states
    x = Buffers(
        carray(integers(a[0]), (B,)),
        carray(pointer(a[1]), (V, M)),
        carray(pointer(a[2]), (V, M)),
        carray(pointer(a[3]), (M,)),
        carray(pointer(a[4]), (1,)),
        carray(integers(a[5]), (s.blocks, COLUMNS)),
        carray(pointer(a[6]), (s.blocks, B, s.taps - 1, D)),
        carray(pointer(a[7]), (s.blocks, B, s.states, D)),
        carray(pointer(a[8]), (T, B, M)),
        carray(pointer(a[9]), (T, B, M)),
        carray(pointer(a[10]), (B, 2 * D)),
        carray(pointer(a[11]), (T, B, S)),
        carray(pointer(a[12]), (T, B, S)),
        carray(pointer(a[13]), (B, D)),
        carray(pointer(a[14]), (B, M)),
        carray(pointer(a[15]), (B, V)),
        carray(integers(a[16]), (2,)),
        carray(integers(a[17]), (T + 1,)),
        carray(integers(a[18]), (T + 1,)),
        carray(integers(a[19]), (T + 1,)),
    )
    decode(x, s, call_int(call[NUMBER_IN_TEAM]))
