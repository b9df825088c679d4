"""The recurrence of the states for real A, over the steps of a chunk: forwards, again, backwards.

Plain functions, which ``kernels`` has compiled. B and C are each the sum of a number that all
channels share, at this step, and of the channels' own constants, ``own``: None if there are none.

Shapes: N state, K steps of a chunk, W channels of a tile.
"""

from typing import Any

from ssmlab.ops.selective_scan.cpu.chunk import DL, DU, GDL, GDU, GY, Place, Tile, Y, ask_for_row
from ssmlab.ops.selective_scan.cpu.maths import expm1_base2
from ssmlab.ops.selective_scan.cpu.tile import Array, Inputs, W, dot, expand, shared, with_own

_A, _B, _C = 0, W, 2 * W  # columns of the constants
_H, _CARRY, _GA, _GB, _GC = 0, W, 2 * W, 3 * W, 4 * W  # of a state
_PAST, _FADE = 0, W  # of the history; going back, the state's gradient takes the place of the past


@expand
def _step(state: Array, c: Array, own: Any, row: Array, B: Any, C: Any) -> None:
    for d in range(W):
        h = state[_H + d]
        kicked = h + row[DU + d] * with_own(B, own, _B + d)
        now = expm1_base2(row[DL + d] * c[_A + d]) * h + kicked
        state[_H + d] = now
        row[Y + d] += now * with_own(C, own, _C + d)


def advance(x: Inputs, tile: Tile, place: Place, state: Array) -> None:
    """Move the states through the steps of a chunk, adding to y."""
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        ask_for_row(x, place, i)
        for n in range(state.shape[0]):
            s, c = state[n], tile.constants[n]
            B, C = shared(x.B_t, k, place.group_B, n), shared(x.C_t, k, place.group_C, n)
            if place.const_B or place.const_C:
                _step(s, c, c, row, B, C)
            else:
                _step(s, c, None, row, B, C)


@expand
def _step_again(state: Array, c: Array, own: Any, row: Array, history: Array, B: Any) -> None:
    for d in range(W):
        h = state[_H + d]
        kicked = h + row[DU + d] * with_own(B, own, _B + d)
        e = expm1_base2(row[DL + d] * c[_A + d])
        history[_PAST + d], history[_FADE + d] = h, e
        state[_H + d] = e * h + kicked


@expand
def _add_to_y(state: Array, own: Any, row: Array, C: Any) -> None:
    for d in range(W):
        row[Y + d] += state[_H + d] * with_own(C, own, _C + d)


def again(
    x: Inputs,
    tile: Tile,
    place: Place,
    state: Array,
    history: Array,
    gC_t: Array,
    n0: int,
    states: int,
) -> None:
    """Move states n0, ... through a chunk, keeping each step's past and decay - 1.

    Also adds to y if that is gated, and to the gradient of C.
    """
    gated = x.z.size > 0
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        if n0 == 0:
            ask_for_row(x, place, i)
        for j in range(states):
            n = n0 + j
            s, c = state[n], tile.constants[n]
            B, C = shared(x.B_t, k, place.group_B, n), shared(x.C_t, k, place.group_C, n)
            if place.const_B:
                _step_again(s, c, c, row, history[i, j], B)
            else:
                _step_again(s, c, None, row, history[i, j], B)
            if place.const_C:
                for d in range(W):
                    s[_GC + d] += row[GY + d] * s[_H + d]
            else:
                gC_t[i, n] = dot(row, GY, s, _H)
            if gated:
                _add_to_y(s, c, row, C)


@expand
def _step_back(
    state: Array, c: Array, own: Any, row: Array, history: Array, B: Any, C: Any
) -> None:
    for d in range(W):
        past, e = history[_PAST + d], history[_FADE + d]
        g = state[_CARRY + d] + row[GY + d] * with_own(C, own, _C + d)
        history[_PAST + d] = g
        row[GDU + d] += g * with_own(B, own, _B + d)
        # The exponent's gradient: g times the faded state.
        gx = g * (e * past + past)
        row[GDL + d] += gx * c[_A + d]
        state[_GA + d] += gx * row[DL + d]
        state[_CARRY + d] = e * g + g


def back(
    x: Inputs,
    tile: Tile,
    place: Place,
    state: Array,
    history: Array,
    gB_t: Array,
    n0: int,
    states: int,
) -> None:
    """Go back through a chunk, with the gradient of the states after a step."""
    for i in range(place.steps - 1, -1, -1):
        row, k = tile.rows[i], place.row + i
        for j in range(states):
            n = n0 + j
            s, c, past = state[n], tile.constants[n], history[i, j]
            B, C = shared(x.B_t, k, place.group_B, n), shared(x.C_t, k, place.group_C, n)
            if place.const_B or place.const_C:
                _step_back(s, c, c, row, past, B, C)
            else:
                _step_back(s, c, None, row, past, B, C)
            if place.const_B:
                for d in range(W):
                    s[_GB + d] += past[_PAST + d] * row[DU + d]
            else:
                gB_t[i, n] = dot(past, _PAST, row, DU)
