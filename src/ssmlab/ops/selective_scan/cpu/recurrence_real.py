"""The recurrence of the states for real A, over the steps of a chunk: forwards, again, backwards.

Plain functions, which ``kernels`` has compiled. Shapes: N state, K steps of a chunk, W channels of
a tile. Where all channels share a step's B and C, these are single numbers in the innermost loops.
"""

from typing import Any

from ssmlab.ops.selective_scan.cpu.chunk import History, Place, Rows, Sums, Tile
from ssmlab.ops.selective_scan.cpu.maths import expm1_base2
from ssmlab.ops.selective_scan.cpu.tile import Array, Inputs, W, at, dot, inline, spread


@inline
def _step(h: Array, A: Array, dl: Array, du: Array, B: Any, C: Any, y: Array) -> None:
    for d in range(W):
        kicked = h[d] + du[d] * at(B, d)
        now = expm1_base2(dl[d] * A[d]) * h[d] + kicked
        h[d] = now
        y[d] += now * at(C, d)


def advance(x: Inputs, tile: Tile, rows: Rows, place: Place, h: Array) -> None:
    """Move h through the steps of a chunk, adding to y."""
    row, count, group_B, group_C = place
    A, B, C = tile.A, tile.B, tile.C
    const_B, const_C = x.B.size > 0, x.C.size > 0
    for i in range(count):
        dl, du, y = rows.dl[i], rows.du[i], rows.y[i]
        if const_B or const_C:
            if not const_B:
                spread(x.B_t[row + i, group_B], B)
            if not const_C:
                spread(x.C_t[row + i, group_C], C)
            for n in range(h.shape[0]):
                _step(h[n], A[n], dl, du, B[n], C[n], y)
        else:
            B_t, C_t = x.B_t[row + i, group_B], x.C_t[row + i, group_C]
            for n in range(h.shape[0]):
                _step(h[n], A[n], dl, du, B_t[n], C_t[n], y)


@inline
def _step_again(
    h: Array, A: Array, dl: Array, du: Array, B: Any, past: Array, fade: Array
) -> None:
    for d in range(W):
        kicked = h[d] + du[d] * at(B, d)
        past[d] = h[d]
        e = expm1_base2(dl[d] * A[d])
        fade[d] = e
        h[d] = e * h[d] + kicked


@inline
def _add_product(a: Array, b: Any, total: Array) -> None:
    for d in range(W):
        total[d] += a[d] * at(b, d)


def again(
    x: Inputs,
    tile: Tile,
    rows: Rows,
    place: Place,
    history: History,
    sums: Sums,
    h: Array,
    n0: int,
    states: int,
) -> None:
    """Move states n0, ... through a chunk, keeping each step's past and decay - 1.

    Also adds to y if that is gated, and to the gradient of C.
    """
    row, count, group_B, group_C = place
    past, fade, gC, gC_t = history.past, history.fade, sums.C, sums.C_t
    const_B, const_C, gated = x.B.size > 0, x.C.size > 0, x.z.size > 0
    for i in range(count):
        dl, du, y, gy = rows.dl[i], rows.du[i], rows.y[i], rows.gy[i]
        for j in range(states):
            n = n0 + j
            if const_B:
                _step_again(h[n], tile.A[n], dl, du, tile.B[n], past[i, j], fade[i, j])
            else:
                B = x.B_t[row + i, group_B, n]
                _step_again(h[n], tile.A[n], dl, du, B, past[i, j], fade[i, j])
            if const_C:
                _add_product(gy, h[n], gC[n])
                if gated:
                    _add_product(h[n], tile.C[n], y)
            else:
                gC_t[i, n] = dot(gy, h[n])
                if gated:
                    _add_product(h[n], x.C_t[row + i, group_C, n], y)


@inline
def _step_back(
    carry: Array,
    A: Array,
    dl: Array,
    B: Any,
    C: Any,
    past: Array,
    fade: Array,
    gy: Array,
    gdu: Array,
    gdl: Array,
    gA: Array,
    gh: Array,
) -> None:
    for d in range(W):
        g = carry[d] + gy[d] * at(C, d)
        gh[d] = g
        gdu[d] += g * at(B, d)
        # The exponent's gradient: g times the faded state.
        gx = g * (fade[d] * past[d] + past[d])
        gdl[d] += gx * A[d]
        gA[d] += gx * dl[d]
        carry[d] = fade[d] * g + g


def back(
    x: Inputs,
    tile: Tile,
    rows: Rows,
    place: Place,
    history: History,
    sums: Sums,
    carry: Array,
    gh: Array,
    n0: int,
    states: int,
) -> None:
    """Go back through a chunk: ``carry`` is the gradient of the states after a step."""
    row, count, group_B, group_C = place
    past, fade, gA, gB, gB_t = history.past, history.fade, sums.A, sums.B, sums.B_t
    A, B, C = tile.A, tile.B, tile.C
    const_B, const_C, g = x.B.size > 0, x.C.size > 0, gh[0]
    for i in range(count - 1, -1, -1):
        dl, du, gy, gdu, gdl = rows.dl[i], rows.du[i], rows.gy[i], rows.gdu[i], rows.gdl[i]
        shared = not (const_B or const_C)
        if not shared and not const_B:
            spread(x.B_t[row + i, group_B], B)
        if not shared and not const_C:
            spread(x.C_t[row + i, group_C], C)
        for j in range(states):
            n = n0 + j
            e, p = fade[i, j], past[i, j]
            if shared:
                B_n, C_n = x.B_t[row + i, group_B, n], x.C_t[row + i, group_C, n]
                _step_back(carry[n], A[n], dl, B_n, C_n, p, e, gy, gdu, gdl, gA[n], g)
            else:
                _step_back(carry[n], A[n], dl, B[n], C[n], p, e, gy, gdu, gdl, gA[n], g)
            if const_B:
                _add_product(g, du, gB[n])
            else:
                gB_t[i, n] = dot(g, du)
