"""The recurrence of the states for complex A, over the steps of a chunk: forwards, again, backwards.

Built like ``recurrence_real``, each number of a state being two: the real part, the imaginary part.
What is called C here is twice C, so that y = 2 Re(C h) needs no more work. Gradients are those of
the real and of the imaginary part, which is torch's convention.

With decay - 1 = e, |decay| = 2^x and the phase pi v: Re e = (2^x - 1) + 2^x (cos(pi v) - 1) and
Im e = 2^x sin(pi v), neither of which cancels where the decay is near 1.

Shapes: N state, K steps of a chunk, W channels of a tile.
"""

from typing import Any

from ssmlab.ops._cpu.compiling import expand
from ssmlab.ops._cpu.maths import expm1_base2, product_error, turn
from ssmlab.ops.selective_scan.cpu.chunk import DL, DU, GDL, GDU, GY, Place, Tile, Y, ask_for_row
from ssmlab.ops.selective_scan.cpu.tile import Array, Inputs, W, dot, shared, with_own

# Columns of the constants, of a state and of the history; real parts, with imaginary ones after.
_A, _A_TURN, _A_REST, _B, _B_I, _C, _C_I = (k * W for k in range(7))
_H, _H_I, _CARRY, _CARRY_I, _GA, _GA_I, _GB, _GB_I, _GC, _GC_I = (k * W for k in range(10))
# Going back, the state's gradient takes the place of the past.
_PAST, _PAST_I, _FADE, _FADE_I = (k * W for k in range(4))

# From the exponent's gradient, whose base is 2, to that of the phase, in units of pi.
_PI_LOG2E = 4.532360141827194


@expand
def _decay(dl: Any, A: Any, A_turn: Any, A_rest: Any) -> Any:
    """decay - 1. The phase is taken to twice the precision: over many steps its error adds up."""
    grown = expm1_base2(dl * A)
    v = dl * A_turn
    cos1, sin = turn(v, product_error(dl, A_turn, v) + dl * A_rest)
    return grown + (grown * cos1 + cos1), grown * sin + sin


@expand
def _step(state: Array, c: Array, own: Any, row: Array, B: Any, B_i: Any, C: Any, C_i: Any) -> None:
    for d in range(W):
        h, h_i, du = state[_H + d], state[_H_I + d], row[DU + d]
        e, e_i = _decay(row[DL + d], c[_A + d], c[_A_TURN + d], c[_A_REST + d])
        now = (h + du * with_own(B, own, _B + d)) + (e * h - e_i * h_i)
        now_i = (h_i + du * with_own(B_i, own, _B_I + d)) + (e * h_i + e_i * h)
        state[_H + d], state[_H_I + d] = now, now_i
        row[Y + d] += now * with_own(C, own, _C + d) - now_i * with_own(C_i, own, _C_I + d)


@expand
def _shared(factor: Array, row: int, group: int, n: int, N: int) -> Any:
    return shared(factor, row, group, n), shared(factor, row, group, N + n)


def advance(x: Inputs, tile: Tile, place: Place, state: Array) -> None:
    """Move the states through the steps of a chunk, adding to y."""
    N = state.shape[0]
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        ask_for_row(x, place, i)
        for n in range(N):
            s, c = state[n], tile.constants[n]
            B, B_i = _shared(x.B_t, k, place.group_B, n, N)
            C, C_i = _shared(x.C_t, k, place.group_C, n, N)
            if place.const_B or place.const_C:
                _step(s, c, c, row, B, B_i, C, C_i)
            else:
                _step(s, c, None, row, B, B_i, C, C_i)


@expand
def _step_again(
    state: Array, c: Array, own: Any, row: Array, history: Array, B: Any, B_i: Any
) -> None:
    for d in range(W):
        h, h_i, du = state[_H + d], state[_H_I + d], row[DU + d]
        e, e_i = _decay(row[DL + d], c[_A + d], c[_A_TURN + d], c[_A_REST + d])
        history[_PAST + d], history[_PAST_I + d] = h, h_i
        history[_FADE + d], history[_FADE_I + d] = e, e_i
        state[_H + d] = (h + du * with_own(B, own, _B + d)) + (e * h - e_i * h_i)
        state[_H_I + d] = (h_i + du * with_own(B_i, own, _B_I + d)) + (e * h_i + e_i * h)


@expand
def _add_to_y(state: Array, own: Any, row: Array, C: Any, C_i: Any) -> None:
    for d in range(W):
        real = state[_H + d] * with_own(C, own, _C + d)
        row[Y + d] += real - state[_H_I + d] * with_own(C_i, own, _C_I + d)


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
    gated, N = x.z.size > 0, state.shape[0]
    for i in range(place.steps):
        row, k = tile.rows[i], place.row + i
        if n0 == 0:
            ask_for_row(x, place, i)
        for j in range(states):
            n = n0 + j
            s, c = state[n], tile.constants[n]
            B, B_i = _shared(x.B_t, k, place.group_B, n, N)
            C, C_i = _shared(x.C_t, k, place.group_C, n, N)
            if place.const_B:
                _step_again(s, c, c, row, history[i, j], B, B_i)
            else:
                _step_again(s, c, None, row, history[i, j], B, B_i)
            if place.const_C:
                for d in range(W):
                    s[_GC + d] += row[GY + d] * s[_H + d]
                    s[_GC_I + d] -= row[GY + d] * s[_H_I + d]
            else:
                gC_t[i, n] = dot(row, GY, s, _H)
                gC_t[i, N + n] = -dot(row, GY, s, _H_I)
            if gated:
                _add_to_y(s, c, row, C, C_i)


@expand
def _step_back(
    state: Array,
    c: Array,
    own: Any,
    row: Array,
    history: Array,
    B: Any,
    B_i: Any,
    C: Any,
    C_i: Any,
) -> None:
    scale = state.dtype.type(_PI_LOG2E)
    for d in range(W):
        past, past_i = history[_PAST + d], history[_PAST_I + d]
        e, e_i = history[_FADE + d], history[_FADE_I + d]
        g = state[_CARRY + d] + row[GY + d] * with_own(C, own, _C + d)
        g_i = state[_CARRY_I + d] - row[GY + d] * with_own(C_i, own, _C_I + d)
        history[_PAST + d], history[_PAST_I + d] = g, g_i
        row[GDU + d] += g * with_own(B, own, _B + d) + g_i * with_own(B_i, own, _B_I + d)
        # The exponent's gradient: g times the conjugate of the faded state.
        faded, faded_i = past + (e * past - e_i * past_i), past_i + (e * past_i + e_i * past)
        gx, gx_i = g * faded + g_i * faded_i, g_i * faded - g * faded_i
        row[GDL + d] += gx * c[_A + d] + gx_i * (c[_A_TURN + d] * scale)
        state[_GA + d] += gx * row[DL + d]
        state[_GA_I + d] += gx_i * row[DL + d]
        state[_CARRY + d] = g + (e * g + e_i * g_i)
        state[_CARRY_I + d] = g_i + (e * g_i - e_i * g)


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
    N = state.shape[0]
    for i in range(place.steps - 1, -1, -1):
        row, k = tile.rows[i], place.row + i
        for j in range(states):
            n = n0 + j
            s, c, past = state[n], tile.constants[n], history[i, j]
            B, B_i = _shared(x.B_t, k, place.group_B, n, N)
            C, C_i = _shared(x.C_t, k, place.group_C, n, N)
            if place.const_B or place.const_C:
                _step_back(s, c, c, row, past, B, B_i, C, C_i)
            else:
                _step_back(s, c, None, row, past, B, B_i, C, C_i)
            if place.const_B:
                for d in range(W):
                    s[_GB + d] += past[_PAST + d] * row[DU + d]
                    s[_GB_I + d] += past[_PAST_I + d] * row[DU + d]
            else:
                gB_t[i, n] = dot(past, _PAST, row, DU)
                gB_t[i, N + n] = dot(past, _PAST_I, row, DU)
