"""The compiled scan, forward and backward: one task (some sequences, some tiles of channels) a call.

What happens to the states is in ``recurrence_real`` and ``recurrence_complex``; the type of the
inputs' ``zero`` selects one of them when a kernel is compiled.

Shapes: B batch, L length, D channels, R rows of a state, K steps of a chunk, W channels of a tile.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.caching import NullCache
from numba.extending import overload

from ssmlab.ops.selective_scan.cpu import chunk, maths, recurrence_complex, recurrence_real, tile
from ssmlab.ops.selective_scan.cpu.chunk import (
    History,
    Place,
    Sums,
    load_chunk,
    load_gradient,
    new_rows,
    new_tile,
    start_tile,
    store_chunk,
    store_gradient,
)
from ssmlab.ops.selective_scan.cpu.maths import FLAGS
from ssmlab.ops.selective_scan.cpu.tile import (
    END_CHANNEL,
    END_SEQUENCE,
    FIRST_CHANNEL,
    FIRST_SEQUENCE,
    GROUP_B,
    GROUP_C,
    LANE,
    OPTIONS,
    SLAB,
    Array,
    Gradients,
    Inputs,
    W,
    add_columns,
    inline,
    load_columns,
    load_state,
    store,
    store_columns,
    store_state,
    zero,
)
from ssmlab.ops.selective_scan.operator import CHUNK

_HISTORY = 512  # rows of it at a time, so that a chunk's history stays in the second-level cache


def advance(*args: Any) -> None:
    """The ``advance`` of the recurrence."""
    raise NotImplementedError("compiled code only")


def again(*args: Any) -> None:
    """The ``again`` of the recurrence."""
    raise NotImplementedError("compiled code only")


def back(*args: Any) -> None:
    """The ``back`` of the recurrence."""
    raise NotImplementedError("compiled code only")


def _choose(x: Any, real: Callable[..., None], complex_: Callable[..., None]) -> Any:
    return complex_ if isinstance(x.types[x.fields.index("zero")], types.Complex) else real


_overload = functools.partial(
    overload, jit_options={"fastmath": FLAGS, **OPTIONS}, strict=False
)  # not strict: the recurrences' arguments are annotated


@_overload(advance)
def _advance(x, tile, rows, place, h):
    return _choose(x, recurrence_real.advance, recurrence_complex.advance)


@_overload(again)
def _again(x, tile, rows, place, history, sums, h, n0, states):
    return _choose(x, recurrence_real.again, recurrence_complex.again)


@_overload(back)
def _back(x, tile, rows, place, history, sums, carry, gh, n0, states):
    return _choose(x, recurrence_real.back, recurrence_complex.back)


@inline
def _forward(x: Inputs, y: Array, last: Array, task: Array) -> None:
    R, group_B, group_C = last.shape[2], task[GROUP_B], task[GROUP_C]
    tile, rows, h = new_tile(x, R), new_rows(x, CHUNK, False), np.zeros((R, W), x.u.dtype)
    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w = min(W, task[END_CHANNEL] - d0)
        start_tile(x, tile, rows, d0, w)
        zero(h)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(x.h0, s, d0, h, w)
            for done in range(0, steps, CHUNK):
                if x.chunk > 0 and done > 0 and done % x.chunk == 0:
                    store_columns(h, x.kept[k], d0, w)
                    k += 1
                t, count = first + done, min(CHUNK, steps - done)
                row = b * x.length + t
                load_chunk(x, tile, rows, b, t, count, d0, w)
                advance(x, tile, rows, Place(row, count, group_B, group_C), h)
                store_chunk(x, rows, y, row, count, d0, w)
            store_state(h, last, s, d0, w)


@inline
def _put(parts: Array, out: Array, row: int, count: int, adding: bool) -> None:
    """Write a chunk's sums over channels, or add them to those of the slab's earlier tiles."""
    for i in range(count):
        for n in range(parts.shape[1]):
            out[row + i, n] = parts[i, n] + out[row + i, n] if adding else parts[i, n]


@inline
def _backward(x: Inputs, grad_last: Array, grads: Gradients, task: Array) -> None:
    dtype, K, N, R = x.u.dtype, x.chunk, x.states, grads.h0.shape[2]
    parts, lane, slab = R // N, task[LANE], task[SLAB]
    group_B, group_C = task[GROUP_B], task[GROUP_C]
    const_B, const_C = x.B.size > 0, x.C.size > 0
    block = min(N, max(1, _HISTORY // (K * parts)))
    tile, rows = new_tile(x, R), new_rows(x, K, True)
    h, carry, gh = np.zeros((R, W), dtype), np.zeros((R, W), dtype), np.zeros((parts, W), dtype)
    history = History(
        np.zeros((K, parts * block, W), dtype), np.zeros((K, parts * block, W), dtype)
    )
    gA, gB, gC = np.zeros((R, W), dtype), np.zeros((R, W), dtype), np.zeros((R, W), dtype)
    # The sum over a long sequence is taken chunk by chunk, which keeps its rounding error small.
    sums = Sums(
        np.zeros((R, W), dtype),
        np.zeros((R, W), dtype),
        np.zeros((R, W), dtype),
        np.zeros((K, R), dtype),
        np.zeros((K, R), dtype),
    )
    gD, gbias = np.zeros(W, dtype), np.zeros(W, dtype)

    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w, adding = min(W, task[END_CHANNEL] - d0), d0 > task[FIRST_CHANNEL]
        start_tile(x, tile, rows, d0, w)
        for matrix in (h, carry, gA, gB, gC):
            zero(matrix)
        zero(gD)
        zero(gbias)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(grad_last, s, d0, carry, w)
            for c in range((steps + K - 1) // K - 1, -1, -1):
                t, count = first + c * K, min(K, steps - c * K)
                row = b * x.length + t
                place = Place(row, count, group_B, group_C)
                load_chunk(x, tile, rows, b, t, count, d0, w)
                load_gradient(x, rows, b, t, count, d0, w)
                if c == 0:
                    load_state(x.h0, s, d0, h, w)
                else:
                    load_columns(x.kept[k + c - 1], d0, h, w)
                for n0 in range(0, N, block):
                    states = min(block, N - n0)
                    again(x, tile, rows, place, history, sums, h, n0, states)
                    back(x, tile, rows, place, history, sums, carry, gh, n0, states)
                store_gradient(x, tile, rows, grads, gD, gbias, row, count, d0, w)
                add_columns(sums.A, gA)
                if const_B:
                    add_columns(sums.B, gB)
                else:
                    _put(sums.B_t, grads.B_t[slab], row, count, adding)
                if const_C:
                    add_columns(sums.C, gC)
                else:
                    _put(sums.C_t, grads.C_t[slab], row, count, adding)
            store_state(carry, grads.h0, s, d0, w)
        store_columns(gA, grads.A[lane], d0, w)
        if const_B:
            store_columns(gB, grads.B[lane], d0, w)
        if const_C:
            store_columns(gC, grads.C[lane], d0, w)
        store(gD, grads.D[lane], d0, w)
        store(gbias, grads.bias[lane], d0, w)


def _compiled(function: Any) -> Any:
    """Compile without the interpreter's lock, keeping the code on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True, fastmath=FLAGS, **OPTIONS)(function)
    except RuntimeError:  # no folder for the cache can be written to
        return njit(nogil=True, fastmath=FLAGS, **OPTIONS)(function)


def _make(sources: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The two kernels.

    The compiler finds stored code by the time of this file alone. A variable of the closure belongs
    to the key too, so a digest of all sources keeps code compiled from an older version from
    being run.
    """

    @_compiled
    def forward(x, y, last, task):
        """Write y, the last states and, if x.chunk > 0, the states at the ends of chunks."""
        assert sources
        _forward(x, y, last, task)

    @_compiled
    def backward(x, grad_last, grads, task):
        """Write every gradient. Chunks go back in time; each is first run forwards again."""
        assert sources
        _backward(x, grad_last, grads, task)

    return forward, backward


def _digest(*files: str) -> int:
    content = b"".join(Path(file).read_bytes() for file in files)
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") | 1


_SOURCES = (
    __file__,
    *(str(m.__file__) for m in (chunk, maths, recurrence_complex, recurrence_real, tile)),
)
forward, backward = _make(_digest(*_SOURCES) + CHUNK)


def forget_cache() -> None:
    """Keep compiled code in memory only, from now on."""
    for kernel in (forward, backward):
        kernel._cache = NullCache()  # type: ignore[attr-defined]
