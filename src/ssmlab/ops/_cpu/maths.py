"""Elementary functions that the compiler turns into vector instructions, unlike the C library's.

Each is a short polynomial after a reduction of its argument. For float32 the coefficients minimise
the largest relative error over the reduced range (fitted in extended precision; errors under 2e-8);
for float64 they are the Taylor series, far enough. ``exp(x) - 1`` rather than ``exp(x)`` is the
primitive: a decay near 1 then keeps its distance from 1 to full relative precision, which matters
over ten thousand steps. NaN in gives NaN out.
"""

import functools
import math
from typing import Any

import numpy as np
from numba.extending import intrinsic, overload

# No "nnan", "ninf": NaN and infinity must come through. No "reassoc": the reductions rely on order.
FLAGS: Any = {"contract", "nsz"}

_f4 = np.float32
_LN2 = [math.log(2) ** (k + 1) / math.factorial(k + 1) for k in range(14)]
# log2(e) and what it was rounded by.
_LOG2E4 = _f4(1.4426950216293335), _f4(1.9259629e-8)
_LOG2E8 = 1.4426950408889634, 2.0355273740931033e-17
_MAGIC4 = _f4(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
_MAGIC8 = 6755399441055744.0  # 1.5 * 2^52
# With the bias of an exponent in it, those low bits are the exponent of a power of 2.
_POWER4, _POWER8 = _MAGIC4 + _f4(127.0), np.float64(_MAGIC8 + 1023.0)
_SHIFT4 = np.int32(23)
# (2^f - 1) / f for |f| <= 1/2, float32.
_POWER_OF_2 = (
    _f4(0.6931471879266919),
    _f4(0.24022649794964424),
    _f4(0.05550357433635818),
    _f4(0.0096182374940667),
    _f4(0.0013390735477726407),
    _f4(0.0001540351265262521),
)


def expm1_base2(x: Any) -> Any:
    """2^x - 1. Below -126 (-1022 for float64) it is -1; above 127 (1023) only large."""
    raise NotImplementedError("compiled code only")


def expm1_four(x: Any) -> Any:
    """2^x - 1 for four numbers abreast (a tuple).

    One exponential is a chain of a dozen operations that wait for each other, and a processor looks
    ahead only so far: on AMD's Zen four abreast take a quarter less time.
    """
    raise NotImplementedError("compiled code only")


def fade_four(x: Any, h: Any) -> Any:
    """2^x h for four numbers abreast, rounded as (2^x - 1) h + h is, but only for |x| <= 126."""
    raise NotImplementedError("compiled code only")


def exp(x: Any) -> Any:
    """e^x, to rounding also far from 0. It stops shrinking at 2^-126 (2^-1022 for float64)."""
    raise NotImplementedError("compiled code only")


def log1p_unit(x: Any) -> Any:
    """log(1 + x) for 0 <= x <= 1."""
    raise NotImplementedError("compiled code only")


def turn(v: Any, tail: Any) -> Any:
    """(cos(pi (v + tail)) - 1, sin(pi (v + tail))), where tail is tiny: what v was rounded by."""
    raise NotImplementedError("compiled code only")


@intrinsic
def _product_error(typingctx, a, b, product):
    """a * b - product, rounded once: the rounding error of the product."""

    def codegen(context, builder, signature, args):
        a, b, product = args
        return builder.fma(a, b, builder.fneg(product))

    return a(a, a, a), codegen


product_error: Any = _product_error  # called with a, b and their product


_expand = functools.partial(overload, jit_options={"fastmath": FLAGS, "forceinline": True})


@_expand(expm1_base2)
def _expm1_base2(x: Any) -> Any:
    zero, one = (_f4(0.0), _f4(1.0)) if x.bitwidth == 32 else (0.0, 1.0)

    def expm1_base2(x: Any) -> Any:
        scale, q = _power(x, zero)
        return scale * q + (scale - one)

    return expm1_base2


@_expand(expm1_four)
def _expm1_four(x: Any) -> Any:
    if x.dtype.bitwidth == 32:
        one, low, high = _f4(1), _f4(-126), _f4(127)
    else:
        one, low, high = 1.0, -1022.0, 1023.0

    def expm1_four(x: Any) -> Any:
        x0, x1, x2, x3 = x
        # Written so that NaN fails the comparisons and goes on as NaN.
        x0, x1 = low if x0 < low else x0, low if x1 < low else x1
        x2, x3 = low if x2 < low else x2, low if x3 < low else x3
        x0, x1 = high if x0 > high else x0, high if x1 > high else x1
        x2, x3 = high if x2 > high else x2, high if x3 > high else x3
        (s0, s1, s2, s3), (q0, q1, q2, q3) = _four_powers((x0, x1, x2, x3))
        e0, e1 = s0 * q0 + (s0 - one), s1 * q1 + (s1 - one)
        return e0, e1, s2 * q2 + (s2 - one), s3 * q3 + (s3 - one)

    return expm1_four


@_expand(fade_four)
def _fade_four(x: Any, h: Any) -> Any:
    def fade_four(x: Any, h: Any) -> Any:
        (s0, s1, s2, s3), (q0, q1, q2, q3) = _four_powers(x)
        m0, m1 = q0 * h[0] + h[0], q1 * h[1] + h[1]
        m2, m3 = q2 * h[2] + h[2], q3 * h[3] + h[3]
        return s0 * m0, s1 * m1, s2 * m2, s3 * m3

    return fade_four


def _four_powers(x: Any) -> Any:
    """``_power`` of four numbers within its range, without tails."""
    raise NotImplementedError("compiled code only")


@_expand(_four_powers)
def _four_powers_overload(x: Any) -> Any:
    if x.dtype.bitwidth == 64:

        def double(x: Any) -> Any:
            (s0, q0), (s1, q1) = _power(x[0], 0.0), _power(x[1], 0.0)
            (s2, q2), (s3, q3) = _power(x[2], 0.0), _power(x[3], 0.0)
            return (s0, s1, s2, s3), (q0, q1, q2, q3)

        return double
    c0, c1, c2, c3, c4, c5 = _POWER_OF_2

    def single(x: Any) -> Any:
        x0, x1, x2, x3 = x
        b0, b1, b2, b3 = x0 + _POWER4, x1 + _POWER4, x2 + _POWER4, x3 + _POWER4
        f0, f1 = x0 - (b0 - _POWER4), x1 - (b1 - _POWER4)
        f2, f3 = x2 - (b2 - _POWER4), x3 - (b3 - _POWER4)
        f = f0, f1, f2, f3
        p = _times_plus((c5, c5, c5, c5), f, c4)
        p = _times_plus(p, f, c3)
        p = _times_plus(p, f, c2)
        p = _times_plus(p, f, c1)
        p0, p1, p2, p3 = _times_plus(p, f, c0)
        scales = _scale(b0), _scale(b1), _scale(b2), _scale(b3)
        return scales, (p0 * f0, p1 * f1, p2 * f2, p3 * f3)

    return single


def _times_plus(a: Any, b: Any, c: Any) -> Any:
    """a b + c for four a and b and one c."""
    raise NotImplementedError("compiled code only")


@_expand(_times_plus)
def _times_plus_overload(a: Any, b: Any, c: Any) -> Any:
    def times_plus(a: Any, b: Any, c: Any) -> Any:
        return a[0] * b[0] + c, a[1] * b[1] + c, a[2] * b[2] + c, a[3] * b[3] + c

    return times_plus


def _scale(shifted: Any) -> Any:
    """2^n for the integer n in the low bits of ``shifted`` = n + _POWER4."""
    raise NotImplementedError("compiled code only")


@_expand(_scale)
def _scale_overload(shifted: Any) -> Any:
    def scale(shifted: Any) -> Any:
        return np.int32(np.float32(shifted).view(np.int32) << _SHIFT4).view(np.float32)

    return scale


@_expand(exp)
def _exp(x: Any) -> Any:
    log2e, rest = _LOG2E4 if x.bitwidth == 32 else _LOG2E8

    def exp(x: Any) -> Any:
        v = x * log2e
        scale, q = _power(v, product_error(x, log2e, v) + x * rest)
        return scale * q + scale

    return exp


def _power(x: Any, tail: Any) -> Any:
    """(s, q) where 2^(x + tail) = s + s q, |q| < 1/2 and tail is tiny: what x was rounded by."""
    raise NotImplementedError("compiled code only")


@_expand(_power)
def _power_overload(x: Any, tail: Any) -> Any:
    if x.bitwidth == 32:
        low, top = _f4(-126.0), (_POWER4 + _f4(127.0)).view(np.int32)
        c0, c1, c2, c3, c4, c5 = _POWER_OF_2

        def single(x: Any, tail: Any) -> Any:
            # Written so that NaN fails the comparison and goes on as NaN.
            x = low if x < low else x
            bits = np.float32(x + _POWER4).view(np.int32)
            bits = top if bits > top else bits
            f = (x - (np.int32(bits).view(np.float32) - _POWER4)) + tail
            p = c5 * f + c4
            p = p * f + c3
            p = p * f + c2
            p = p * f + c1
            p = p * f + c0
            return np.int32(bits << _SHIFT4).view(np.float32), p * f

        return single

    low8, top8, shift8 = -1022.0, (_POWER8 + 1023.0).view(np.int64), np.int64(52)
    d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13 = _LN2

    def double(x: Any, tail: Any) -> Any:
        x = low8 if x < low8 else x
        bits = np.float64(x + _POWER8).view(np.int64)
        bits = top8 if bits > top8 else bits
        f = (x - (np.int64(bits).view(np.float64) - _POWER8)) + tail
        p = d13 * f + d12
        p = p * f + d11
        p = p * f + d10
        p = p * f + d9
        p = p * f + d8
        p = p * f + d7
        p = p * f + d6
        p = p * f + d5
        p = p * f + d4
        p = p * f + d3
        p = p * f + d2
        p = p * f + d1
        p = p * f + d0
        return np.int64(bits << shift8).view(np.float64), p * f

    return double


@_expand(log1p_unit)
def _log1p_unit(x: Any) -> Any:
    # log(1 + x) = 2 artanh(s), s = x / (2 + x), an odd series in s; s^2 <= 1/9.
    if x.bitwidth == 32:
        two = _f4(2.0)
        c0, c1, c2 = _f4(2.0), _f4(0.6666667930744037), _f4(0.39998690902861256)
        c3, c4, c5 = _f4(0.28620722110855606), _f4(0.21393250612951606), _f4(0.24413068232060434)

        def single(x: Any) -> Any:
            s = x / (two + x)
            y = s * s
            p = c5 * y + c4
            p = p * y + c3
            p = p * y + c2
            p = p * y + c1
            p = p * y + c0
            return p * s

        return single

    (d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15) = (
        2.0 / (2 * k + 1) for k in range(16)
    )

    def double(x: Any) -> Any:
        s = x / (2.0 + x)
        y = s * s
        p = d15 * y + d14
        p = p * y + d13
        p = p * y + d12
        p = p * y + d11
        p = p * y + d10
        p = p * y + d9
        p = p * y + d8
        p = p * y + d7
        p = p * y + d6
        p = p * y + d5
        p = p * y + d4
        p = p * y + d3
        p = p * y + d2
        p = p * y + d1
        p = p * y + d0
        return p * s

    return double


@_expand(turn)
def _turn(v: Any, tail: Any) -> Any:
    # v = k + g, |g| <= 1/2: cos and sin of pi g by series, both times (-1)^k. The sign's bit is
    # k's lowest. cos - 1 is formed without cancellation where k is even.
    if v.bitwidth == 32:
        one, two, mask = _f4(1.0), _f4(2.0), np.int32(1)
        s0, s0_rest = _f4(3.1415927410125732), _f4(-8.7489232e-8)
        s1, s2 = _f4(-5.167712762115826), _f4(2.55016324031927)
        s3, s4, s5 = _f4(-0.599251330128063), _f4(0.08204647894195465), _f4(-0.007022163727732423)
        c0, c0_rest, c1 = _f4(-4.934802055358887), _f4(-1.4517243e-7), _f4(4.058712122685341)
        c2 = _f4(-1.3352625983210227)
        c3, c4, c5 = _f4(0.23532776230919472), _f4(-0.025784979263920815), _f4(0.00185196036042)
        limit = _f4(4194304.0)  # beyond, a float32 phase has no digits left to speak of

        def single(v: Any, tail: Any) -> Any:
            v = limit if v > limit else v
            v = -limit if v < -limit else v
            shifted = v + _MAGIC4
            g = v - (shifted - _MAGIC4)
            y = g * g
            s = s5 * y + s4
            s = s * y + s3
            s = s * y + s2
            s = s * y + s1
            # What the leading coefficients lose in single precision, every step would lose.
            s = s * y + s0_rest
            c = c5 * y + c4
            c = c * y + c3
            c = c * y + c2
            c = c * y + c1
            c = c * y + c0_rest
            # To first order in the tail, which is added last: added to g it would be rounded away.
            turned = s0 * tail
            cos1 = c0 * y + (c * y - turned * (s0 * g + s * g))
            sin = s0 * g + (s * g + (turned + turned * cos1))
            odd = np.float32(np.float32(shifted).view(np.int32) & mask)
            sign = one - two * odd
            return sign * cos1 + (sign - one), sign * sin

        return single

    t = [(-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(13)]
    e = [(-1) ** (k + 1) * math.pi ** (2 * k + 2) / math.factorial(2 * k + 2) for k in range(12)]
    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12 = t
    e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11 = e
    limit8, mask8, pi8 = 2251799813685248.0, np.int64(1), math.pi

    def double(v: Any, tail: Any) -> Any:
        v = limit8 if v > limit8 else v
        v = -limit8 if v < -limit8 else v
        shifted = v + _MAGIC8
        g = v - (shifted - _MAGIC8)
        y = g * g
        s = t12 * y + t11
        s = s * y + t10
        s = s * y + t9
        s = s * y + t8
        s = s * y + t7
        s = s * y + t6
        s = s * y + t5
        s = s * y + t4
        s = s * y + t3
        s = s * y + t2
        s = s * y + t1
        s = s * y + t0
        c = e11 * y + e10
        c = c * y + e9
        c = c * y + e8
        c = c * y + e7
        c = c * y + e6
        c = c * y + e5
        c = c * y + e4
        c = c * y + e3
        c = c * y + e2
        c = c * y + e1
        c = c * y + e0
        turned = pi8 * tail
        cos1 = c * y - turned * (s * g)
        sin = s * g + (turned + turned * cos1)
        sign = 1.0 - 2.0 * np.float64(np.float64(shifted).view(np.int64) & mask8)
        return sign * cos1 + (sign - 1.0), sign * sin

    return double
