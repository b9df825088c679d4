"""The rows of a chunk of time: what is the same for every state, and for real and complex A.

All rows of a chunk are read before any is worked on. Neighbouring rows lie a whole row of channels
apart in memory, further than the processor looks ahead on its own: they are asked for while the
chunk before is worked on, which halves the time of the forward pass.

Shapes: K steps of a chunk at most, N state, R rows of a state, W channels of a tile.
"""

from typing import NamedTuple

import numpy as np

from ssmlab.ops._cpu.compiling import expand, expand_wide, inline
from ssmlab.ops._cpu.intrinsics import LINE, prefetch, prefetch_to_write
from ssmlab.ops.selective_scan.cpu.tile import (
    Array,
    Gradients,
    Inputs,
    W,
    gate,
    gate_backward,
    load,
    load_constants,
    load_vector,
    step_size,
    step_size_backward,
    store,
    zero,
)

# Columns of the matrix of rows, one row per step; those from GY on are for the backward pass.
DL = 0  # the step size
DU = W  # the step size times u
Y = 2 * W  # before the gate
U = 3 * W
Z = 4 * W
GY = 5 * W  # the gradient of y before the gate
GATE = 6 * W  # what times y is the gradient of z
GDU = 7 * W
GDL = 8 * W
FORWARD_COLUMNS, BACKWARD_COLUMNS = 5, 9


class Tile(NamedTuple):
    """What belongs to a tile's channels, and the rows of a chunk of its steps."""

    constants: Array  # (N, columns of Inputs.constants * W)
    D: Array  # (W,)
    bias: Array  # (W,)
    rows: Array  # (K, columns * W)
    reach: Array  # (W,), the largest |A| log2(e) of a channel's states
    furthest: Array  # (W,), room for a chunk's largest step size


class Place(NamedTuple):
    """Where a chunk is."""

    batch: int
    channel: int  # the tile's first
    next: int  # first step of the chunk needed after this one, which may be none of the batch's
    row: int  # of its first step in (batch * L, ...)
    steps: int  # K at most
    group_B: int
    group_C: int
    const_B: bool
    const_C: bool


@inline
def new_tile(x: Inputs, steps: int, columns: int) -> Tile:
    dtype = x.u.dtype
    return Tile(
        np.zeros((x.constants.shape[0], x.constants.shape[1] * W), dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros((steps, columns * W), dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
    )


@inline
def start_tile(x: Inputs, tile: Tile, d0: int, w: int) -> None:
    """Load what belongs to the channels from d0 on."""
    # What an earlier, wider tile left in the channels beyond w must not stay.
    zero(tile.constants)
    zero(tile.D)
    zero(tile.bias)
    zero(tile.rows)
    load_constants(x.constants, d0, tile.constants, w)
    load_vector(x.D, d0, tile.D, w)
    load_vector(x.bias, d0, tile.bias, w)
    zero(tile.reach)
    for n in range(tile.constants.shape[0]):
        for d in range(W):
            size = abs(tile.constants[n, d])
            tile.reach[d] = size if size > tile.reach[d] else tile.reach[d]


@expand_wide
def _load_rows(
    source: Array,
    strides: Array,
    first: tuple,
    count: int,
    rows: Array,
    column: int,
    w: int,
) -> None:
    if source.size > 0:
        b, t, d0 = first
        start = b * strides[0] + t * strides[1] + d0 * strides[2]
        for i in range(count):
            row = rows[i, column : column + W]
            load(source, start + i * strides[1], strides[2], row, w)


@expand
def _ask_for(source: Array, strides: Array, b: int, t: int, d0: int) -> None:
    if source.size > 0:
        start = b * strides[0] + t * strides[1] + d0 * strides[2]
        for d in range(0, W, LINE):
            prefetch(source, start + d * strides[2])


@expand
def ask_for_row(x: Inputs, place: Place, i: int) -> None:
    """Have the row that is i steps into the chunk needed next brought near.

    To be called while this chunk is worked on, a row at a time: all rows at once would be more
    than the processor can ask for without waiting.
    """
    t = place.next + i
    _ask_for(x.u, x.strides[0], place.batch, t, place.channel)
    _ask_for(x.delta, x.strides[1], place.batch, t, place.channel)
    _ask_for(x.z, x.strides[2], place.batch, t, place.channel)
    _ask_for(x.grad_y, x.strides[3], place.batch, t, place.channel)
    start = (place.batch * x.length + t) * x.constants.shape[2] + place.channel
    for out in x.written:
        if out.size > 0:
            for d in range(0, W, LINE):
                prefetch_to_write(out, start + d)


@expand_wide
def load_chunk(x: Inputs, tile: Tile, first: tuple, count: int, w: int) -> None:
    """Fill U, Z, DL, DU and Y (with D u) for the steps from ``first`` = (b, t, d0) on."""
    rows, D = tile.rows, tile.D
    _load_rows(x.u, x.strides[0], first, count, rows, U, w)
    _load_rows(x.delta, x.strides[1], first, count, rows, DL, w)
    _load_rows(x.z, x.strides[2], first, count, rows, Z, w)
    for i in range(count):
        row = rows[i]
        step_size(row[DL : DL + W], tile.bias, x.softplus)
        for d in range(W):
            row[DU + d] = row[DL + d] * row[U + d]
            row[Y + d] = D[d] * row[U + d]


@expand_wide
def store_chunk(x: Inputs, tile: Tile, y: Array, at: int, count: int, w: int) -> None:
    """Gate Y and write it, the first row to y[at :]."""
    channels = x.constants.shape[2]
    for i in range(count):
        row = tile.rows[i]
        if x.z.size > 0:
            gate(row[Y : Y + W], row[Z : Z + W], x.log2e)
        store(row[Y : Y + W], y, at + i * channels, w)


@inline
def load_gradient(x: Inputs, tile: Tile, first: tuple, count: int, w: int) -> None:
    """After ``load_chunk``: fill GY and GATE, clear GDU and GDL."""
    _load_rows(x.grad_y, x.strides[3], first, count, tile.rows, GY, w)
    for i in range(count):
        row = tile.rows[i]
        if x.z.size > 0:
            gate_backward(row[GY : GY + W], row[Z : Z + W], row[GATE : GATE + W], x.log2e)
        for d in range(2 * W):
            row[GDU + d] = row.dtype.type(0)


@inline
def store_gradient(
    x: Inputs, tile: Tile, grads: Gradients, gD: Array, gbias: Array, at: int, count: int, w: int
) -> None:
    """From GDU and GDL, the gradients of u, delta and z; those of D and bias are added up."""
    dtype, channels, D = x.u.dtype, x.constants.shape[2], tile.D
    ln2 = dtype.type(1) / x.log2e
    gD_chunk, gbias_chunk = np.zeros(W, dtype), np.zeros(W, dtype)
    for i in range(count):
        row = tile.rows[i]
        for d in range(W):
            gD_chunk[d] += row[GY + d] * row[U + d]
            # The exponent's base is 2: its factor A has log2(e) in it.
            row[GDL + d] = row[GDL + d] * ln2 + row[GDU + d] * row[U + d]
            row[GDU + d] = row[GDU + d] * row[DL + d] + D[d] * row[GY + d]
        step_size_backward(row[GDL : GDL + W], row[DL : DL + W], x.softplus, x.log2e)
        for d in range(W):
            gbias_chunk[d] += row[GDL + d]
        start = at + i * channels
        store(row[GDU : GDU + W], grads.u, start, w)
        store(row[GDL : GDL + W], grads.delta, start, w)
        if x.z.size > 0:
            for d in range(W):
                row[GATE + d] *= row[Y + d]
            store(row[GATE : GATE + W], grads.z, start, w)
    for d in range(W):
        gD[d] += gD_chunk[d]
        gbias[d] += gbias_chunk[d]
