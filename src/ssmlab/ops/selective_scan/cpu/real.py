"""The compiled scan for real A, one task (some sequences, some tiles of channels) per call.

Shapes: B batch, L length, D channels, N state, G groups, S sequences, W channels of a tile.
"""

from typing import NamedTuple

import numpy as np

from ssmlab.ops.selective_scan.cpu.maths import expm1_base2
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
    Inputs,
    W,
    add_columns,
    dot,
    gate,
    gate_backward,
    jit,
    load,
    load_columns,
    load_state,
    load_vector,
    step_size,
    step_size_backward,
    stop_caching,
    store,
    store_columns,
    store_state,
    zero,
)


class Gradients(NamedTuple):
    """Where the backward pass writes. Sums over sequences and channels are left in parts."""

    u: Array  # (B * L * D,)
    delta: Array  # (B * L * D,)
    z: Array  # (B * L * D,)
    A: Array  # (lanes, N, D), of A itself
    B: Array  # (lanes, N, D)
    C: Array  # (lanes, N, D)
    B_t: Array  # (slabs, B * L, N)
    C_t: Array  # (slabs, B * L, N)
    D: Array  # (lanes, D)
    bias: Array  # (lanes, D)
    h0: Array  # (S, D, N)


@jit
def _advance(h: Array, A: Array, dl: Array, du: Array, B: Array, C: Array, y: Array) -> None:
    """One step of one state of each channel: B and C differ between channels."""
    for d in range(W):
        kicked = h[d] + du[d] * B[d]
        now = expm1_base2(dl[d] * A[d]) * h[d] + kicked
        h[d] = now
        y[d] += now * C[d]


@jit
def _advance_shared(h: Array, A: Array, dl: Array, du: Array, B: float, C: float, y: Array) -> None:
    """One step of one state of each channel: all channels share B and C."""
    for d in range(W):
        kicked = h[d] + du[d] * B
        now = expm1_base2(dl[d] * A[d]) * h[d] + kicked
        h[d] = now
        y[d] += now * C


@jit
def forward(x: Inputs, y: Array, last: Array, task: Array) -> None:
    """Write y, the last states and, if chunk > 0, the states at the ends of chunks."""
    dtype, N, D = x.u.dtype, x.A.shape[0], x.A.shape[1]
    A, B, C, h = (
        np.zeros((N, W), dtype),
        np.zeros((N, W), dtype),
        np.zeros((N, W), dtype),
        np.zeros((N, W), dtype),
    )
    ut, dl, du, yt, zt = (
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
    )
    Dt, bias = np.zeros(W, dtype), np.zeros(W, dtype)
    const_B, const_C, gated = x.B.size > 0, x.C.size > 0, x.z.size > 0
    gB, gC, st = task[GROUP_B], task[GROUP_C], x.strides

    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w = min(W, task[END_CHANNEL] - d0)
        # What an earlier, wider tile left in the channels beyond w must not stay.
        for matrix in (A, B, C, h):
            zero(matrix)
        for vector in (ut, dl, zt, Dt, bias):
            zero(vector)
        load_columns(x.A, d0, A, w)
        load_columns(x.B, d0, B, w)
        load_columns(x.C, d0, C, w)
        load_vector(x.D, d0, Dt, w)
        load_vector(x.bias, d0, bias, w)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(x.h0, s, d0, h, w)
            for i in range(steps):
                t = first + i
                row = b * x.length + t
                load(x.u, b * st[0, 0] + t * st[0, 1] + d0 * st[0, 2], st[0, 2], ut, w)
                load(x.delta, b * st[1, 0] + t * st[1, 1] + d0 * st[1, 2], st[1, 2], dl, w)
                step_size(dl, bias, x.softplus, x.log2e)
                for d in range(W):
                    du[d] = dl[d] * ut[d]
                    yt[d] = Dt[d] * ut[d]
                if const_B or const_C:
                    for n in range(N):
                        if not const_B:
                            B[n, :] = x.B_t[row, gB, n]
                        if not const_C:
                            C[n, :] = x.C_t[row, gC, n]
                        _advance(h[n], A[n], dl, du, B[n], C[n], yt)
                else:
                    for n in range(N):
                        _advance_shared(
                            h[n], A[n], dl, du, x.B_t[row, gB, n], x.C_t[row, gC, n], yt
                        )
                if gated:
                    load(x.z, b * st[2, 0] + t * st[2, 1] + d0 * st[2, 2], st[2, 2], zt, w)
                    gate(yt, zt, x.log2e)
                store(yt, y, row * D + d0, w)
                if x.chunk > 0 and (i + 1) % x.chunk == 0 and i + 1 < steps:
                    store_columns(h, x.kept[k], d0, w)
                    k += 1
            store_state(h, last, s, d0, w)


@jit
def backward(x: Inputs, grad_last: Array, grads: Gradients, task: Array) -> None:
    """Write every gradient. Chunks go backwards in time; each is first run forwards again."""
    dtype, N, D, K = x.u.dtype, x.A.shape[0], x.A.shape[1], x.chunk
    block = min(N, max(1, 512 // K))  # states at a time, so that a chunk's history fits the cache
    A, B, C = np.zeros((N, W), dtype), np.zeros((N, W), dtype), np.zeros((N, W), dtype)
    h, carry = np.zeros((N, W), dtype), np.zeros((N, W), dtype)
    gA, gB, gC = np.zeros((N, W), dtype), np.zeros((N, W), dtype), np.zeros((N, W), dtype)
    # The sum over a long sequence is taken chunk by chunk, which keeps its rounding error small.
    gA_chunk = np.zeros((N, W), dtype)
    gB_chunk, gC_chunk = np.zeros((N, W), dtype), np.zeros((N, W), dtype)
    gD, gbias = np.zeros(W, dtype), np.zeros(W, dtype)
    gD_chunk, gbias_chunk = np.zeros(W, dtype), np.zeros(W, dtype)
    Dt, bias, zt, gh = (
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
        np.zeros(W, dtype),
    )
    # Rows of a chunk: inputs, the gradient of y, and what is summed over the states.
    ut, dl, du = np.zeros((K, W), dtype), np.zeros((K, W), dtype), np.zeros((K, W), dtype)
    gy, gate_t, yt = np.zeros((K, W), dtype), np.zeros((K, W), dtype), np.zeros((K, W), dtype)
    gdu, gdl = np.zeros((K, W), dtype), np.zeros((K, W), dtype)
    before = np.zeros((K, block, W), dtype)  # the state before each step
    fade = np.zeros((K, block, W), dtype)  # each step's decay minus 1

    const_B, const_C, gated = x.B.size > 0, x.C.size > 0, x.z.size > 0
    groupB, groupC, lane, slab = task[GROUP_B], task[GROUP_C], task[LANE], task[SLAB]
    st, ln2 = x.strides, dtype.type(1) / x.log2e
    for d0 in range(task[FIRST_CHANNEL], task[END_CHANNEL], W):
        w = min(W, task[END_CHANNEL] - d0)
        adding = d0 > task[FIRST_CHANNEL]
        for matrix in (A, B, C, h, carry, ut, dl, gy, gA, gB, gC):
            zero(matrix)
        for vector in (zt, Dt, bias, gD, gbias):
            zero(vector)
        load_columns(x.A, d0, A, w)
        load_columns(x.B, d0, B, w)
        load_columns(x.C, d0, C, w)
        load_vector(x.D, d0, Dt, w)
        load_vector(x.bias, d0, bias, w)
        for s in range(task[FIRST_SEQUENCE], task[END_SEQUENCE]):
            b, first, steps, k = x.sequences[s]
            load_state(grad_last, s, d0, carry, w)
            for c in range((steps + K - 1) // K - 1, -1, -1):
                begin = first + c * K
                count = min(K, first + steps - begin)
                for i in range(count):
                    t = begin + i
                    load(x.u, b * st[0, 0] + t * st[0, 1] + d0 * st[0, 2], st[0, 2], ut[i], w)
                    load(x.delta, b * st[1, 0] + t * st[1, 1] + d0 * st[1, 2], st[1, 2], dl[i], w)
                    step_size(dl[i], bias, x.softplus, x.log2e)
                    if x.grad_y.size > 0:
                        at = b * st[3, 0] + t * st[3, 1] + d0 * st[3, 2]
                        load(x.grad_y, at, st[3, 2], gy[i], w)
                    else:
                        zero(gy[i])
                    if gated:
                        load(x.z, b * st[2, 0] + t * st[2, 1] + d0 * st[2, 2], st[2, 2], zt, w)
                        gate_backward(gy[i], zt, gate_t[i], x.log2e)
                    for d in range(W):
                        du[i, d] = dl[i, d] * ut[i, d]
                        yt[i, d] = Dt[d] * ut[i, d]
                        gdu[i, d] = dtype.type(0)
                        gdl[i, d] = dtype.type(0)
                if c == 0:
                    load_state(x.h0, s, d0, h, w)
                else:
                    load_columns(x.kept[k + c - 1], d0, h, w)
                for n0 in range(0, N, block):
                    states = min(block, N - n0)
                    _again(
                        x,
                        n0,
                        states,
                        begin,
                        count,
                        b,
                        groupB,
                        groupC,
                        slab,
                        adding,
                        h,
                        A,
                        B,
                        C,
                        dl,
                        du,
                        gy,
                        yt,
                        before,
                        fade,
                        gC_chunk,
                        grads,
                    )
                    _back(
                        x,
                        n0,
                        states,
                        begin,
                        count,
                        b,
                        groupB,
                        groupC,
                        slab,
                        adding,
                        carry,
                        A,
                        B,
                        C,
                        dl,
                        du,
                        gy,
                        gdu,
                        gdl,
                        before,
                        fade,
                        gA_chunk,
                        gB_chunk,
                        gh,
                        grads,
                    )
                for i in range(count):
                    row = b * x.length + begin + i
                    for d in range(W):
                        gD_chunk[d] += gy[i, d] * ut[i, d]
                        gdl[i, d] = gdl[i, d] * ln2 + gdu[i, d] * ut[i, d]
                        gdu[i, d] = gdu[i, d] * dl[i, d] + Dt[d] * gy[i, d]
                        gate_t[i, d] *= yt[i, d]
                    step_size_backward(gdl[i], dl[i], x.softplus, x.log2e)
                    for d in range(W):
                        gbias_chunk[d] += gdl[i, d]
                    store(gdu[i], grads.u, row * D + d0, w)
                    store(gdl[i], grads.delta, row * D + d0, w)
                    if gated:
                        store(gate_t[i], grads.z, row * D + d0, w)
                add_columns(gA_chunk, gA, w)
                zero(gA_chunk)
                if const_B:
                    add_columns(gB_chunk, gB, w)
                    zero(gB_chunk)
                if const_C:
                    add_columns(gC_chunk, gC, w)
                    zero(gC_chunk)
                for d in range(W):
                    gD[d] += gD_chunk[d]
                    gbias[d] += gbias_chunk[d]
                    gD_chunk[d] = dtype.type(0)
                    gbias_chunk[d] = dtype.type(0)
            store_state(carry, grads.h0, s, d0, w)
        store_columns(gA, grads.A[lane], d0, w)
        if const_B:
            store_columns(gB, grads.B[lane], d0, w)
        if const_C:
            store_columns(gC, grads.C[lane], d0, w)
        store(gD, grads.D[lane], d0, w)
        store(gbias, grads.bias[lane], d0, w)


@jit
def _again(
    x,
    n0,
    states,
    begin,
    count,
    b,
    groupB,
    groupC,
    slab,
    adding,
    h,
    A,
    B,
    C,
    dl,
    du,
    gy,
    yt,
    before,
    fade,
    gC_chunk,
    grads,
):
    """Run a chunk forwards from its first state, keeping its history; the gradient of C."""
    const_B, const_C = x.B.size > 0, x.C.size > 0
    for i in range(count):
        row = b * x.length + begin + i
        for j in range(states):
            n = n0 + j
            if not const_B:
                B[n, :] = x.B_t[row, groupB, n]
            if not const_C:
                C[n, :] = x.C_t[row, groupC, n]
            hn, An, Bn, Cn = h[n], A[n], B[n], C[n]
            past, e, dli, dui, yi = before[i, j], fade[i, j], dl[i], du[i], yt[i]
            for d in range(W):
                past[d] = hn[d]
                e[d] = expm1_base2(dli[d] * An[d])
                now = e[d] * hn[d] + (hn[d] + dui[d] * Bn[d])
                hn[d] = now
                yi[d] += now * Cn[d]
            gyi = gy[i]
            if const_C:
                gCn = gC_chunk[n]
                for d in range(W):
                    gCn[d] += gyi[d] * hn[d]
            else:
                value = dot(gyi, hn)
                if adding:
                    value += grads.C_t[slab, row, n]
                grads.C_t[slab, row, n] = value


@jit
def _back(
    x,
    n0,
    states,
    begin,
    count,
    b,
    groupB,
    groupC,
    slab,
    adding,
    carry,
    A,
    B,
    C,
    dl,
    du,
    gy,
    gdu,
    gdl,
    before,
    fade,
    gA_chunk,
    gB_chunk,
    gh,
    grads,
):
    """Run a chunk backwards: ``carry`` is the gradient of the state after the step."""
    const_B, const_C = x.B.size > 0, x.C.size > 0
    for i in range(count - 1, -1, -1):
        row = b * x.length + begin + i
        for j in range(states):
            n = n0 + j
            if not const_B:
                B[n, :] = x.B_t[row, groupB, n]
            if not const_C:
                C[n, :] = x.C_t[row, groupC, n]
            An, Bn, Cn, gAn, back = A[n], B[n], C[n], gA_chunk[n], carry[n]
            past, e, dli, gyi, gdui, gdli = before[i, j], fade[i, j], dl[i], gy[i], gdu[i], gdl[i]
            for d in range(W):
                g = back[d] + gyi[d] * Cn[d]
                gh[d] = g
                gdui[d] += g * Bn[d]
                # The exponent's gradient: g times the faded state.
                gx = g * (e[d] * past[d] + past[d])
                gdli[d] += gx * An[d]
                gAn[d] += gx * dli[d]
                back[d] = e[d] * g + g
            dui = du[i]
            if const_B:
                gBn = gB_chunk[n]
                for d in range(W):
                    gBn[d] += gh[d] * dui[d]
            else:
                value = dot(gh, dui)
                if adding:
                    value += grads.B_t[slab, row, n]
                grads.B_t[slab, row, n] = value


def forget_cache() -> None:
    """Compile without writing to disk from here on."""
    stop_caching(forward, backward)
