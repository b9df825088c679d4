"""The kernels' arguments, and the work on rows of a tile.

A tile is W neighbouring channels of one sequence. What is known of its channels lies in rows of
exactly W elements (zero where the tile reaches beyond the channels), so that the compiler knows
every loop's length.

Rows that one loop uses are columns of one matrix where that is possible: the compiler then sees
that they do not overlap. It gives up on a loop that would need more than eight checks of that.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt
from numba import types
from numba.extending import overload

from ssmlab.ops._cpu.compiling import expand, expand_sum, expand_wide, inline
from ssmlab.ops._cpu.maths import exp, expm1_base2, log1p_unit

Array: TypeAlias = npt.NDArray[Any]

W = 64

# What a channel's state has: the columns of a tile's constants, in units of W.
REAL = ("A", "B", "C")
COMPLEX = ("A", "A_turn", "A_rest", "B", "B_i", "C", "C_i")


class Inputs(NamedTuple):
    """A scan's arguments as the kernels take them. An absent one has size 0.

    u, delta, z and grad_y are flat views of their storage, of which ``strides`` gives, in that
    order, the steps over batch, length and channel. R is N, or 2N with complex A: the real parts,
    then the imaginary parts. With complex A, C is twice what the caller passed.
    """

    u: Array
    delta: Array
    z: Array
    grad_y: Array
    strides: Array  # (4, 3) int64
    constants: Array  # (N, columns, D), the columns REAL or COMPLEX: A log2(e), B, C; or
    # Re A log2(e), Im A / pi, what that was rounded by, Re and Im B, Re and Im C. Forwards, those of
    # B and C may be left out where neither is constant
    B_t: Array  # (batch * L, G, R) if B changes from step to step
    C_t: Array  # (batch * L, G, R) if C does
    D: Array  # (D,)
    bias: Array  # (D,)
    h0: Array  # (S, D, R)
    kept: Array  # (states kept, R, D), written forward, read backward
    sequences: Array  # (S, 4) int64: batch index, first and number of steps, first state kept
    length: int  # L of a batch entry
    chunk: int  # steps between states kept, a multiple of CHUNK; 0 keeps none
    softplus: bool
    log2e: Any  # log2(e), in the dtype to compute in
    written: tuple[Array, ...]  # what the kernel writes of u's shape, flat
    zero: Any  # 0 in the dtype of the states, which selects the real or the complex recurrence


class Gradients(NamedTuple):
    """Where the backward pass writes. Sums over sequences and channels are left in parts."""

    u: Array  # (B * L * D,)
    delta: Array  # (B * L * D,)
    z: Array  # (B * L * D,)
    A: Array  # (lanes, R, D), of A itself
    B: Array  # (lanes, R, D)
    C: Array  # (lanes, R, D), like all of C here with complex A: of twice C
    B_t: Array  # (slabs, B * L, R)
    C_t: Array  # (slabs, B * L, R)
    D: Array  # (lanes, D)
    bias: Array  # (lanes, D)
    h0: Array  # (S, D, R)


# Columns of a task: what one call of a kernel works on.
LANE, FIRST_SEQUENCE, END_SEQUENCE, GROUP_B, GROUP_C, SLAB, FIRST_CHANNEL, END_CHANNEL = range(8)
TASK_FIELDS = 8


def with_own(value: Any, own: Any, i: Any) -> Any:
    """``value``, which all channels share, plus a channel's own own[i], unless ``own`` is None."""
    raise NotImplementedError("compiled code only")


@overload(with_own)
def _with_own(value, own, i):
    if isinstance(own, types.NoneType):
        return lambda value, own, i: value
    return lambda value, own, i: value + own[i]


@expand
def shared(factor: Array, row: int, group: int, n: int) -> Any:
    """What the channels of a group have in common of B or C; nothing where that is constant."""
    return factor[row, group, n] if factor.size > 0 else factor.dtype.type(0)


@expand_wide
def load(source: Array, start: int, stride: int, out: Array, w: int) -> None:
    """out[:w] = source[start], source[start + stride], ..."""
    if stride == 1:
        row = source[start : start + w]
        for d in range(w):
            out[d] = row[d]
    else:
        for d in range(w):
            out[d] = source[start + d * stride]


@expand_wide
def store(row: Array, out: Array, start: int, w: int) -> None:
    """out[start : start + w] = row[:w]."""
    target = out[start : start + w]
    for d in range(w):
        target[d] = row[d]


@inline
def load_constants(source: Array, d0: int, out: Array, w: int) -> None:
    """out[n, c * W :][:w] = source[n, c, d0 : d0 + w]."""
    for n in range(source.shape[0]):
        for c in range(source.shape[1]):
            load(source[n, c], d0, 1, out[n, c * W : c * W + W], w)


@inline
def load_vector(source: Array, d0: int, out: Array, w: int) -> None:
    """out[:w] = source[d0 : d0 + w], or nothing if ``source`` is absent."""
    if source.shape[0] > 0:
        load(source, d0, 1, out, w)


@inline
def load_state(source: Array, s: int, d0: int, out: Array, column: int, width: int, w: int) -> None:
    """``width`` columns from ``column`` on = the state of sequence s, zeros if that is absent."""
    N = out.shape[0]
    for n in range(N):
        for p in range(width // W):
            row = out[n, column + p * W : column + p * W + W]
            for d in range(w):
                row[d] = source[s, d0 + d, p * N + n] if source.size > 0 else row.dtype.type(0)


@inline
def store_state(state: Array, column: int, out: Array, s: int, d0: int, w: int) -> None:
    """out[s, d0 : d0 + w] = the columns from ``column`` on, transposed."""
    N = state.shape[0]
    for n in range(N):
        for p in range(out.shape[2] // N):
            row = state[n, column + p * W : column + p * W + W]
            for d in range(w):
                out[s, d0 + d, p * N + n] = row[d]


@inline
def load_kept(source: Array, d0: int, out: Array, w: int) -> None:
    """The first columns = source[:, d0 : d0 + w], a state that was kept."""
    N = out.shape[0]
    for n in range(N):
        for p in range(source.shape[0] // N):
            load(source[p * N + n], d0, 1, out[n, p * W : p * W + W], w)


@inline
def store_columns(values: Array, column: int, out: Array, d0: int, w: int) -> None:
    """out[:, d0 : d0 + w] = the columns from ``column`` on."""
    N = values.shape[0]
    for n in range(N):
        for p in range(out.shape[0] // N):
            at = column + p * W
            store(values[n, at : at + W], out[p * N + n], d0, w)


@expand_wide
def step_size(row: Array, bias: Array, softplus: bool) -> None:
    """Turn delta into the step size, in place."""
    zero = row.dtype.type(0)
    if softplus:
        for d in range(W):
            x = row[d] + bias[d]
            # log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), no overflow and no cancellation.
            row[d] = (zero if x < zero else x) + log1p_unit(exp(-abs(x)))
    else:
        for d in range(W):
            row[d] += bias[d]


@expand_wide
def gate(row: Array, z: Array, log2e: Any) -> None:
    """Multiply by silu(z), in place."""
    two = row.dtype.type(2)
    for d in range(W):
        row[d] *= z[d] / (expm1_base2(-z[d] * log2e) + two)


@expand
def gate_backward(grad: Array, z: Array, grad_gate: Array, log2e: Any) -> None:
    """grad of gate(y, z): grad becomes that of y, grad_gate what times y is that of z."""
    one, two = grad.dtype.type(1), grad.dtype.type(2)
    for d in range(W):
        s = one / (expm1_base2(-z[d] * log2e) + two)
        grad_gate[d] = grad[d] * (s * (one + z[d] * (one - s)))
        grad[d] *= z[d] * s


@expand
def step_size_backward(grad: Array, step: Array, softplus: bool, log2e: Any) -> None:
    """Turn the gradient of the step size into that of delta, in place."""
    if softplus:
        for d in range(W):
            # The sigmoid of x is 1 - e^-softplus(x).
            grad[d] *= -expm1_base2(-step[d] * log2e)


@expand_sum
def add_product(total: Any, a: Any, b: Any) -> Any:
    """total + a * b, in a loop over a tile: a part of the sum."""
    return total + a * b


@expand_sum
def dot(a: Array, i: int, b: Array, j: int) -> Any:
    """The sum of a[i :] * b[j :] over a tile."""
    total = a.dtype.type(0)
    for d in range(W):
        total += a[i + d] * b[j + d]
    return total


@inline
def zero(array: Array) -> None:
    """Fill with zeros."""
    flat = array.ravel()
    for i in range(flat.shape[0]):
        flat[i] = array.dtype.type(0)


@inline
def move(values: Array, column: int, width: int, total: Array) -> None:
    """Add ``width`` columns from ``column`` on to the same ones of ``total``, and clear them."""
    for n in range(values.shape[0]):
        row, out = values[n, column : column + width], total[n, column : column + width]
        for d in range(width):
            out[d] += row[d]
            row[d] = values.dtype.type(0)
