import math

import numpy as np
import pytest

from ssmlab.studies.claims import (
    Claim,
    Contrast,
    alike,
    best,
    better,
    better_on_average,
    falling,
    falls,
    falls_more,
    larger_gain,
    level,
    no_worse,
    worst,
)


def value(contrast, ppl):
    return sum(weight * math.log(ppl[row]) for row, weight in contrast.weights.items())


def true(contrast, ppl):
    return value(contrast, ppl) < contrast.below


def test_better_by_a_share():
    assert true(better("a", "b", by=0.1), {"a": 8.9, "b": 10.0})
    assert not true(better("a", "b", by=0.1), {"a": 9.1, "b": 10.0})


def test_no_worse_and_alike_are_bounded_by_the_margin():
    assert true(no_worse("a", "b", 0.02), {"a": 10.19, "b": 10.0})
    assert not true(no_worse("a", "b", 0.02), {"a": 10.21, "b": 10.0})
    inside, outside = {"a": 10.1, "b": 10.0}, {"a": 9.7, "b": 10.0}
    assert all(true(contrast, inside) for contrast in alike("a", "b", 0.02))
    assert not all(true(contrast, outside) for contrast in alike("a", "b", 0.02))


def test_best_worst_and_falling():
    ppl = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert all(true(contrast, ppl) for contrast in best("a", ("b", "c")))
    assert all(true(contrast, ppl) for contrast in worst("c", ("a", "b")))
    assert [true(contrast, ppl) for contrast in falling(("c", "b", "a"))] == [True, True]
    assert [true(contrast, ppl) for contrast in falling(("b", "a", "c"))] == [True, False]


def test_larger_gain_compares_ratios():
    contrast = larger_gain(("s1", "s16"), than=("c1", "c16"))
    assert true(contrast, {"s1": 10.0, "s16": 9.0, "c1": 100.0, "c16": 91.0})
    assert not true(contrast, {"s1": 10.0, "s16": 9.0, "c1": 100.0, "c16": 89.0})


def test_larger_gain_with_a_shared_row_adds_its_weights():
    weights = larger_gain(("none", "all"), than=("none", "some")).weights
    assert weights == {"all": 1.0, "none": 0.0, "some": -1.0}


def test_a_trend_is_the_fitted_change_from_first_to_last():
    rows, y = ("a", "b", "c", "d"), np.array([3.0, 2.7, 2.9, 2.2])
    slope = np.polyfit(range(4), y, 1)[0]
    ppl = dict(zip(rows, np.exp(y), strict=True))
    assert value(falls(rows), ppl) == pytest.approx(3 * slope)
    assert true(falls(rows), ppl)
    assert not true(falls(rows[::-1]), ppl)
    assert falls(("a", "d")).weights == better("d", "a").weights


def test_level_is_bounded_on_both_sides():
    for last, within in ((10.15, True), (9.85, True), (10.25, False), (9.75, False)):
        ppl = {"a": 10.0, "b": math.sqrt(10.0 * last), "c": last}
        assert all(true(contrast, ppl) for contrast in level("abc", 0.02)) == within


def test_a_steeper_trend():
    ppl = {"a": 10.0, "b": 9.0, "c": 8.1, "x": 100.0, "y": 91.0, "z": 82.81}
    assert true(falls_more("abc", than="xyz"), ppl)
    assert not true(falls_more("xyz", than="abc"), ppl)
    assert falls_more("abc", than="abc").weights == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_better_on_average_weighs_the_ratios_of_pairs_alike():
    contrast = better_on_average((("a", "b"), ("c", "d")))
    assert true(contrast, {"a": 9.0, "b": 10.0, "c": 105.0, "d": 100.0})
    assert not true(contrast, {"a": 9.6, "b": 10.0, "c": 105.0, "d": 100.0})


def test_plain_data_and_back():
    claim = Claim("k", "text", "source", (Contrast({"a": 1.0, ("x", "y"): -1.0}, 0.5, "t"),), "n")
    assert Claim.from_dict(claim.to_dict()) == claim


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: better("a", "b", by=1.0),
        lambda: no_worse("a", "b", 0.0),
        lambda: level(("a", "b"), 0.0),
        lambda: falls(("a",)),
        lambda: Claim("k", "", "", ()),
    ],
)
def test_what_cannot_be_claimed(wrong):
    with pytest.raises(ValueError, match="expected"):
        wrong()
