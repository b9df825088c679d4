"""Numba kernels of the causal convolution, forward and backward.

The work is cut into blocks of ROWS rows by COLS channels. In a block, time is the outer loop and
channels the inner one, which LLVM turns into vector instructions; a row is handled as an address,
so that views of a larger tensor need no copy. Taps are taken four at a time, and taps before
the first (or before the start of a sequence) read a row of zeros, so that one loop body serves all.

The backward pass computes the pre-activation again rather than store it. It keeps the gradients of
the last W pre-activations of its block in a ring; a row of dx is ready once W of them are there.

Shape letters: B batch, L length, D channels, W width (taps).
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.caching import NullCache
from numba.extending import intrinsic, overload

ROWS = 128
COLS = 256
GROUP = 4

# Not "fast": NaN and infinity must pass through, and sums keep their order.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "nsz"}}
_INLINE = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
_LEAST, _MOST = np.float32(-87.0), np.float32(88.0)
_ONE = np.float32(1)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / f) for f in (2.0, 6.0, 24.0, 120.0, 720.0, 5040.0))


def _pointer(builder: Any, address: Any, index: Any, element: ir.Type) -> Any:
    base = builder.inttoptr(address, element.as_pointer())
    return builder.gep(base, [index], inbounds=True)


@intrinsic
def _load(typingctx, address, index, like):
    """Element ``index`` of the row at ``address``, widened to the type of the sums."""
    result = like if isinstance(like, types.Float) else types.float32

    def codegen(context, builder, signature, args):
        element = context.get_value_type(like)
        value = builder.load(_pointer(builder, args[0], args[1], element))
        if like == types.uint16:  # bfloat16: the upper half of a float32
            wide = builder.shl(builder.zext(value, ir.IntType(32)), ir.IntType(32)(16))
            return builder.bitcast(wide, ir.FloatType())
        if like == types.int16:  # float16
            return builder.fpext(builder.bitcast(value, ir.HalfType()), ir.FloatType())
        return value

    return result(types.int64, types.int64, like), codegen


@intrinsic
def _store(typingctx, address, index, value, like):
    """Write ``value``, rounded to nearest even where the element is narrower."""

    def codegen(context, builder, signature, args):
        element = context.get_value_type(like)
        value_ir = args[2]
        if like == types.uint16:
            word = ir.IntType(32)
            bits = builder.bitcast(value_ir, word)
            odd = builder.and_(builder.lshr(bits, word(16)), word(1))
            rounded = builder.add(bits, builder.add(odd, word(0x7FFF)))
            nan = builder.fcmp_unordered("uno", value_ir, value_ir)
            bits = builder.select(nan, word(0x7FC00000), rounded)
            value_ir = builder.trunc(builder.lshr(bits, word(16)), ir.IntType(16))
        elif like == types.int16:
            value_ir = builder.bitcast(builder.fptrunc(value_ir, ir.HalfType()), ir.IntType(16))
        builder.store(value_ir, _pointer(builder, args[0], args[1], element))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value, like), codegen


@intrinsic
def _power_of_two(typingctx, shifted):
    """2^n for the integer n in the low bits of ``shifted`` = n + _MAGIC."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        bits = builder.shl(builder.bitcast(args[0], word), word(23))
        return builder.bitcast(builder.add(bits, word(0x3F800000)), ir.FloatType())

    return types.float32(types.float32), codegen


def _sigmoid(s: Any) -> Any:
    raise NotImplementedError("compiled code only")


@overload(_sigmoid, inline="never", jit_options=_OPTIONS)
def _sigmoid_overload(s):
    if s == types.float64:
        return lambda s: 1.0 / (1.0 + np.exp(-s))

    def single(s):
        # exp(z) = 2^n exp(r), |r| <= ln(2)/2, by its Taylor polynomial: vectorises without a library.
        z = -s if -s > _LEAST else _LEAST
        z = z if z < _MOST else _MOST
        shifted = z * _LOG2E + _MAGIC
        n = shifted - _MAGIC
        r = z - n * _LN2_HIGH - n * _LN2_LOW
        p = _C6 + r * _C7
        p = _C5 + r * p
        p = _C4 + r * p
        p = _C3 + r * p
        p = _C2 + r * p
        p = _ONE + r * p
        p = _ONE + r * p
        return _ONE / (_ONE + p * _power_of_two(shifted))

    return single


@intrinsic
def _at(typingctx, address, index, like):
    """Address of element ``index`` counted from ``address``."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(builder, args[0], args[1], context.get_value_type(like))
        return builder.ptrtoint(pointer, ir.IntType(64))

    return types.int64(types.int64, types.int64, like), codegen


@_INLINE
def _combine(out, base, rows, w, n, like, out_like, one):
    """out = base + sum of w[k] * rows[k] over a group of rows; ``w`` has rows of COLS."""
    r0, r1, r2, r3 = rows
    for d in range(n):
        s = _load(base, d, one) + _load(w, d, one) * _load(r0, d, like)
        s += _load(w, d + COLS, one) * _load(r1, d, like)
        s += _load(w, d + 2 * COLS, one) * _load(r2, d, like)
        s += _load(w, d + 3 * COLS, one) * _load(r3, d, like)
        _store(out, d, s, out_like)


@_INLINE
def _combine_silu(out, base, rows, w, n, like, one):
    """out = silu(s) for the sum s that ``_combine`` takes."""
    r0, r1, r2, r3 = rows
    for d in range(n):
        s = _load(base, d, one) + _load(w, d, one) * _load(r0, d, like)
        s += _load(w, d + COLS, one) * _load(r1, d, like)
        s += _load(w, d + 2 * COLS, one) * _load(r2, d, like)
        s += _load(w, d + 3 * COLS, one) * _load(r3, d, like)
        _store(out, d, s * _sigmoid(s), like)


@_INLINE
def _combine_slope(out, base, rows, w, n, dy, like, one):
    """out = dy * silu'(s) for the sum s that ``_combine`` takes."""
    r0, r1, r2, r3 = rows
    for d in range(n):
        s = _load(base, d, one) + _load(w, d, one) * _load(r0, d, like)
        s += _load(w, d + COLS, one) * _load(r1, d, like)
        s += _load(w, d + 2 * COLS, one) * _load(r2, d, like)
        s += _load(w, d + 3 * COLS, one) * _load(r3, d, like)
        gate = _sigmoid(s)
        _store(out, d, _load(dy, d, like) * gate * (one + s * (one - gate)), one)


@_INLINE
def _accumulate(out, ds, rows, n, like, one):
    """out[k] += ds * rows[k] over a group of rows; ``out`` has rows of COLS."""
    r0, r1, r2, r3 = rows
    for d in range(n):
        g = _load(ds, d, one)
        _store(out, d, _load(out, d, one) + g * _load(r0, d, like), one)
        _store(out, d + COLS, _load(out, d + COLS, one) + g * _load(r1, d, like), one)
        _store(out, d + 2 * COLS, _load(out, d + 2 * COLS, one) + g * _load(r2, d, like), one)
        _store(out, d + 3 * COLS, _load(out, d + 3 * COLS, one) + g * _load(r3, d, like), one)


@_INLINE
def _add(out, row, n, one):
    for d in range(n):
        _store(out, d, _load(out, d, one) + _load(row, d, one), one)


@_INLINE
def _copy(out, row, n, like, out_like):
    for d in range(n):
        _store(out, d, _load(row, d, like), out_like)


@_INLINE
def _segment_at(bounds, row):
    """The segment that holds ``row``: the last one that begins at or before it."""
    low, high = 0, bounds.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if bounds[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@_INLINE
def _input_row(t, lag, here, segment, zeros, state, col0, shape, source, like):
    """Address of the input ``lag`` steps before row ``t`` of a segment: x, its state or zeros."""
    _, _, channels, width, _ = shape
    past = t - lag
    if lag >= width or (past < 0 and state == 0):
        return zeros
    if past < 0:
        return _at(state, (segment * (width - 1) + past + width - 1) * channels + col0, like)
    return _at(here, past * source[2], like)


@_INLINE
def _input_rows(t, lag, here, segment, zeros, state, col0, shape, source, like):
    """Addresses of a group of inputs, the oldest ``lag`` steps before row ``t``."""
    return (
        _input_row(t, lag, here, segment, zeros, state, col0, shape, source, like),
        _input_row(t, lag - 1, here, segment, zeros, state, col0, shape, source, like),
        _input_row(t, lag - 2, here, segment, zeros, state, col0, shape, source, like),
        _input_row(t, lag - 3, here, segment, zeros, state, col0, shape, source, like),
    )


@_INLINE
def _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one):
    """Scratch rows: 0 zeros, 1 bias, 2 and 3 partial sums, then taps, zeros before the first."""
    if bias != 0:
        _copy(_at(scratch, COLS, one), _at(bias, col0, one), n, one, one)
    for k in range(width):
        target = _at(scratch, (4 + padded - width + k) * COLS, one)
        _copy(target, _at(taps, k * channels + col0, one), n, one, one)


@_INLINE
def _forward_block(task, shape, bounds, skip, source, addresses, like, one):
    rows, length, channels, width, silu = shape
    taps, bias, state, y = addresses
    column_blocks = (channels + COLS - 1) // COLS
    row0, col0 = task // column_blocks * ROWS, task % column_blocks * COLS
    row1, n = min(row0 + ROWS, rows), min(COLS, channels - col0)
    padded = (width + GROUP - 1) // GROUP * GROUP
    memory = np.zeros((4 + padded) * COLS)
    scratch = np.int64(memory.ctypes.data)
    _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one)
    segment = _segment_at(bounds, row0)
    while segment < bounds.shape[0] - 1 and bounds[segment] < row1:
        start = bounds[segment]
        here = _at(source[0], start // length * source[1] + start % length * source[2] + col0, like)
        for t in range(max(row0 - start, 0), min(row1, bounds[segment + 1]) - start):
            out = _at(y, (start + t) * channels + col0, like)
            if skip[segment]:
                _copy(out, scratch, n, one, like)
                continue
            base = _at(scratch, COLS, one)
            for k in range(0, padded - GROUP, GROUP):
                partial = _at(scratch, (2 + k // GROUP % 2) * COLS, one)
                inputs = _input_rows(
                    t, padded - 1 - k, here, segment, scratch, state, col0, shape, source, like
                )
                w = _at(scratch, (4 + k) * COLS, one)
                _combine(partial, base, inputs, w, n, like, one, one)
                base = partial
            inputs = _input_rows(
                t, GROUP - 1, here, segment, scratch, state, col0, shape, source, like
            )
            w = _at(scratch, padded * COLS, one)
            if silu != 0:
                _combine_silu(out, base, inputs, w, n, like, one)
            else:
                _combine(out, base, inputs, w, n, like, like, one)
        segment += 1
    memory[0] = 0  # keeps the scratch memory alive until here


@_INLINE
def _emit(p, target, last, ring, scratch, padded, width, n, like, one):
    """Write the input gradient of row ``p``: what the outputs p, ..., p+W-1 (up to ``last``) send."""
    base = scratch
    for k in range(0, padded, GROUP):
        final = k == padded - GROUP
        sent = (
            _ring_row(p, padded - 1 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 2 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 3 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 4 - k, last, ring, scratch, width, one),
        )
        w = _at(scratch, (4 + k) * COLS, one)
        if final:
            _combine(target, base, sent, w, n, one, like, one)
        else:
            partial = _at(scratch, (2 + k // GROUP % 2) * COLS, one)
            _combine(partial, base, sent, w, n, one, one, one)
            base = partial


@_INLINE
def _ring_row(p, lag, last, ring, zeros, width, one):
    q = p + lag
    if lag >= width or q < 0 or q > last:
        return zeros
    return _at(ring, q % width * COLS, one)


@_INLINE
def _backward_block(task, shape, bounds, skip, source, addresses, like, one):
    rows, length, channels, width, silu = shape
    taps, bias, state, dy, dy_batch, dy_row, dx, dstate, sums = addresses
    column_blocks = (channels + COLS - 1) // COLS
    row_block, col0 = task // column_blocks, task % column_blocks * COLS
    row0 = row_block * ROWS
    row1, n = min(row0 + ROWS, rows), min(COLS, channels - col0)
    padded = (width + GROUP - 1) // GROUP * GROUP
    memory = np.zeros((4 + padded + width + padded + 1) * COLS)
    scratch = np.int64(memory.ctypes.data)
    ring = _at(scratch, (4 + padded) * COLS, one)
    dw = _at(ring, width * COLS, one)
    db = _at(dw, padded * COLS, one)
    _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one)
    segment = _segment_at(bounds, row0)
    while segment < bounds.shape[0] - 1 and bounds[segment] < row1:
        start, stop = bounds[segment], bounds[segment + 1]
        batch, local = start // length, start % length
        here = _at(source[0], batch * source[1] + local * source[2] + col0, like)
        dy_here = _at(dy, batch * dy_batch + local * dy_row + col0, like)
        dx_here = _at(dx, start * channels + col0, like)
        first, end = max(row0 - start, 0), min(row1, stop) - start
        if skip[segment]:
            for t in range(first, end):
                _copy(_at(dx_here, t * channels, like), scratch, n, one, like)
            segment += 1
            continue
        before = _at(dstate, ((segment + 1) * (width - 1)) * channels + col0, like)
        emitted = first if first > 0 or state == 0 else 1 - width
        last = min(end + width - 1, stop - start) - 1
        for t in range(first, last + 1):
            slot = _at(ring, t % width * COLS, one)
            base = _at(scratch, COLS, one)
            dy_t = _at(dy_here, t * dy_row, like)
            for k in range(0, padded, GROUP):
                inputs = _input_rows(
                    t, padded - 1 - k, here, segment, scratch, state, col0, shape, source, like
                )
                w = _at(scratch, (4 + k) * COLS, one)
                if silu == 0:
                    break
                if k == padded - GROUP:
                    _combine_slope(slot, base, inputs, w, n, dy_t, like, one)
                else:
                    partial = _at(scratch, (2 + k // GROUP % 2) * COLS, one)
                    _combine(partial, base, inputs, w, n, like, one, one)
                    base = partial
            if silu == 0:
                _copy(slot, dy_t, n, like, one)
            if t < end:
                for k in range(0, padded, GROUP):
                    inputs = _input_rows(
                        t, padded - 1 - k, here, segment, scratch, state, col0, shape, source, like
                    )
                    _accumulate(_at(dw, k * COLS, one), slot, inputs, n, like, one)
                _add(db, slot, n, one)
            # The last row also completes those after it that later outputs would have reached.
            ready = end - 1 if t == last else t - width + 1
            while emitted <= ready:
                target = _at(dx_here if emitted >= 0 else before, emitted * channels, like)
                _emit(emitted, target, t, ring, scratch, padded, width, n, like, one)
                emitted += 1
        segment += 1
    for k in range(width + 1):
        target = _at(sums, (row_block * (width + 1) + k) * channels + col0, one)
        source_row = db if k == width else _at(dw, (padded - width + k) * COLS, one)
        _copy(target, source_row, n, one, one)
    memory[0] = 0  # keeps the scratch memory alive until here


@_INLINE
def _tasks(shape):
    return (shape[0] + ROWS - 1) // ROWS * ((shape[2] + COLS - 1) // COLS)


def _compiled(parallel: bool) -> Callable[..., Any]:
    """numba.njit with the compiled code kept on disk, or not kept where no folder can be written."""

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, parallel=parallel, **_OPTIONS)(function)
        except RuntimeError:  # "no locator available"
            return numba.njit(parallel=parallel, **_OPTIONS)(function)

    return decorate


@_compiled(parallel=True)
def forward(shape, bounds, skip, source, addresses, like, one):
    for task in numba.prange(_tasks(shape)):
        _forward_block(np.int64(task), shape, bounds, skip, source, addresses, like, one)


@_compiled(parallel=False)
def forward_serial(shape, bounds, skip, source, addresses, like, one):
    for task in range(_tasks(shape)):
        _forward_block(np.int64(task), shape, bounds, skip, source, addresses, like, one)


@_compiled(parallel=True)
def backward(shape, bounds, skip, source, addresses, like, one):
    for task in numba.prange(_tasks(shape)):
        _backward_block(np.int64(task), shape, bounds, skip, source, addresses, like, one)


@_compiled(parallel=False)
def backward_serial(shape, bounds, skip, source, addresses, like, one):
    for task in range(_tasks(shape)):
        _backward_block(np.int64(task), shape, bounds, skip, source, addresses, like, one)


def call(kernel: Any, *arguments: Any) -> None:
    """Run a kernel; where its compiled code cannot be stored (disk full), go on without storing."""
    try:
        kernel(*arguments)
    except OSError:
        kernel._cache = NullCache()
        kernel(*arguments)
