"""The compiled scan, forward and backward: in tasks (some sequences, some tiles of channels).

What happens to the states is in ``recurrence_real`` and ``recurrence_complex``; the type of the
inputs' ``zero`` selects one of them when a kernel is compiled.

Shapes: B batch, L length, D channels, R rows of a state, K steps of a chunk, W channels of a tile.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from ssmlab.ops._cpu import intrinsics
from ssmlab.ops._cpu.compiling import OPTIONS, OPTIONS_WIDE, inline, inline_wide, kernel
from ssmlab.ops._cpu.intrinsics import take
from ssmlab.ops.selective_scan.cpu import chunk, recurrence_complex, recurrence_real, tile
from ssmlab.ops.selective_scan.cpu.chunk import (
    BACKWARD_COLUMNS,
    FORWARD_COLUMNS,
    Place,
    load_chunk,
    load_gradient,
    new_tile,
    start_tile,
    store_chunk,
    store_gradient,
)
from ssmlab.ops.selective_scan.cpu.tile import (
    END_CHANNEL,
    END_SEQUENCE,
    FIRST_CHANNEL,
    FIRST_SEQUENCE,
    GROUP_B,
    GROUP_C,
    LANE,
    SLAB,
    Array,
    Gradients,
    Inputs,
    W,
    load_kept,
    load_state,
    move,
    store,
    store_columns,
    store_state,
    zero,
)

_AHEAD = 16  # steps that the forward pass reads at once; divides a chunk
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


# Not strict, because the recurrences' arguments are annotated and those below are not.
_overload = functools.partial(overload, jit_options=OPTIONS, strict=False)


@_overload(advance, jit_options=OPTIONS_WIDE)
def _advance(x, tile, place, state):
    return _choose(x, recurrence_real.advance, recurrence_complex.advance)


@_overload(again)
def _again(x, tile, place, state, history, gC_t, n0, states):
    return _choose(x, recurrence_real.again, recurrence_complex.again)


@_overload(back)
def _back(x, tile, place, state, history, gB_t, n0, states):
    return _choose(x, recurrence_real.back, recurrence_complex.back)


@inline_wide
def forward_task(x: Inputs, y: Array, last: Array, task: Array) -> None:
    """Of one task, what ``forward`` does."""
    channels, group_B, group_C = x.constants.shape[2], task[GROUP_B], task[GROUP_C]
    const_B, const_C = x.B_t.size == 0, x.C_t.size == 0
    N, R = x.constants.shape[0], last.shape[2]
    tile, state = new_tile(x, _AHEAD, FORWARD_COLUMNS), np.zeros((N, R // N * W), x.u.dtype)
    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w = min(W, task[END_CHANNEL] - d0)
        start_tile(x, tile, d0, w)
        zero(state)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(x.h0, s, d0, state, 0, state.shape[1], w)
            for done in range(0, steps, _AHEAD):
                if x.chunk > 0 and done > 0 and done % x.chunk == 0:
                    store_columns(state, 0, x.kept[k], d0, w)
                    k += 1
                t, count = first + done, min(_AHEAD, steps - done)
                row = b * x.length + t
                place = Place(b, d0, t + _AHEAD, row, count, group_B, group_C, const_B, const_C)
                load_chunk(x, tile, (b, t, d0), count, w)
                advance(x, tile, place, state)
                store_chunk(x, tile, y, row * channels + d0, count, w)
            store_state(state, 0, last, s, d0, w)


@inline
def _put(parts: Array, out: Array, row: int, count: int, adding: bool) -> None:
    """Write a chunk's sums over channels, or add them to those of the slab's earlier tiles."""
    for i in range(count):
        for n in range(parts.shape[1]):
            out[row + i, n] = parts[i, n] + out[row + i, n] if adding else parts[i, n]


@inline
def _backward(x: Inputs, grad_last: Array, grads: Gradients, task: Array) -> None:
    dtype, K, channels = x.u.dtype, x.chunk, x.constants.shape[2]
    N, R, lane, slab = x.constants.shape[0], grads.h0.shape[2], task[LANE], task[SLAB]
    const_B, const_C = x.B_t.size == 0, x.C_t.size == 0
    parts = R // N
    PW = parts * W
    block = min(N, max(1, _HISTORY // (K * parts)))
    tile = new_tile(x, K, BACKWARD_COLUMNS)
    # Of each state: itself, the gradient of it after a step, those of its A, B and C. The sum over
    # a long sequence is taken chunk by chunk, which keeps its rounding error small.
    state, sums = np.zeros((N, 5 * PW), dtype), np.zeros((N, 5 * PW), dtype)
    history = np.zeros((K, block, 2 * PW), dtype)  # the state before each step, and decay - 1
    gB_t, gC_t = np.zeros((K, R), dtype), np.zeros((K, R), dtype)
    gD, gbias = np.zeros(W, dtype), np.zeros(W, dtype)
    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w, adding = min(W, task[END_CHANNEL] - d0), d0 > task[FIRST_CHANNEL]
        start_tile(x, tile, d0, w)
        zero(state)
        zero(sums)
        zero(gD)
        zero(gbias)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(grad_last, s, d0, state, PW, PW, w)
            for c in range((steps + K - 1) // K - 1, -1, -1):
                t, count = first + c * K, min(K, steps - c * K)
                row = b * x.length + t
                place = Place(
                    b, d0, t - K, row, count, task[GROUP_B], task[GROUP_C], const_B, const_C
                )
                load_chunk(x, tile, (b, t, d0), count, w)
                load_gradient(x, tile, (b, t, d0), count, w)
                if c == 0:
                    load_state(x.h0, s, d0, state, 0, PW, w)
                else:
                    load_kept(x.kept[k + c - 1], d0, state, w)
                for n0 in range(0, N, block):
                    states = min(block, N - n0)
                    again(x, tile, place, state, history, gC_t, n0, states)
                    back(x, tile, place, state, history, gB_t, n0, states)
                store_gradient(x, tile, grads, gD, gbias, row * channels + d0, count, w)
                move(state, 2 * PW, 3 * PW, sums)
                if not const_B:
                    _put(gB_t, grads.B_t[slab], row, count, adding)
                if not const_C:
                    _put(gC_t, grads.C_t[slab], row, count, adding)
            store_state(state, PW, grads.h0, s, d0, w)
        store_columns(sums, 2 * PW, grads.A[lane], d0, w)
        if const_B:
            store_columns(sums, 3 * PW, grads.B[lane], d0, w)
        if const_C:
            store_columns(sums, 4 * PW, grads.C[lane], d0, w)
        store(gD, grads.D[lane], d0, w)
        store(gbias, grads.bias[lane], d0, w)


_kernel = kernel(
    __file__,
    *(str(m.__file__) for m in (intrinsics, chunk, recurrence_complex, recurrence_real, tile)),
)


# Each takes tasks, counted in taken[0], until there are no more.
@_kernel
def forward(x: Inputs, y: Array, last: Array, tasks: Array, taken: Array) -> None:
    """Write y, the last states and, if x.chunk > 0, the states at the ends of chunks."""
    i = take(taken)
    while i < tasks.shape[0]:
        forward_task(x, y, last, tasks[i])
        i = take(taken)


@_kernel
def backward(x: Inputs, grad_last: Array, grads: Gradients, tasks: Array, taken: Array) -> None:
    """Write every gradient. Chunks go back in time; each is first run forwards again."""
    i = take(taken)
    while i < tasks.shape[0]:
        _backward(x, grad_last, grads, tasks[i])
        i = take(taken)
