"""The recurrence of the states for real A, over the steps of a chunk: forwards, again, backwards.

Plain functions, which ``kernels`` has compiled. B and C are each the sum of a number that all
channels share, at this step, and of the channels' own constants, ``own``: None if there are none.

Shapes: N state, K steps of a chunk, W channels of a tile.
"""

from typing import Any

from ssmlab.ops._cpu.compiling import expand, expand_wide
from ssmlab.ops._cpu.maths import expm1_base2, expm1_four, fade_four
from ssmlab.ops.selective_scan.cpu.chunk import DL, DU, GDL, GDU, GY, Place, Tile, Y, ask_for_row
from ssmlab.ops.selective_scan.cpu.tile import (
    Array,
    Inputs,
    W,
    add_product,
    dot,
    shared,
    with_own,
)

_A, _B, _C = 0, W, 2 * W  # columns of the constants
_H, _CARRY, _GA, _GB, _GC = 0, W, 2 * W, 3 * W, 4 * W  # of a state
_CONSTANTS, _STATE, _HISTORY = 3 * W, 5 * W, 2 * W  # from a state to the next
_Q = W // 4
_NEAR = 126  # the range of ``fade_four``
_PAST, _FADE = 0, W  # of the history; going back, the state's gradient takes the place of the past


@expand_wide
def _step(state: Array, c: Array, own: Any, row: Array, B: Any, C: Any) -> None:
    for d in range(W):
        h = state[_H + d]
        kicked = h + row[DU + d] * with_own(B, own, _B + d)
        now = expm1_base2(row[DL + d] * c[_A + d]) * h + kicked
        state[_H + d] = now
        row[Y + d] += now * with_own(C, own, _C + d)


@expand_wide
def _step_near(state: Array, c: Array, row: Array, B: Any, C: Any) -> None:
    """``_step`` with neither's own B or C, where no exponent is out of the range of ``fade_four``."""
    for d in range(_Q):
        e, f, g = d + _Q, d + 2 * _Q, d + 3 * _Q
        h0, h1, h2, h3 = fade_four(
            (
                row[DL + d] * c[_A + d],
                row[DL + e] * c[_A + e],
                row[DL + f] * c[_A + f],
                row[DL + g] * c[_A + g],
            ),
            (state[_H + d], state[_H + e], state[_H + f], state[_H + g]),
        )
        h0, h1 = h0 + row[DU + d] * B, h1 + row[DU + e] * B
        h2, h3 = h2 + row[DU + f] * B, h3 + row[DU + g] * B
        state[_H + d], state[_H + e], state[_H + f], state[_H + g] = h0, h1, h2, h3
        row[Y + d] += h0 * C
        row[Y + e] += h1 * C
        row[Y + f] += h2 * C
        row[Y + g] += h3 * C


@expand_wide
def _is_near(tile: Tile, steps: int) -> bool:
    """Whether all exponents of a chunk are in the range of ``fade_four``; one that is NaN may be."""
    furthest = tile.furthest
    for d in range(W):
        furthest[d] = abs(tile.rows[0, DL + d])
    for i in range(1, steps):
        row = tile.rows[i]
        for d in range(W):
            step = abs(row[DL + d])
            furthest[d] = step if step > furthest[d] else furthest[d]
    near = True
    for d in range(W):
        near &= not furthest[d] * tile.reach[d] > _NEAR
    return near


def advance(x: Inputs, tile: Tile, place: Place, state: Array) -> None:
    """Move the states through the steps of a chunk, adding to y."""
    constant = place.const_B or place.const_C
    near = not constant and _is_near(tile, place.steps)
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        ask_for_row(x, place, i)
        for n in range(state.shape[0]):
            s, c = state[n], tile.constants[n]
            B, C = shared(x.B_t, k, place.group_B, n), shared(x.C_t, k, place.group_C, n)
            if constant:
                _step(s, c, c, row, B, C)
            elif near:
                _step_near(s, c, row, B, C)
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


@expand
def _one_again(s: Array, history: Array, n: int, d: int, e: Any, h: Any, kick: Any) -> Any:
    history[n * _HISTORY + _PAST + d], history[n * _HISTORY + _FADE + d] = h, e
    now = e * h + (h + kick)
    s[n * _STATE + d] = now
    return now


@expand
def _four_again(state: Array, c: Array, row: Array, history: Array, B: Any, C: Any) -> Any:
    """A step of four states at once, with neither's own B or C: their parts of C's gradient."""
    B0, B1, B2, B3 = B
    C0, C1, C2, C3 = C
    g0 = g1 = g2 = g3 = row.dtype.type(0)
    for d in range(W):
        dl, du, gy = row[DL + d], row[DU + d], row[GY + d]
        e0, e1, e2, e3 = expm1_four(
            (
                dl * c[d],
                dl * c[_CONSTANTS + d],
                dl * c[2 * _CONSTANTS + d],
                dl * c[3 * _CONSTANTS + d],
            )
        )
        p0, p1, p2, p3 = state[d], state[_STATE + d], state[2 * _STATE + d], state[3 * _STATE + d]
        h0 = _one_again(state, history, 0, d, e0, p0, du * B0)
        h1 = _one_again(state, history, 1, d, e1, p1, du * B1)
        h2 = _one_again(state, history, 2, d, e2, p2, du * B2)
        h3 = _one_again(state, history, 3, d, e3, p3, du * B3)
        g0, g1 = add_product(g0, gy, h0), add_product(g1, gy, h1)
        g2, g3 = add_product(g2, gy, h2), add_product(g3, gy, h3)
        row[Y + d] = (((row[Y + d] + h0 * C0) + h1 * C1) + h2 * C2) + h3 * C3
    return g0, g1, g2, g3


@expand
def _four(factor: Array, row: int, group: int, n: int) -> Any:
    f = factor[row, group]
    return f[n], f[n + 1], f[n + 2], f[n + 3]


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
    fours = 0 if place.const_B or place.const_C else states // 4 * 4
    all_states, constants = state.ravel(), tile.constants.ravel()
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        if n0 == 0:
            ask_for_row(x, place, i)
        steps = history[i].ravel()
        for j in range(0, fours, 4):
            n = n0 + j
            gC_t[i, n], gC_t[i, n + 1], gC_t[i, n + 2], gC_t[i, n + 3] = _four_again(
                all_states[n * _STATE :],
                constants[n * _CONSTANTS :],
                row,
                steps[j * _HISTORY :],
                _four(x.B_t, k, place.group_B, n),
                _four(x.C_t, k, place.group_C, n),
            )
        for j in range(fours, states):
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


@expand
def _one_back(
    s: Array, c: Array, history: Array, n: int, d: int, dl: Any, gy: Any, gdl: Any, C: Any
) -> Any:
    past, e = history[n * _HISTORY + _PAST + d], history[n * _HISTORY + _FADE + d]
    g = s[n * _STATE + _CARRY + d] + gy * C
    gx = g * (e * past + past)
    s[n * _STATE + _GA + d] += gx * dl
    s[n * _STATE + _CARRY + d] = e * g + g
    return g, gdl + gx * c[n * _CONSTANTS + d]


@expand
def _four_back(state: Array, c: Array, row: Array, history: Array, B: Any, C: Any) -> Any:
    """``_four_again`` backwards: the states' parts of B's gradient."""
    B0, B1, B2, B3 = B
    C0, C1, C2, C3 = C
    s0 = s1 = s2 = s3 = row.dtype.type(0)
    for d in range(W):
        dl, du, gy, gdl = row[DL + d], row[DU + d], row[GY + d], row[GDL + d]
        g0, gdl = _one_back(state, c, history, 0, d, dl, gy, gdl, C0)
        g1, gdl = _one_back(state, c, history, 1, d, dl, gy, gdl, C1)
        g2, gdl = _one_back(state, c, history, 2, d, dl, gy, gdl, C2)
        g3, gdl = _one_back(state, c, history, 3, d, dl, gy, gdl, C3)
        s0, s1 = add_product(s0, g0, du), add_product(s1, g1, du)
        s2, s3 = add_product(s2, g2, du), add_product(s3, g3, du)
        row[GDU + d] = (((row[GDU + d] + g0 * B0) + g1 * B1) + g2 * B2) + g3 * B3
        row[GDL + d] = gdl
    return s0, s1, s2, s3


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
    fours = 0 if place.const_B or place.const_C else states // 4 * 4
    all_states, constants = state.ravel(), tile.constants.ravel()
    for i in range(place.steps - 1, -1, -1):
        row, k = tile.rows[i], place.row + i
        steps = history[i].ravel()
        for j in range(0, fours, 4):
            n = n0 + j
            gB_t[i, n], gB_t[i, n + 1], gB_t[i, n + 2], gB_t[i, n + 3] = _four_back(
                all_states[n * _STATE :],
                constants[n * _CONSTANTS :],
                row,
                steps[j * _HISTORY :],
                _four(x.B_t, k, place.group_B, n),
                _four(x.C_t, k, place.group_C, n),
            )
        for j in range(fours, states):
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
