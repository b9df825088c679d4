"""What a block does to a text between its products: norm, convolution, scan, each compiled.

Each is a C function of one address, that of a row of a table (int64): sizes, and where things lie.
It may be called on any number of threads at once, which share the work out among them. All of a
text's rows are made before the first is used, so that between two products there is nothing for
Python to do but one call.

Shapes: T tokens of all texts, S texts, M model width, D channels, N state, R rank of Δ, W taps.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from ssmlab.generation.cpu import sync
from ssmlab.generation.cpu.sync import integers, pointer
from ssmlab.ops._cpu import intrinsics
from ssmlab.ops._cpu.compiling import address_of, expand_sum
from ssmlab.ops._cpu.intrinsics import take
from ssmlab.ops.causal_conv1d import elements
from ssmlab.ops.causal_conv1d import kernels as convolution
from ssmlab.ops.selective_scan.cpu import chunk, recurrence_complex, recurrence_real, tile
from ssmlab.ops.selective_scan.cpu import kernels as selective_scan
from ssmlab.ops.selective_scan.cpu.tile import TASK_FIELDS, Inputs

COLUMNS = 37  # of the table. Sizes:
(
    TOKENS,
    LENGTH,  # of a batch entry
    TEXTS,
    MODEL,
    CHANNELS,
    STATES,
    RANK,
    TAPS,
    NORM_TASKS,
    CONV_TASKS,
    SCAN_TASKS,
    # Where things lie, float32 but where said. What all blocks share:
    RESIDUAL,  # (T, M)
    NORMED,  # (T, M)
    SIGNALS,  # (T, R + 2N): Δ's low rank, B, C
    X,  # (T, D), what the convolution makes
    DELTA,  # (T, D), overwritten by the scan's output
    BOUNDS,  # (S + 1,) int64, where texts begin among all rows, and the end
    SEQUENCES,  # (S, 4) int64, as the scan's plan has them
    SCAN_PLAN,  # (scan tasks, TASK_FIELDS) int64
    # A block's own:
    EPS,  # (1,)
    NORM,  # (M,)
    XZ,  # (T, D or more): the convolution's inputs, and with a gate that, from column D on
    ROW,  # a size: from a row of XZ to the next
    GATED,  # a size: whether there is a gate
    TAPS_AT,  # (W, D)
    CONV_BIAS,  # (D,) or 0
    A,  # (N, D), times log2(e)
    SKIP,  # (D,)
    DT_BIAS,  # (D,)
    CONV_BEFORE,  # (S, W - 1, D)
    CONV_AFTER,  # (S, W - 1, D)
    SSM_BEFORE,  # (S, D, N)
    SSM_AFTER,  # (S, D, N)
    NORM_TAKEN,  # a count of tasks given out, 0 before a call; so are the next three
    CONV_TAKEN,
    TEXTS_TAKEN,
    SCAN_TAKEN,
) = range(COLUMNS)

NORM_ROWS = 16  # of a task

_ONE = np.float32(1)
_LOG2E = np.float32(1.4426950408889634)


@expand_sum
def _sum_of_squares(row: Any) -> Any:
    total = row.dtype.type(0)
    for k in range(row.shape[0]):
        total += row[k] * row[k]
    return total


def norm(argument: Any) -> None:
    """NORMED = RMSNorm of RESIDUAL: h / sqrt(mean(h²) + eps) * weight."""
    at = carray(argument, (COLUMNS,), np.int64)
    rows, width = at[TOKENS], at[MODEL]
    h, y = carray(pointer(at[RESIDUAL]), (rows, width)), carray(pointer(at[NORMED]), (rows, width))
    weight, eps = carray(pointer(at[NORM]), (width,)), carray(pointer(at[EPS]), (1,))[0]
    task = take(at[NORM_TAKEN:])
    while task < at[NORM_TASKS]:
        for t in range(task * NORM_ROWS, min(rows, task * NORM_ROWS + NORM_ROWS)):
            scale = _ONE / np.sqrt(_sum_of_squares(h[t]) / np.float32(width) + eps)
            for k in range(width):
                y[t, k] = h[t, k] * scale * weight[k]
        task = take(at[NORM_TAKEN:])


def convolve(argument: Any) -> None:
    """X = silu(conv(XZ[:, :D])), CONV_AFTER = the last W - 1 inputs of each text."""
    at = carray(argument, (COLUMNS,), np.int64)
    T, D, W, S, row = at[TOKENS], at[CHANNELS], at[TAPS], at[TEXTS], at[ROW]
    bounds = carray(integers(at[BOUNDS]), (S + 1,))
    no_padding = np.zeros(S, np.bool_)
    shape, source = (T, at[LENGTH], D, W, 1), (at[XZ], at[LENGTH] * row, row)
    addresses = at[TAPS_AT], at[CONV_BIAS], at[CONV_BEFORE], at[X]
    task = take(at[CONV_TAKEN:])
    while task < at[CONV_TASKS]:
        convolution.forward_block(task, shape, bounds, no_padding, source, addresses, _ONE, _ONE)
        task = take(at[CONV_TAKEN:])
    inputs = carray(pointer(at[XZ]), (T * row,))
    before = carray(pointer(at[CONV_BEFORE]), (S, W - 1, D))
    after = carray(pointer(at[CONV_AFTER]), (S, W - 1, D))
    text = take(at[TEXTS_TAKEN:])
    while text < S:
        first = bounds[text + 1] - (W - 1)
        for w in range(W - 1):
            if first + w < bounds[text]:
                # A text shorter than that keeps the newest of what was before it.
                old = first + w - bounds[text] + W - 1
                for d in range(D):
                    after[text, w, d] = before[text, old, d]
            else:
                new = inputs[(first + w) * row :]
                for d in range(D):
                    after[text, w, d] = new[d]
        text = take(at[TEXTS_TAKEN:])


def scan(argument: Any) -> None:
    """DELTA = the scan's output, with its gate if there is one, SSM_AFTER = the last states."""
    at = carray(argument, (COLUMNS,), np.int64)
    T, D, N, R, S = at[TOKENS], at[CHANNELS], at[STATES], at[RANK], at[TEXTS]
    row, length = at[ROW], at[LENGTH]
    strides = np.zeros((4, 3), np.int64)
    strides[0], strides[1], strides[2] = (
        (length * D, D, 1),
        (length * D, D, 1),
        (length * row, row, 1),
    )
    delta = carray(pointer(at[DELTA]), (T * D,))
    signals = carray(pointer(at[SIGNALS]), (T, 1, R + 2 * N))
    gates = (T - 1) * row + D if at[GATED] != 0 else 0
    x = Inputs(
        carray(pointer(at[X]), (T * D,)),
        delta,
        carray(pointer(at[XZ] + 4 * D), (gates,)),
        carray(pointer(at[X]), (0,)),
        strides,
        carray(pointer(at[A]), (N, 1, D)),  # B and C, given per step, need no columns
        signals[:, :, R : R + N],
        signals[:, :, R + N :],
        carray(pointer(at[SKIP]), (D,)),
        carray(pointer(at[DT_BIAS]), (D,)),
        carray(pointer(at[SSM_BEFORE]), (S, D, N)),
        carray(pointer(at[X]), (0, 0, 0)),
        carray(integers(at[SEQUENCES]), (S, 4)),
        length,
        0,
        True,
        _LOG2E,
        (delta,),
        np.float32(0),
    )
    last = carray(pointer(at[SSM_AFTER]), (S, D, N))
    tasks = carray(integers(at[SCAN_PLAN]), (at[SCAN_TASKS], TASK_FIELDS))
    task = take(at[SCAN_TAKEN:])
    while task < at[SCAN_TASKS]:
        selective_scan.forward_task(x, delta, last, tasks[task])
        task = take(at[SCAN_TAKEN:])


_MADE_OF: dict[Callable[[Any], None], tuple[Any, ...]] = {
    norm: (),
    convolve: (convolution, elements),
    scan: (selective_scan, chunk, recurrence_complex, recurrence_real, tile),
}


def sources(function: Callable[[Any], None]) -> tuple[str, ...]:
    """The files that one of the three is compiled from."""
    modules = (intrinsics, sync, *_MADE_OF[function])
    return (__file__, *(str(module.__file__) for module in modules))


@functools.cache
def entry(function: Callable[[Any], None]) -> int:
    """Where C finds one of the three."""
    return address_of(function, *sources(function))
