"""The rows of a chunk of time: what is the same for every state, and for real and complex A.

All rows of a chunk are read before any is worked on. Neighbouring rows lie a whole row of channels
apart in memory, further than the processor looks ahead on its own; read together, their delays
overlap, which halves the time of the forward pass.

Shapes: K steps of a chunk at most, R rows of a state, W channels of a tile.
"""

from typing import Any, NamedTuple

import numpy as np

from ssmlab.ops.selective_scan.cpu.tile import (
    Array,
    Inputs,
    W,
    gate,
    gate_backward,
    inline,
    load,
    load_columns,
    load_vector,
    step_size,
    step_size_backward,
    store,
    zero,
)


class Tile(NamedTuple):
    """What belongs to a tile's channels."""

    A: Array  # (N, W), or (3N, W) if complex
    B: Array  # (R, W), also where it changes from step to step but C does not
    C: Array  # (R, W)
    D: Array  # (1, W)
    bias: Array  # (1, W)


class Rows(NamedTuple):
    """Rows of a chunk, (K, W) each; the last five are used by the backward pass only."""

    u: Array
    z: Array
    dl: Array  # the step size
    du: Array  # the step size times u
    y: Array  # before the gate
    gy: Array  # the gradient of y before the gate
    gate: Array  # what times y is the gradient of z
    gdu: Array
    gdl: Array


class Place(NamedTuple):
    """Where a chunk is."""

    row: int  # of its first step in (batch * L, ...)
    count: int  # steps, K at most
    group_B: int
    group_C: int


class History(NamedTuple):
    """Of some of the states, what the backward pass must know of each step; R counts their rows."""

    past: Array  # (K, R, W) the states before the step
    fade: Array  # (K, R, W) decay - 1


class Sums(NamedTuple):
    """A chunk's part of the gradients of A, B and C, each B and C constant or per step."""

    A: Array  # (R, W)
    B: Array  # (R, W)
    C: Array  # (R, W)
    B_t: Array  # (K, R)
    C_t: Array  # (K, R)


@inline
def new_tile(x: Inputs, rows: int) -> Tile:
    dtype = x.u.dtype
    return Tile(
        np.zeros((x.A.shape[0], W), dtype),
        np.zeros((rows, W), dtype),
        np.zeros((rows, W), dtype),
        np.zeros((1, W), dtype),
        np.zeros((1, W), dtype),
    )


@inline
def new_rows(x: Inputs, steps: int, backward: bool) -> Rows:
    dtype, more = x.u.dtype, steps if backward else 0
    return Rows(
        np.zeros((steps, W), dtype),
        np.zeros((steps, W), dtype),
        np.zeros((steps, W), dtype),
        np.zeros((steps, W), dtype),
        np.zeros((steps, W), dtype),
        np.zeros((more, W), dtype),
        np.zeros((more, W), dtype),
        np.zeros((more, W), dtype),
        np.zeros((more, W), dtype),
    )


@inline
def start_tile(x: Inputs, tile: Tile, rows: Rows, d0: int, w: int) -> None:
    """Load what belongs to the channels from d0 on."""
    # What an earlier, wider tile left in the channels beyond w must not stay.
    for matrix in tile:
        zero(matrix)
    for matrix in rows:
        zero(matrix)
    load_columns(x.A, d0, tile.A, w)
    load_columns(x.B, d0, tile.B, w)
    load_columns(x.C, d0, tile.C, w)
    load_vector(x.D, d0, tile.D[0], w)
    load_vector(x.bias, d0, tile.bias[0], w)


@inline
def _load_rows(
    source: Array, strides: Array, b: int, t: int, count: int, d0: int, out: Array, w: int
) -> None:
    if source.size > 0:
        start = b * strides[0] + t * strides[1] + d0 * strides[2]
        for i in range(count):
            load(source, start + i * strides[1], strides[2], out[i], w)


@inline
def load_chunk(
    x: Inputs, tile: Tile, rows: Rows, b: int, t: int, count: int, d0: int, w: int
) -> None:
    """Fill u, z, dl, du and y (with D u) for the steps from t on."""
    _load_rows(x.u, x.strides[0], b, t, count, d0, rows.u, w)
    _load_rows(x.delta, x.strides[1], b, t, count, d0, rows.dl, w)
    _load_rows(x.z, x.strides[2], b, t, count, d0, rows.z, w)
    Dt, bias = tile.D[0], tile.bias[0]
    for i in range(count):
        step_size(rows.dl[i], bias, x.softplus, x.log2e)
        u, dl, du, y = rows.u[i], rows.dl[i], rows.du[i], rows.y[i]
        for d in range(W):
            du[d] = dl[d] * u[d]
            y[d] = Dt[d] * u[d]


@inline
def store_chunk(x: Inputs, rows: Rows, y: Array, row: int, count: int, d0: int, w: int) -> None:
    """Gate y and write it."""
    channels = x.A.shape[1]
    for i in range(count):
        if x.z.size > 0:
            gate(rows.y[i], rows.z[i], x.log2e)
        store(rows.y[i], y, (row + i) * channels + d0, w)


@inline
def load_gradient(x: Inputs, rows: Rows, b: int, t: int, count: int, d0: int, w: int) -> None:
    """After ``load_chunk``: fill gy and gate, clear gdu and gdl."""
    _load_rows(x.grad_y, x.strides[3], b, t, count, d0, rows.gy, w)
    for i in range(count):
        if x.z.size > 0:
            gate_backward(rows.gy[i], rows.z[i], rows.gate[i], x.log2e)
        zero(rows.gdu[i])
        zero(rows.gdl[i])


@inline
def store_gradient(
    x: Inputs,
    tile: Tile,
    rows: Rows,
    grads: Any,
    gD: Array,
    gbias: Array,
    row: int,
    count: int,
    d0: int,
    w: int,
) -> None:
    """From gdu and gdl, the gradients of u, delta and z; those of D and bias are added up."""
    channels, Dt = x.A.shape[1], tile.D[0]
    one = x.u.dtype.type(1)
    ln2 = one / x.log2e
    gD_chunk, gbias_chunk = np.zeros(W, x.u.dtype), np.zeros(W, x.u.dtype)
    for i in range(count):
        u, dl, gy, gdu, gdl = rows.u[i], rows.dl[i], rows.gy[i], rows.gdu[i], rows.gdl[i]
        for d in range(W):
            gD_chunk[d] += gy[d] * u[d]
            # The exponent's base is 2: its factor A has log2(e) in it.
            gdl[d] = gdl[d] * ln2 + gdu[d] * u[d]
            gdu[d] = gdu[d] * dl[d] + Dt[d] * gy[d]
        step_size_backward(gdl, dl, x.softplus, x.log2e)
        for d in range(W):
            gbias_chunk[d] += gdl[d]
        at = (row + i) * channels + d0
        store(gdu, grads.u, at, w)
        store(gdl, grads.delta, at, w)
        if x.z.size > 0:
            gate_row, y = rows.gate[i], rows.y[i]
            for d in range(W):
                gate_row[d] *= y[d]
            store(gate_row, grads.z, at, w)
    for d in range(W):
        gD[d] += gD_chunk[d]
        gbias[d] += gbias_chunk[d]
