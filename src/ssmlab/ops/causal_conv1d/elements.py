"""What the kernels of the causal convolution are made of: elements of any float type, sigmoid.

Rows are addresses (int64), so that a view of a larger tensor needs no copy. ``like`` is a number of
the type that the elements have in memory (uint16 stands for bfloat16 and int16 for float16, which
Numba has not), ``one`` a number of the type that sums are taken in.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import overload

from ssmlab.ops._cpu.compiling import OPTIONS

# The compiler passes the first argument, typingctx; a type checker would ask our callers for it.
intrinsic: Any = _numba_intrinsic

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
# Beyond these exp(z) is as good as nothing beside 1, or infinite.
_LEAST, _MOST = np.float32(-87.0), np.float32(89.0)
_ONE = np.float32(1)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / f) for f in (2.0, 6.0, 24.0, 120.0, 720.0, 5040.0))


def _pointer(builder: Any, address: Any, index: Any, element: ir.Type) -> Any:
    base = builder.inttoptr(address, element.as_pointer())
    return builder.gep(base, [index], inbounds=True)


@intrinsic
def load(typingctx, address, index, like):
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
def store(typingctx, address, index, value, like):
    """Write ``value``, of the type of the sums, rounded to nearest even for bfloat16 and float16."""

    def codegen(context, builder, signature, args):
        element = context.get_value_type(like)
        number = args[2]
        if like == types.uint16:
            word = ir.IntType(32)
            bits = builder.bitcast(number, word)
            odd = builder.and_(builder.lshr(bits, word(16)), word(1))
            rounded = builder.add(bits, builder.add(odd, word(0x7FFF)))
            nan = builder.fcmp_unordered("uno", number, number)
            bits = builder.select(nan, word(0x7FC00000), rounded)
            number = builder.trunc(builder.lshr(bits, word(16)), ir.IntType(16))
        elif like == types.int16:
            number = builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))
        builder.store(number, _pointer(builder, args[0], args[1], element))
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


def sigmoid(s: Any) -> Any:
    """1 / (1 + exp(-s)) in the type of ``s``."""
    raise NotImplementedError("compiled code only")


@overload(sigmoid, inline="never", jit_options=OPTIONS)
def _sigmoid_overload(s):
    if s == types.float64:
        return lambda s: 1.0 / (1.0 + np.exp(-s))

    def single(s):
        # exp(z) = 2^n exp(r), |r| <= ln(2)/2, by its Taylor polynomial: vectorises without a
        # library. NaN becomes the least z; whoever multiplies by s brings it back.
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
def at(typingctx, address, index, like):
    """Address of element ``index`` counted from ``address``."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(builder, args[0], args[1], context.get_value_type(like))
        return builder.ptrtoint(pointer, ir.IntType(64))

    return types.int64(types.int64, types.int64, like), codegen
