"""The kernels' elementary functions, against numpy in higher precision."""

import math

import numpy as np
import pytest
from numba import njit

from ssmlab.ops._cpu.maths import (
    exp,
    expm1_base2,
    expm1_four,
    fade_four,
    log1p_unit,
    product_error,
    turn,
)

DTYPES = [np.float32, np.float64]


@njit
def _expm1(x):
    return np.array([expm1_base2(v) for v in x])


@njit
def _expm1_by_fours(x):
    out = np.empty_like(x)
    for i in range(0, x.size, 4):
        out[i], out[i + 1], out[i + 2], out[i + 3] = expm1_four(
            (x[i], x[i + 1], x[i + 2], x[i + 3])
        )
    return out


@njit
def _fade(x, h):
    out = np.empty_like(x)
    for i in range(0, x.size, 4):
        four = (x[i], x[i + 1], x[i + 2], x[i + 3]), (h[i], h[i + 1], h[i + 2], h[i + 3])
        out[i], out[i + 1], out[i + 2], out[i + 3] = fade_four(*four)
    return out


@njit
def _exp(x):
    return np.array([exp(v) for v in x])


@njit
def _log1p(x):
    return np.array([log1p_unit(v) for v in x])


@njit
def _turn(x, tail):
    out = np.empty((2, x.size), x.dtype)
    for i in range(x.size):
        out[0, i], out[1, i] = turn(x[i], tail[i])
    return out


@njit
def _error(a, b):
    return product_error(a, b, a * b)


@pytest.mark.parametrize("function", [_expm1, _expm1_by_fours])
@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1(dtype: type, function) -> None:
    size = np.logspace(-12, math.log10(100), 4000)
    x = np.concatenate([-size, size, [0, 0, 0, 0]]).astype(dtype)
    exact = np.expm1(x.astype(np.longdouble) * np.log(np.longdouble(2)))
    error = np.abs(function(x) - exact) / np.maximum(np.abs(exact), 1e-300)
    assert error.max() < 2.5 * np.finfo(dtype).eps


@pytest.mark.parametrize("function", [_expm1, _expm1_by_fours])
@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1_far_away(dtype: type, function) -> None:
    ends = function(np.array([-1e30, -np.inf, np.inf, 1e30, np.nan, 0, 0, 0], dtype))
    assert ends[0] == ends[1] == -1
    assert ends[2] == ends[3] > 1e38
    assert np.isnan(ends[4])
    assert not ends[5:].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fade(dtype: type) -> None:
    size = np.logspace(-12, math.log10(100), 2000)
    x = np.concatenate([-size, size, [-126, 126, 0, -0.5]]).astype(dtype)
    h = np.random.default_rng(0).uniform(0.5, 1, x.size).astype(dtype)
    exact = np.exp2(x.astype(np.longdouble)) * h
    assert (np.abs(_fade(x, h) - exact) / exact).max() < 1.5 * np.finfo(dtype).eps
    assert np.isnan(_fade(np.full(4, np.nan, dtype), h)).all()
    assert np.isnan(_fade(x, np.full(x.size, np.nan, dtype))).all()


def test_what_fade_adds_up_over_many_steps() -> None:
    """A memory of 20000 steps: the roundings must not have a preferred sign."""
    x = -np.random.default_rng(0).uniform(0, 1e-4, (20000, 4)).astype(np.float32)
    h = np.ones(4, np.float32)
    for step in x:
        h = _fade(step, h)
    exact = np.exp2(x.astype(np.float64).sum(axis=0))
    # 20000 roundings of 3e-8 at random add up to 4e-6.
    assert np.abs(h / exact - 1).max() < 2e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp(dtype: type) -> None:
    """As good far from 0 as near: what the reduction by log2(e) rounds away is kept."""
    x = np.concatenate([-np.logspace(-6, math.log10(80), 4000), [0.0]]).astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    assert (np.abs(_exp(x) - exact) / exact).max() < 1.5 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_unit(dtype: type) -> None:
    x = np.concatenate([np.logspace(-30, 0, 4000), [0.0]]).astype(dtype)
    exact = np.log1p(x.astype(np.longdouble))
    error = np.abs(_log1p(x) - exact) / np.maximum(exact, 1e-300)
    assert error.max() < 2.5 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_turn(dtype: type) -> None:
    """Exact multiples of a fine grid, so that the true phase is known: small, and of many turns."""
    grid = np.arange(-512, 513) / 512
    for whole in (0, 2, 1000, 3001, 2**13):
        v = (grid + whole).astype(dtype)
        cos1, sin = _turn(v, np.zeros_like(v))
        sign = 1 - 2 * (whole % 2)
        eps = np.finfo(dtype).eps
        small = 2 * np.sin(np.pi * grid / 2) ** 2  # 1 - cos, without cancellation
        assert np.abs(sin - sign * np.sin(np.pi * grid)).max() < 2 * eps
        assert np.abs(cos1 - (sign * (1 - small) - 1)).max() < 3 * eps
        if sign == 1:
            near = np.abs(grid) < 0.25
            tiny = np.abs(cos1 + small)[near] / np.maximum(small[near], 1e-30)
            assert tiny.max() < 4 * eps


@pytest.mark.parametrize("whole", [0, 1000, 1001])
def test_turn_uses_the_tail(whole: int) -> None:
    v, tail = np.full(1, whole + 0.25, np.float32), np.full(1, 1e-5, np.float32)
    sign = 1 - 2 * (whole % 2)
    cos1, sin = _turn(v, tail)[:, 0].astype(float)
    angle = math.pi * (0.25 + float(tail[0]))
    assert sin == pytest.approx(sign * math.sin(angle), abs=1.5e-7)
    assert cos1 == pytest.approx(sign * math.cos(angle) - 1, abs=1.5e-7)


def test_what_turn_adds_up_over_many_steps() -> None:
    """The error must not have a preferred sign: over a random walk of phases it averages out."""
    v = np.random.default_rng(0).uniform(0, 0.3, 20000).astype(np.float32)
    cos1, sin = _turn(v, np.zeros_like(v)).astype(np.float64)
    decay = 1 + cos1 + 1j * sin
    drift = np.log(decay / np.exp(1j * math.pi * v.astype(np.float64))).sum()
    assert abs(drift) < 2e-5  # 20000 roundings of 3e-8 at random give 4e-6


def test_turn_of_nan() -> None:
    assert np.isnan(_turn(np.full(1, np.nan, np.float32), np.zeros(1, np.float32))).all()


def test_product_error() -> None:
    a, b = np.float32(1.1), np.float32(3.3)
    assert float(_error(a, b)) == float(a) * float(b) - float(a * b)
