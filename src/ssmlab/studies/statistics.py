"""Means, intervals, tests and verdicts, all on the log of the perplexity.

Spread comes from seeds and is pooled over the rows of a study, but for rows that scatter by far more
than the others (``spread``). A contrast between rows is tested with Student's t; where such a row has
a part in it, with the degrees of freedom of Welch and Satterthwaite. Trials of one seed see the same
text in the same order, so what luck they share makes this test cautious, not bold.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ssmlab.studies.claims import Claim, Contrast
from ssmlab.studies.spread import Samples, Spread, quantile, spread_of
from ssmlab.studies.study import Study

CONFIDENCE = 0.95

Decision: TypeAlias = Literal["holds", "does not", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; ``low`` and ``high`` are None where no spread is known."""

    mean: float
    low: float | None
    high: float | None
    n: int


def row_interval(
    samples: Samples, row: str, spread: Spread, confidence: float = CONFIDENCE
) -> Interval | None:
    """Perplexity of a row at the mean of its log, with the interval that the spread gives; None
    without a result."""
    values = list(samples.get(row, {}).values())
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    variance, df = spread.of(row)
    if not df:
        return Interval(math.exp(mean), None, None, len(values))
    half = quantile(confidence, df) * math.sqrt(variance / len(values))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(values))


@dataclass(frozen=True)
class ContrastTest:
    """What the seeds say of one contrast.

    Attributes:
        contrast: the statement: estimate < contrast.below.
        estimate: Σ weight · mean log-perplexity; None while a row has no result.
        low, high: its 95% interval; None where there is no test.
        t, df: Student's statistic of (estimate - below) and its degrees of freedom.
        p: chance of a t this low or lower if the contrast were exactly at the bound (one-sided).
        p_against: the same for this high or higher, that is against the claim.
        n: seeds of the row that has the fewest.
        reason: why there is no test, if there is none.
    """

    contrast: Contrast
    estimate: float | None
    low: float | None
    high: float | None
    t: float | None
    df: float | None
    p: float | None
    p_against: float | None
    n: int
    reason: str | None = None


def contrast_test(
    contrast: Contrast,
    samples: Samples,
    study: Study,
    confidence: float = CONFIDENCE,
    spread: Spread | None = None,
) -> ContrastTest:
    """Test one contrast; ``spread`` is that of all rows in ``samples``, made of them if not given.

    A row of one seed is taken to scatter as the others do; without any row of two seeds or more there
    is no test.
    """
    terms = [(study.row(name), weight) for name, weight in contrast.weights.items() if weight]
    values = [(row, weight, list(samples.get(row.key, {}).values())) for row, weight in terms]
    n = min(len(v) for _, _, v in values)
    if n == 0:
        missing = ", ".join(row.label for row, _, v in values if not v)
        return _untested(contrast, None, 0, f"no result of {missing}")
    estimate = math.fsum(weight * math.fsum(v) / len(v) for _, weight, v in values)
    spread = spread or spread_of(samples)
    unknown = ", ".join(row.label for row, _, _ in values if not spread.of(row.key)[1])
    if unknown:
        reason = f"1 seed of {unknown}: no spread to test against; run at least 2 seeds"
        return _untested(contrast, estimate, n, reason)
    pooled = math.fsum(w**2 / len(v) for row, w, v in values if row.key not in spread.own)
    parts = [(pooled * spread.variance, spread.df)] if pooled else []
    for row, weight, v in values:
        if row.key in spread.own:
            own, free = spread.own[row.key]
            parts.append((weight**2 * own / len(v), free))
    variance = math.fsum(part for part, _ in parts)
    distance = estimate - contrast.below
    if variance == 0:  # every seed gave the very same: the estimate is what it is
        t = math.copysign(math.inf, distance) if distance else 0.0
        return ContrastTest(
            contrast, estimate, estimate, estimate, t, math.inf,
            p=0.0 if distance < 0 else 1.0 if distance > 0 else 0.5,
            p_against=1.0 if distance < 0 else 0.0 if distance > 0 else 0.5,
            n=n,
        )  # fmt: skip
    # Scaled to shares of the sum, so that tiny variances cannot underflow when squared.
    df = 1 / math.fsum((part / variance) ** 2 / free for part, free in parts)
    error = math.sqrt(variance)
    half = quantile(confidence, df) * error
    t = distance / error
    below, above = _tails(t, df)
    return ContrastTest(
        contrast, estimate, estimate - half, estimate + half, t, df, below, above, n
    )


@dataclass(frozen=True)
class Verdict:
    """What became of one claim.

    Attributes:
        claim: the claim.
        decision: ``holds``, ``does not`` or ``undecided``.
        tests: one per contrast.
        estimate, low, high, p, n: those of the contrast that decided: the weakest one if the claim
            holds or is undecided, the most contradicted one if it does not. Estimate and interval are
            in nats, relative to 0 (the bound is ``decisive.contrast.below``).
        decisive: that contrast's test.
        reason: one line for people.
        excluded: trials left out because they diverged.
    """

    claim: Claim
    decision: Decision
    tests: tuple[ContrastTest, ...]
    decisive: ContrastTest
    reason: str
    excluded: tuple[str, ...] = ()

    @property
    def estimate(self) -> float | None:
        return self.decisive.estimate

    @property
    def low(self) -> float | None:
        return self.decisive.low

    @property
    def high(self) -> float | None:
        return self.decisive.high

    @property
    def p(self) -> float | None:
        against = self.decision == "does not"
        return self.decisive.p_against if against else self.decisive.p

    @property
    def n(self) -> int:
        return self.decisive.n


def judge(
    claim: Claim,
    samples: Samples,
    study: Study,
    diverged: Mapping[str, Sequence[str]] | None = None,
    confidence: float = CONFIDENCE,
    spread: Spread | None = None,
) -> Verdict:
    """Decide a claim from the seeds there are.

    A claim is a conjunction. It *holds* if the interval of every contrast lies wholly on the claimed
    side: an intersection-union test, whose level needs no correction for the number of contrasts.
    It *does not* if some contrast is contradicted; the most contradicted of k is sought, so its p
    is multiplied by k (Bonferroni, the first step of Holm's). Otherwise it is *undecided*.

    Args:
        claim: the claim.
        samples: log-perplexity by row key and seed.
        study: the study whose rows the claim names.
        diverged: by row key, the names of trials that diverged. They are not among the samples; the
            verdict names them.
        spread: that of all rows in ``samples``, made of them if not given.
    """
    alpha = (1 - confidence) / 2  # one side of a two-sided interval
    spread = spread or spread_of(samples)
    tests = tuple(contrast_test(c, samples, study, confidence, spread) for c in claim.contrasts)
    rows = {study.row(name).key for c in claim.contrasts for name in c.weights}
    excluded = tuple(name for key in sorted(rows) for name in (diverged or {}).get(key, ()))
    tested = [test for test in tests if test.p is not None and test.p_against is not None]
    against = min(tested, key=lambda test: test.p_against or 0.0, default=None)
    if against is not None and (against.p_against or 0.0) * len(tests) < alpha:
        reason = f"contradicted: {_describe(against)}"
        return Verdict(claim, "does not", tests, against, _noting(reason, excluded), excluded)
    untested = next((test for test in tests if test.p is None), None)
    if untested is not None:
        reason = untested.reason or "not tested"
        return Verdict(claim, "undecided", tests, untested, _noting(reason, excluded), excluded)
    weakest = max(tests, key=lambda test: test.p or 0.0)
    if (weakest.p or 0.0) < alpha:
        which = "" if len(tests) == 1 else f"all {len(tests)} comparisons; the closest: "
        reason = which + _describe(weakest)
        return Verdict(claim, "holds", tests, weakest, _noting(reason, excluded), excluded)
    reason = f"within the spread of the seeds: {_describe(weakest)}"
    return Verdict(claim, "undecided", tests, weakest, _noting(reason, excluded), excluded)


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau-b over ``n`` rows, and the p of no agreement (two-sided)."""

    tau: float
    p: float
    n: int


def kendall_tau(ours: Mapping[str, float], paper: Mapping[str, float]) -> RankAgreement | None:
    """How well our order of rows agrees with the paper's: 1 the same, -1 the reverse.

    tau-b allows for ties, which the paper's rounded figures have. Rows that are not in both, or not
    finite, are left out; None if fewer than 2 remain or one side is all ties.
    """
    from scipy.stats import kendalltau

    keys = [
        key for key in ours
        if key in paper and math.isfinite(ours[key]) and math.isfinite(paper[key])
    ]  # fmt: skip
    if len(keys) < 2:
        return None
    a, b = [ours[key] for key in keys], [paper[key] for key in keys]
    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    result: Any = kendalltau(a, b, variant="b")
    return RankAgreement(float(result.statistic), float(result.pvalue), len(keys))


@dataclass(frozen=True)
class PairAgreement:
    """How many pairs of rows there are whose figures in the paper differ, how many of them our seeds
    tell apart (each at the given confidence), and how many of those stand in the paper's order."""

    pairs: int
    told_apart: int
    as_in_paper: int


def pair_agreement(
    samples: Samples,
    paper: Mapping[str, float],
    study: Study,
    spread: Spread,
    confidence: float = CONFIDENCE,
) -> PairAgreement:
    """Which part of a disagreement in order is more than the scatter of the seeds.

    Args:
        samples: log-perplexity by row key and seed.
        paper: the paper's figures by row key; rows without samples are left out.
        study, spread: as for ``contrast_test``.
    """
    alpha = (1 - confidence) / 2
    pairs = told = same = 0
    for a, b in itertools.combinations([key for key in paper if samples.get(key)], 2):
        if paper[a] == paper[b]:
            continue
        pairs += 1
        lower, higher = (a, b) if paper[a] < paper[b] else (b, a)
        test = contrast_test(Contrast({lower: 1.0, higher: -1.0}), samples, study, spread=spread)
        if test.p is None or test.p_against is None or min(test.p, test.p_against) >= alpha:
            continue
        told += 1
        same += test.p < alpha
    return PairAgreement(pairs, told, same)


def _untested(contrast: Contrast, estimate: float | None, n: int, reason: str) -> ContrastTest:
    return ContrastTest(contrast, estimate, None, None, None, None, None, None, n, reason)


def _describe(test: ContrastTest) -> str:
    assert test.estimate is not None
    change = f"{math.expm1(test.estimate):+.2%}"
    if test.low is not None and test.high is not None:
        change += f" ({math.expm1(test.low):+.2%} to {math.expm1(test.high):+.2%})"
    bound = f", bound {math.expm1(test.contrast.below):+.2%}" if test.contrast.below else ""
    seeds = "1 seed" if test.n == 1 else f"{test.n} seeds"
    return f"{test.contrast.text or 'contrast'}: {change}{bound}, {seeds}"


def _noting(reason: str, excluded: Sequence[str]) -> str:
    return reason + (f"; left out, diverged: {', '.join(excluded)}" if excluded else "")


def _tails(t: float, df: float) -> tuple[float, float]:
    from scipy.special import stdtr

    return float(stdtr(df, t)), float(stdtr(df, -t))
