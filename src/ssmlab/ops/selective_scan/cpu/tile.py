"""What the real and the complex kernels share: their arguments and the work on rows of a tile.

A tile is W neighbouring channels of one sequence; its rows live in arrays of exactly W elements
(zero where the tile reaches beyond the channels), so that the compiler knows every loop's length.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.core.caching import NullCache

from ssmlab.ops.selective_scan.cpu.maths import FLAGS, expm1_base2, log1p_unit

Array: TypeAlias = npt.NDArray[Any]

W = 64

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def jit(function: Any) -> Any:
    """Compile without the interpreter's lock, keeping the code on disk where that is possible."""
    try:
        return njit(cache=True, fastmath=FLAGS, **_OPTIONS)(function)
    except RuntimeError:  # no folder for the cache can be written to
        return njit(fastmath=FLAGS, **_OPTIONS)(function)


def stop_caching(*functions: Any) -> None:
    """Keep these functions' compiled code in memory only."""
    for function in functions:
        function._cache = NullCache()


class Inputs(NamedTuple):
    """A scan's arguments as the kernels take them. An absent one has size 0.

    u, delta, z and grad_y are flat views of their storage, of which ``strides`` gives, in that
    order, the steps over batch, length and channel. With complex A, the arrays A to C_t, h0 and
    kept have one more dimension, in front: the real and the imaginary part.
    """

    u: Array
    delta: Array
    z: Array
    grad_y: Array
    strides: Array  # (4, 3) int64
    A: Array  # (N, D): the real part times log2(e), the imaginary part divided by pi
    B: Array  # (N, D) constant
    C: Array  # (N, D) constant
    B_t: Array  # (batch * L, G, N) per step
    C_t: Array  # (batch * L, G, N) per step
    D: Array  # (D,)
    bias: Array  # (D,)
    h0: Array  # (S, D, N)
    kept: Array  # (states kept, N, D), written forward, read backward
    sequences: Array  # (S, 4) int64: batch index, first and number of steps, first state kept
    length: int  # L of a batch entry
    chunk: int  # steps between states kept; 0 keeps none
    softplus: bool
    log2e: Any  # log2(e), in the dtype to compute in


@jit
def load(source: Array, start: int, stride: int, out: Array, w: int) -> None:
    """out[:w] = source[start], source[start + stride], ..."""
    if stride == 1:
        row = source[start : start + w]
        for d in range(w):
            out[d] = row[d]
    else:
        for d in range(w):
            out[d] = source[start + d * stride]


@jit
def store(row: Array, out: Array, start: int, w: int) -> None:
    """out[start : start + w] = row[:w]."""
    target = out[start : start + w]
    for d in range(w):
        target[d] = row[d]


@jit
def load_columns(source: Array, d0: int, out: Array, w: int) -> None:
    """out[:, :w] = source[:, d0 : d0 + w], or nothing if ``source`` is absent."""
    for n in range(source.shape[0]):
        row = source[n, d0 : d0 + w]
        for d in range(w):
            out[n, d] = row[d]


@jit
def load_vector(source: Array, d0: int, out: Array, w: int) -> None:
    """out[:w] = source[d0 : d0 + w], or nothing if ``source`` is absent."""
    if source.shape[0] > 0:
        load(source, d0, 1, out, w)


@jit
def load_state(source: Array, s: int, d0: int, out: Array, w: int) -> None:
    """out[:, :w] = the state of sequence s, zeros if ``source`` is absent."""
    for n in range(out.shape[0]):
        for d in range(w):
            out[n, d] = source[s, d0 + d, n] if source.shape[0] > 0 else out.dtype.type(0)


@jit
def store_state(state: Array, out: Array, s: int, d0: int, w: int) -> None:
    """out[s, d0 : d0 + w] = state[:, :w] transposed."""
    for d in range(w):
        for n in range(state.shape[0]):
            out[s, d0 + d, n] = state[n, d]


@jit
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


@jit
def gate(row: Array, z: Array, log2e: Any) -> None:
    """Multiply by silu(z), in place."""
    two = row.dtype.type(2)
    for d in range(W):
        row[d] *= z[d] / (expm1_base2(-z[d] * log2e) + two)


@jit
def gate_backward(grad: Array, z: Array, grad_gate: Array, log2e: Any) -> None:
    """grad of gate(y, z): grad becomes that of y, grad_gate what times y is that of z."""
    one, two = grad.dtype.type(1), grad.dtype.type(2)
    for d in range(W):
        s = one / (expm1_base2(-z[d] * log2e) + two)
        grad_gate[d] = grad[d] * (s * (one + z[d] * (one - s)))
        grad[d] *= z[d] * s


@jit
def step_size_backward(grad: Array, step: Array, softplus: bool, log2e: Any) -> None:
    """Turn the gradient of the step size into that of delta, in place."""
    if softplus:
        for d in range(W):
            # The sigmoid of x is 1 - e^-softplus(x).
            grad[d] *= -expm1_base2(-step[d] * log2e)


@njit(fastmath=FLAGS | {"reassoc"}, **_OPTIONS)
def dot(a: Array, b: Array) -> Any:
    """The sum of a * b over a tile. Only here may the compiler choose the order of a sum."""
    total = a.dtype.type(0)
    for d in range(W):
        total += a[d] * b[d]
    return total


@jit
def zero(array: Array) -> None:
    """Fill with zeros."""
    flat = array.ravel()
    for i in range(flat.shape[0]):
        flat[i] = array.dtype.type(0)


@jit
def add_columns(values: Array, total: Array, w: int) -> None:
    """total += values."""
    for n in range(values.shape[0]):
        for d in range(w):
            total[n, d] += values[n, d]


@jit
def store_columns(values: Array, out: Array, d0: int, w: int) -> None:
    """out[:, d0 : d0 + w] = values[:, :w]."""
    for n in range(values.shape[0]):
        store(values[n], out[n], d0, w)


# Rows of a task: what one call of a kernel works on.
LANE, FIRST_SEQUENCE, END_SEQUENCE, GROUP_B, GROUP_C, SLAB, FIRST_CHANNEL, END_CHANNEL = range(8)
TASK_FIELDS = 8
