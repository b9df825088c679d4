"""The recurrence of the states for complex A, over the steps of a chunk: forwards, again, backwards.

Plain functions, which ``kernels`` has compiled; their arguments are those of the real recurrence.
A state n is two rows: n holds the real parts, N + n the imaginary ones. What is called C here is
twice C, so that y = 2 Re(C h) needs no more work. Gradients are those of the real and of the
imaginary part, which is torch's convention.

With decay - 1 = e, |decay| = 2^x and the phase pi v: Re e = (2^x - 1) + 2^x (cos(pi v) - 1) and
Im e = 2^x sin(pi v), neither of which cancels where the decay is near 1.

Shapes: N state, K steps of a chunk, W channels of a tile.
"""

from typing import Any

from ssmlab.ops.selective_scan.cpu.chunk import History, Place, Rows, Sums, Tile
from ssmlab.ops.selective_scan.cpu.maths import expm1_base2, product_error, turn
from ssmlab.ops.selective_scan.cpu.tile import Array, Inputs, W, at, dot, inline, spread

# From the exponent's gradient, whose base is 2, to that of the phase, in units of pi.
_PI_LOG2E = 4.532360141827194


@inline
def _decay(dl: Any, A: Any, A_turn: Any, A_rest: Any) -> Any:
    """decay - 1. The phase is taken to twice the precision: over many steps its error adds up."""
    grown = expm1_base2(dl * A)
    v = dl * A_turn
    cos1, sin = turn(v, product_error(dl, A_turn, v) + dl * A_rest)
    return grown + (grown * cos1 + cos1), grown * sin + sin


@inline
def _step(
    h: Array,
    h_i: Array,
    A: Array,
    A_turn: Array,
    A_rest: Array,
    dl: Array,
    du: Array,
    B: Any,
    B_i: Any,
    C: Any,
    C_i: Any,
    y: Array,
) -> None:
    for d in range(W):
        e, e_i = _decay(dl[d], A[d], A_turn[d], A_rest[d])
        kicked, kicked_i = h[d] + du[d] * at(B, d), h_i[d] + du[d] * at(B_i, d)
        now = kicked + (e * h[d] - e_i * h_i[d])
        now_i = kicked_i + (e * h_i[d] + e_i * h[d])
        h[d], h_i[d] = now, now_i
        y[d] += now * at(C, d) - now_i * at(C_i, d)


def advance(x: Inputs, tile: Tile, rows: Rows, place: Place, h: Array) -> None:
    """Move h through the steps of a chunk, adding to y."""
    row, count, group_B, group_C = place
    A, B, C, N = tile.A, tile.B, tile.C, h.shape[0] // 2
    const_B, const_C = x.B.size > 0, x.C.size > 0
    for i in range(count):
        dl, du, y = rows.dl[i], rows.du[i], rows.y[i]
        if const_B or const_C:
            if not const_B:
                spread(x.B_t[row + i, group_B], B)
            if not const_C:
                spread(x.C_t[row + i, group_C], C)
            for n in range(N):
                m = N + n
                A_n, A_m, A_rest = A[n], A[m], A[N + m]
                _step(h[n], h[m], A_n, A_m, A_rest, dl, du, B[n], B[m], C[n], C[m], y)
        else:
            B_t, C_t = x.B_t[row + i, group_B], x.C_t[row + i, group_C]
            for n in range(N):
                m = N + n
                A_n, A_m, A_rest = A[n], A[m], A[N + m]
                _step(h[n], h[m], A_n, A_m, A_rest, dl, du, B_t[n], B_t[m], C_t[n], C_t[m], y)


@inline
def _step_again(
    h: Array,
    h_i: Array,
    A: Array,
    A_turn: Array,
    A_rest: Array,
    dl: Array,
    du: Array,
    B: Any,
    B_i: Any,
    past: Array,
    past_i: Array,
    fade: Array,
    fade_i: Array,
) -> None:
    for d in range(W):
        e, e_i = _decay(dl[d], A[d], A_turn[d], A_rest[d])
        fade[d], fade_i[d] = e, e_i
        past[d], past_i[d] = h[d], h_i[d]
        kicked, kicked_i = h[d] + du[d] * at(B, d), h_i[d] + du[d] * at(B_i, d)
        now = kicked + (e * h[d] - e_i * h_i[d])
        now_i = kicked_i + (e * h_i[d] + e_i * h[d])
        h[d], h_i[d] = now, now_i


@inline
def _add_products(a: Array, a_i: Array, b: Any, b_i: Any, total: Array) -> None:
    """Add Re(a b)."""
    for d in range(W):
        total[d] += a[d] * at(b, d) - a_i[d] * at(b_i, d)


@inline
def _add_conjugate(g: Array, h: Array, h_i: Array, total: Array, total_i: Array) -> None:
    """Add g times the conjugate of h."""
    for d in range(W):
        total[d] += g[d] * h[d]
        total_i[d] -= g[d] * h_i[d]


@inline
def _add_scaled(g: Array, g_i: Array, u: Array, total: Array, total_i: Array) -> None:
    """Add g u, u being real."""
    for d in range(W):
        total[d] += g[d] * u[d]
        total_i[d] += g_i[d] * u[d]


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
    A, B, C, N = tile.A, tile.B, tile.C, h.shape[0] // 2
    const_B, const_C, gated = x.B.size > 0, x.C.size > 0, x.z.size > 0
    for i in range(count):
        dl, du, y, gy = rows.dl[i], rows.du[i], rows.y[i], rows.gy[i]
        for j in range(states):
            n, m, k = n0 + j, N + n0 + j, 2 * j
            A_n, A_m, A_rest = A[n], A[m], A[N + m]
            p, p_i, e, e_i = past[i, k], past[i, k + 1], fade[i, k], fade[i, k + 1]
            if const_B:
                _step_again(h[n], h[m], A_n, A_m, A_rest, dl, du, B[n], B[m], p, p_i, e, e_i)
            else:
                b, b_i = x.B_t[row + i, group_B, n], x.B_t[row + i, group_B, m]
                _step_again(h[n], h[m], A_n, A_m, A_rest, dl, du, b, b_i, p, p_i, e, e_i)
            if const_C:
                _add_conjugate(gy, h[n], h[m], gC[n], gC[m])
                if gated:
                    _add_products(h[n], h[m], C[n], C[m], y)
            else:
                gC_t[i, n] = dot(gy, h[n])
                gC_t[i, m] = -dot(gy, h[m])
                if gated:
                    c, c_i = x.C_t[row + i, group_C, n], x.C_t[row + i, group_C, m]
                    _add_products(h[n], h[m], c, c_i, y)


@inline
def _step_back(
    carry: Array,
    carry_i: Array,
    A: Array,
    A_turn: Array,
    dl: Array,
    B: Any,
    B_i: Any,
    C: Any,
    C_i: Any,
    past: Array,
    past_i: Array,
    fade: Array,
    fade_i: Array,
    gy: Array,
    gdu: Array,
    gdl: Array,
    gA: Array,
    gA_i: Array,
    gh: Array,
    gh_i: Array,
) -> None:
    scale = gh.dtype.type(_PI_LOG2E)
    for d in range(W):
        e, e_i, p, p_i = fade[d], fade_i[d], past[d], past_i[d]
        g, g_i = carry[d] + gy[d] * at(C, d), carry_i[d] - gy[d] * at(C_i, d)
        gh[d], gh_i[d] = g, g_i
        gdu[d] += g * at(B, d) + g_i * at(B_i, d)
        # The exponent's gradient: g times the conjugate of the faded state.
        faded, faded_i = p + (e * p - e_i * p_i), p_i + (e * p_i + e_i * p)
        gx, gx_i = g * faded + g_i * faded_i, g_i * faded - g * faded_i
        gdl[d] += gx * A[d] + gx_i * (A_turn[d] * scale)
        gA[d] += gx * dl[d]
        gA_i[d] += gx_i * dl[d]
        carry[d], carry_i[d] = g + (e * g + e_i * g_i), g_i + (e * g_i - e_i * g)


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
    A, B, C, N = tile.A, tile.B, tile.C, carry.shape[0] // 2
    const_B, const_C, g, g_i = x.B.size > 0, x.C.size > 0, gh[0], gh[1]
    shared = not (const_B or const_C)
    for i in range(count - 1, -1, -1):
        dl, du, gy, gdu, gdl = rows.dl[i], rows.du[i], rows.gy[i], rows.gdu[i], rows.gdl[i]
        if not shared and not const_B:
            spread(x.B_t[row + i, group_B], B)
        if not shared and not const_C:
            spread(x.C_t[row + i, group_C], C)
        for j in range(states):
            n, m, k = n0 + j, N + n0 + j, 2 * j
            A_n, A_m, back_n, back_m = A[n], A[m], carry[n], carry[m]
            p, p_i, e, e_i = past[i, k], past[i, k + 1], fade[i, k], fade[i, k + 1]
            if shared:
                _step_back(
                    back_n,
                    back_m,
                    A_n,
                    A_m,
                    dl,
                    x.B_t[row + i, group_B, n],
                    x.B_t[row + i, group_B, m],
                    x.C_t[row + i, group_C, n],
                    x.C_t[row + i, group_C, m],
                    p,
                    p_i,
                    e,
                    e_i,
                    gy,
                    gdu,
                    gdl,
                    gA[n],
                    gA[m],
                    g,
                    g_i,
                )
            else:
                _step_back(
                    back_n,
                    back_m,
                    A_n,
                    A_m,
                    dl,
                    B[n],
                    B[m],
                    C[n],
                    C[m],
                    p,
                    p_i,
                    e,
                    e_i,
                    gy,
                    gdu,
                    gdl,
                    gA[n],
                    gA[m],
                    g,
                    g_i,
                )
            if const_B:
                _add_scaled(g, g_i, du, gB[n], gB[m])
            else:
                gB_t[i, n] = dot(g, du)
                gB_t[i, m] = dot(g_i, du)
