"""The kernels' arguments, and the work on rows of a tile.

A tile is W neighbouring channels of one sequence; its rows live in arrays of exactly W elements
(zero where the tile reaches beyond the channels), so that the compiler knows every loop's length.

A state is a matrix of rows: N of them, one per state of a channel, or, with complex A, 2N: the real
parts, then the imaginary parts. Nearly all the code handles rows and need not know which.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from ssmlab.ops.selective_scan.cpu.maths import FLAGS, expm1_base2, log1p_unit

Array: TypeAlias = npt.NDArray[Any]

W = 64

OPTIONS: dict[str, Any] = {"error_model": "numpy"}
# Not cached on its own: the compiler would not see that a function it calls has changed.
inline = njit(fastmath=FLAGS, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)


class Inputs(NamedTuple):
    """A scan's arguments as the kernels take them. An absent one has size 0.

    u, delta, z and grad_y are flat views of their storage, of which ``strides`` gives, in that
    order, the steps over batch, length and channel. R is the number of rows of a state.
    """

    u: Array
    delta: Array
    z: Array
    grad_y: Array
    strides: Array  # (4, 3) int64
    A: Array  # (N, D): A log2(e). Complex: (3N, D): Re A log2(e), Im A / pi, what it was rounded by
    B: Array  # (R, D) constant
    C: Array  # (R, D) constant; complex: twice C
    B_t: Array  # (batch * L, G, R) per step
    C_t: Array  # (batch * L, G, R) per step; complex: twice C
    D: Array  # (D,)
    bias: Array  # (D,)
    h0: Array  # (S, D, R)
    kept: Array  # (states kept, R, D), written forward, read backward
    sequences: Array  # (S, 4) int64: batch index, first and number of steps, first state kept
    length: int  # L of a batch entry
    states: int  # N
    chunk: int  # steps between states kept, a multiple of CHUNK; 0 keeps none
    softplus: bool
    log2e: Any  # log2(e), in the dtype to compute in
    zero: Any  # 0 in the dtype of the states, which selects the real or the complex recurrence


class Gradients(NamedTuple):
    """Where the backward pass writes. Sums over sequences and channels are left in parts."""

    u: Array  # (B * L * D,)
    delta: Array  # (B * L * D,)
    z: Array  # (B * L * D,)
    A: Array  # (lanes, R, D), of A itself
    B: Array  # (lanes, R, D)
    C: Array  # (lanes, R, D), of what Inputs.C holds
    B_t: Array  # (slabs, B * L, R)
    C_t: Array  # (slabs, B * L, R)
    D: Array  # (lanes, D)
    bias: Array  # (lanes, D)
    h0: Array  # (S, D, R)


# Columns of a task: what one call of a kernel works on.
LANE, FIRST_SEQUENCE, END_SEQUENCE, GROUP_B, GROUP_C, SLAB, FIRST_CHANNEL, END_CHANNEL = range(8)
TASK_FIELDS = 8


def at(value: Any, d: Any) -> Any:
    """``value[d]``, or ``value`` itself where all channels share it."""
    raise NotImplementedError("compiled code only")


@overload(at)
def _at(value, d):
    if isinstance(value, types.Array):
        return lambda value, d: value[d]
    return lambda value, d: value


@inline
def load(source: Array, start: int, stride: int, out: Array, w: int) -> None:
    """out[:w] = source[start], source[start + stride], ..."""
    if stride == 1:
        row = source[start : start + w]
        for d in range(w):
            out[d] = row[d]
    else:
        for d in range(w):
            out[d] = source[start + d * stride]


@inline
def store(row: Array, out: Array, start: int, w: int) -> None:
    """out[start : start + w] = row[:w]."""
    target = out[start : start + w]
    for d in range(w):
        target[d] = row[d]


@inline
def load_columns(source: Array, d0: int, out: Array, w: int) -> None:
    """out[:, :w] = source[:, d0 : d0 + w], or nothing if ``source`` is absent."""
    for n in range(source.shape[0]):
        row = source[n, d0 : d0 + w]
        for d in range(w):
            out[n, d] = row[d]


@inline
def load_vector(source: Array, d0: int, out: Array, w: int) -> None:
    """out[:w] = source[d0 : d0 + w], or nothing if ``source`` is absent."""
    if source.shape[0] > 0:
        load(source, d0, 1, out, w)


@inline
def load_state(source: Array, s: int, d0: int, out: Array, w: int) -> None:
    """out[:, :w] = the state of sequence s, zeros if ``source`` is absent."""
    for n in range(out.shape[0]):
        for d in range(w):
            out[n, d] = source[s, d0 + d, n] if source.shape[0] > 0 else out.dtype.type(0)


@inline
def store_state(state: Array, out: Array, s: int, d0: int, w: int) -> None:
    """out[s, d0 : d0 + w] = state[:, :w] transposed."""
    for d in range(w):
        for n in range(state.shape[0]):
            out[s, d0 + d, n] = state[n, d]


@inline
def step_size(row: Array, bias: Array, softplus: bool, log2e: Any) -> None:
    """Turn delta into the step size, in place."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    if softplus:
        for d in range(W):
            x = row[d] + bias[d]
            # log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), no overflow and no cancellation.
            e = expm1_base2(-abs(x) * log2e) + one
            row[d] = (zero if x < zero else x) + log1p_unit(e)
    else:
        for d in range(W):
            row[d] += bias[d]


@inline
def gate(row: Array, z: Array, log2e: Any) -> None:
    """Multiply by silu(z), in place."""
    two = row.dtype.type(2)
    for d in range(W):
        row[d] *= z[d] / (expm1_base2(-z[d] * log2e) + two)


@inline
def gate_backward(grad: Array, z: Array, grad_gate: Array, log2e: Any) -> None:
    """grad of gate(y, z): grad becomes that of y, grad_gate what times y is that of z."""
    one, two = grad.dtype.type(1), grad.dtype.type(2)
    for d in range(W):
        s = one / (expm1_base2(-z[d] * log2e) + two)
        grad_gate[d] = grad[d] * (s * (one + z[d] * (one - s)))
        grad[d] *= z[d] * s


@inline
def step_size_backward(grad: Array, step: Array, softplus: bool, log2e: Any) -> None:
    """Turn the gradient of the step size into that of delta, in place."""
    if softplus:
        for d in range(W):
            # The sigmoid of x is 1 - e^-softplus(x).
            grad[d] *= -expm1_base2(-step[d] * log2e)


@njit(fastmath=FLAGS | {"reassoc"}, **OPTIONS)
def dot(a: Array, b: Array) -> Any:
    """The sum of a * b over a tile. Only here may the compiler choose the order of a sum."""
    total = a.dtype.type(0)
    for d in range(W):
        total += a[d] * b[d]
    return total


@inline
def zero(array: Array) -> None:
    """Fill with zeros."""
    flat = array.ravel()
    for i in range(flat.shape[0]):
        flat[i] = array.dtype.type(0)


@inline
def add_columns(values: Array, total: Array) -> None:
    """total += values, and clear values."""
    for n in range(values.shape[0]):
        for d in range(W):
            total[n, d] += values[n, d]
            values[n, d] = values.dtype.type(0)


@inline
def store_columns(values: Array, out: Array, d0: int, w: int) -> None:
    """out[:, d0 : d0 + w] = values[:, :w]."""
    for n in range(values.shape[0]):
        store(values[n], out[n], d0, w)


@inline
def spread(source: Array, out: Array) -> None:
    """out[n, :] = source[n]."""
    for n in range(source.shape[0]):
        for d in range(W):
            out[n, d] = source[n]
