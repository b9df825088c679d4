import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssmlab.studies import Axis, Claim, Contrast, Point, Scale, Study
from ssmlab.studies.claims import better
from ssmlab.studies.spread import Spread, spread_of
from ssmlab.studies.statistics import (
    PairAgreement,
    contrast_test,
    judge,
    kendall_tau,
    pair_agreement,
    row_interval,
)

STUDY = Study(
    "demo", "", "", (Axis("row", tuple(Point(x, {}, x) for x in "abc")),), {}, (Scale("s", {}),)
)
SPREAD = [0.0, 0.012, -0.007, 0.003]
finite = st.floats(-3, 3, allow_nan=False)


def samples(**rows):
    return {row: dict(enumerate(values)) for row, values in rows.items()}


def claim(*contrasts):
    return Claim("claim", "text", "source", contrasts)


def outlying(*, seeds):
    """Five rows of equal spread and one, "c", of fifty times that."""
    rng = np.random.default_rng(0)
    rows = {name: list(rng.normal(0, 0.01, seeds)) for name in "abdef"}
    return samples(**rows, c=list(rng.normal(0, 0.5, seeds)))


def test_a_row_alone_has_students_interval():
    # logs: mean 2, variance 1, t(0.975; 2) = 4.302653: half = 4.302653 / sqrt(3)
    rows = samples(a=[1.0, 2.0, 3.0])
    interval = row_interval(rows, "a", spread_of(rows))
    assert interval is not None
    assert math.log(interval.mean) == pytest.approx(2.0)
    assert interval.low is not None
    assert math.log(interval.low) == pytest.approx(2 - 2.484138, abs=1e-6)
    assert interval.high is not None
    assert math.log(interval.high) == pytest.approx(2 + 2.484138, abs=1e-6)


def test_the_spread_is_pooled_over_rows():
    # sums of squares 2 and 0.5 over 2 + 1 degrees; a row of one seed adds none
    rows = samples(a=[1.0, 2.0, 3.0], b=[0.0, 1.0], c=[7.0])
    spread = spread_of(rows)
    assert (spread.variance, spread.df, spread.rows) == (pytest.approx(2.5 / 3), 3, 2)
    interval = row_interval(rows, "b", spread)
    assert interval is not None
    assert interval.high is not None
    half = stats.t.ppf(0.975, 3) * math.sqrt(2.5 / 3 / 2)
    assert math.log(interval.high) == pytest.approx(0.5 + half)
    least = spread.least_difference(2)
    assert least == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(2.5 / 3))
    single = row_interval(rows, "c", spread)
    assert single is not None
    assert single.low is not None
    assert math.log(single.low) == pytest.approx(7 - half * math.sqrt(2))
    unknown = row_interval(samples(c=[7.0]), "c", spread_of(samples(c=[7.0])))
    assert unknown is not None
    assert (unknown.low, unknown.high, unknown.n) == (None, None, 1)
    assert row_interval(rows, "z", spread) is None
    assert spread_of(samples(a=[1.0], b=[])) == Spread(0.0, 0, 0)
    assert Spread(0.0, 0, 0).deviation is None


def test_a_row_that_scatters_by_far_more_does_not_widen_the_others():
    for seeds in (2, 3, 5):
        rows = outlying(seeds=seeds)
        spread = spread_of(rows)
        assert set(spread.own) == {"c"}
        assert spread.df == 5 * (seeds - 1)
        assert spread.deviation is not None
        assert spread.deviation < 0.03
        wide, narrow = (row_interval(rows, name, spread) for name in "ca")
        assert wide is not None
        assert narrow is not None
        assert wide.high / wide.mean > narrow.high / narrow.mean
        test = contrast_test(better("a", "c"), rows, STUDY)
        assert test.df is not None
        assert test.df == pytest.approx(seeds - 1, rel=0.1)  # nearly all of the variance is c's
        assert contrast_test(better("a", "b"), rows, STUDY).df == spread.df


def test_outliers_are_found_at_their_level_and_no_more():
    """Cochran's test: of studies of equal spread, one in a hundred at most has an "outlier"."""
    rng = np.random.default_rng(1)
    found = 0
    for values in rng.normal(size=(1000, 8, 3)):
        rows = {str(i): dict(enumerate(map(float, row))) for i, row in enumerate(values)}
        found += bool(spread_of(rows).own)
    assert found <= 20  # 10 expected at most, standard deviation 3


def test_a_true_difference_of_nothing_is_seldom_called_one():
    rng = np.random.default_rng(2)
    called = 0
    for values in rng.normal(scale=0.01, size=(1000, 3, 3)):
        rows = samples(**dict(zip("abc", values.tolist(), strict=True)))
        called += judge(claim(better("a", "b")), rows, STUDY).decision != "undecided"
    assert 25 <= called <= 75  # 5% expected, standard deviation 7


@given(st.lists(finite, min_size=2, max_size=6), st.lists(finite, min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_two_rows_are_students_test(a, b):
    if max(a) - min(a) < 1e-3 or max(b) - min(b) < 1e-3:
        return
    ours = contrast_test(better("a", "b"), samples(a=a, b=b), STUDY)
    scipys = stats.ttest_ind(a, b)
    interval = scipys.confidence_interval(0.95)
    assert ours.t == pytest.approx(scipys.statistic, rel=1e-6, abs=1e-9)
    assert ours.df == pytest.approx(scipys.df, rel=1e-6)
    assert ours.low == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
    assert ours.high == pytest.approx(interval.high, rel=1e-6, abs=1e-9)
    less = stats.ttest_ind(a, b, alternative="less").pvalue
    assert ours.p == pytest.approx(less, rel=1e-5, abs=1e-12)
    assert ours.p is not None
    assert ours.p_against == pytest.approx(1 - ours.p, abs=1e-9)


@given(st.lists(finite, min_size=2, max_size=4), finite, st.floats(-0.5, 0.5))
@settings(max_examples=40, deadline=None)
def test_a_contrast_does_not_feel_a_common_shift(values, shift, bound):
    weights = {"a": 1.0, "b": -0.5, "c": -0.5}
    rows = {"a": values, "b": [v * 0.5 + 0.1 for v in values], "c": [0.3 - v for v in values]}
    moved = {row: [v + shift for v in values] for row, values in rows.items()}
    first = contrast_test(Contrast(weights, bound), samples(**rows), STUDY)
    second = contrast_test(Contrast(weights, bound), samples(**moved), STUDY)
    assert second.estimate == pytest.approx(first.estimate, abs=1e-9)
    if max(values) - min(values) > 1e-3:
        assert second.p == pytest.approx(first.p, abs=1e-6)
        assert second.df == pytest.approx(first.df, rel=1e-6)


def test_a_contrast_of_three_rows_by_hand():
    # pooled variance (2 + 8 + 2) / 3 = 4; times (1 + .25 + .25) / 2 seeds -> 3
    rows = samples(a=[1.0, 3.0], b=[0.0, 4.0], c=[5.0, 7.0])
    test = contrast_test(Contrast({"a": 1.0, "b": -0.5, "c": -0.5}), rows, STUDY)
    assert test.estimate == pytest.approx(2 - 1 - 3)
    assert test.t == pytest.approx(-2 / math.sqrt(3))
    assert test.df == 3


def test_satterthwaite_where_a_row_has_a_spread_of_its_own():
    rows = outlying(seeds=3)
    spread = spread_of(rows)
    own, free = spread.own["c"]
    test = contrast_test(Contrast({"a": 1.0, "b": -0.5, "c": -0.5}), rows, STUDY)
    shared, apart = 1.25 / 3 * spread.variance, 0.25 / 3 * own
    assert test.df == pytest.approx(
        (shared + apart) ** 2 / (shared**2 / spread.df + apart**2 / free)
    )
    assert test.high is not None
    assert test.estimate is not None
    half = stats.t.ppf(0.975, test.df) * math.sqrt(shared + apart)
    assert test.high - test.estimate == pytest.approx(half)


def test_the_verdicts():
    low, mid = [1.0 + x for x in SPREAD], [2.0 + x for x in SPREAD]
    rows = samples(a=low, b=mid, c=[1.001 + x for x in SPREAD])
    assert judge(claim(better("a", "b")), rows, STUDY).decision == "holds"
    assert judge(claim(better("b", "a")), rows, STUDY).decision == "does not"
    assert judge(claim(better("a", "c")), rows, STUDY).decision == "undecided"


def test_a_conjunction_is_as_strong_as_its_weakest_part():
    rows = samples(a=[1.0 + x for x in SPREAD], b=[2 - x for x in SPREAD], c=[1.001] * 3 + [0.999])
    both = judge(claim(better("a", "b"), better("a", "c")), rows, STUDY)
    assert both.decision == "undecided"
    assert both.decisive.contrast == better("a", "c")
    against = judge(claim(better("a", "b"), better("b", "c")), rows, STUDY)
    assert against.decision == "does not"
    assert against.decisive.contrast == better("b", "c")
    assert against.p == against.decisive.p_against


def test_a_contradiction_found_among_many_must_be_stronger():
    """One-sided p between 0.0125 and 0.025: contradicts a lone claim, not one of two parts."""
    a, b = [1.00, 1.02, 1.01], [0.97, 0.995, 0.968]
    p = contrast_test(better("a", "b"), samples(a=a, b=b), STUDY).p_against
    assert p is not None
    assert 0.0125 < p < 0.025
    rows = samples(a=a, b=b, c=[5.0, 5.1, 5.2])
    assert judge(claim(better("a", "b")), rows, STUDY).decision == "does not"
    assert judge(claim(better("a", "b"), better("a", "c")), rows, STUDY).decision == "undecided"


def test_a_verdict_agrees_with_the_interval():
    for shift, bound in itertools.product((-0.05, -0.02, 0.0, 0.03), (0.0, -0.01, 0.02)):
        rows = samples(a=[shift + x for x in SPREAD], b=[x * 0.8 for x in SPREAD])
        verdict = judge(claim(Contrast({"a": 1.0, "b": -1.0}, bound)), rows, STUDY)
        assert verdict.low is not None
        assert verdict.high is not None
        assert (verdict.decision == "holds") == (verdict.high < bound)
        assert (verdict.decision == "does not") == (verdict.low > bound)


def test_one_seed_everywhere_decides_nothing_and_says_why():
    verdict = judge(claim(better("a", "b")), samples(a=[1.0], b=[2.05]), STUDY)
    assert (verdict.decision, verdict.estimate, verdict.n) == ("undecided", pytest.approx(-1.05), 1)
    assert verdict.p is None
    assert "1 seed of a, b" in verdict.reason


def test_a_row_of_one_seed_scatters_as_the_others_do():
    rows = samples(a=[1.0], b=[2.0, 2.1], c=[5.0, 5.1, 5.2])
    test = contrast_test(better("a", "b"), rows, STUDY)
    variance = (2 * 0.05**2 + 2 * 0.1**2) / 3
    t = -1.05 / math.sqrt(variance * 1.5)
    assert (test.t, test.df, test.n) == (pytest.approx(t), pytest.approx(3), 1)
    assert test.p == pytest.approx(stats.t.cdf(t, 3))
    assert judge(claim(better("a", "b")), rows, STUDY).reason.endswith(", 1 seed")


def test_pairs_that_seeds_tell_apart_and_the_papers_order():
    rows = samples(a=[1.0, 1.01], b=[1.004, 1.014], c=[0.5, 0.51])
    spread = spread_of(rows)
    # a and b are one to the seeds; c is below both, in the paper above a and with b's figure
    found = pair_agreement(rows, {"a": 9.0, "b": 9.5, "c": 9.5, "z": 3.0}, STUDY, spread)
    assert found == PairAgreement(pairs=2, told_apart=1, as_in_paper=0)
    found = pair_agreement(rows, {"a": 9.0, "b": 9.5, "c": 8.0}, STUDY, spread)
    assert found == PairAgreement(pairs=3, told_apart=2, as_in_paper=2)
    alone = samples(a=[1.0], b=[2.0])
    found = pair_agreement(alone, {"a": 9.0, "b": 9.5}, STUDY, spread_of(alone))
    assert found == PairAgreement(pairs=1, told_apart=0, as_in_paper=0)


def test_no_result_yet():
    verdict = judge(claim(better("a", "b")), samples(a=[1.0, 1.1]), STUDY)
    assert (verdict.decision, verdict.estimate) == ("undecided", None)
    assert "no result of b" in verdict.reason


def test_diverged_trials_are_named():
    rows = samples(a=[1.0 + x for x in SPREAD], b=[2.0 + x for x in SPREAD[:2]])
    diverged = {"b": ["b-s2-x", "b-s3-y"], "c": ["c-s0-z"]}
    verdict = judge(claim(better("a", "b")), rows, STUDY, diverged)
    assert verdict.decision == "holds"
    assert verdict.excluded == ("b-s2-x", "b-s3-y")
    assert "b-s2-x" in verdict.reason
    assert "c-s0-z" not in verdict.reason


def test_no_spread_at_all_is_decided_by_the_values():
    rows = samples(a=[1.0, 1.0], b=[2.0, 2.0], c=[1.0, 1.0])
    assert judge(claim(better("a", "b")), rows, STUDY).decision == "holds"
    assert judge(claim(better("b", "a")), rows, STUDY).decision == "does not"
    assert judge(claim(better("a", "c")), rows, STUDY).decision == "undecided"


def tau_by_definition(a, b):
    concordant = discordant = ties_a = ties_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = a[i] - a[j], b[i] - b[j]
        ties_a += x == 0
        ties_b += y == 0
        concordant += x * y > 0
        discordant += x * y < 0
    pairs = len(a) * (len(a) - 1) / 2
    below = math.sqrt((pairs - ties_a) * (pairs - ties_b))
    return (concordant - discordant) / below if below else None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
@settings(max_examples=80, deadline=None)
def test_tau_is_its_definition_with_ties(pairs):
    ours = {str(i): float(a) for i, (a, _) in enumerate(pairs)}
    paper = {str(i): float(b) for i, (_, b) in enumerate(pairs)}
    expected = tau_by_definition([a for a, _ in pairs], [b for _, b in pairs])
    found = kendall_tau(ours, paper)
    if expected is None or len(pairs) < 2:
        assert found is None
    else:
        assert found is not None
        assert found.tau == pytest.approx(expected)


def test_tau_leaves_out_rows_without_a_figure():
    ours = {"a": 1.0, "b": 2.0, "c": math.nan, "d": 0.5}
    found = kendall_tau(ours, {"a": 8.0, "b": 9.0, "c": 1.0})
    assert found is not None
    assert (found.tau, found.n) == (1.0, 2)
