"""How far seeds scatter: one variance for the rows of a study, and those that do not share it.

A row of two or three seeds says little of its own spread, all rows together say much: so variances
are pooled over rows, as in an analysis of variance. A row that scatters far more than the others (one
trial in it came back from a lost loss, say) must not widen everybody's interval. It is found by
Cochran's test for an outlying variance as ISO 5725-2 uses it, at 1%, again and again until no more
is found, in the form for unequal numbers of seeds (an F test of one row against the rest, times the
number of rows; 't Lam 2010). Such a row keeps its own variance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

OUTLYING = 0.01
"""The level of Cochran's test."""

Samples: TypeAlias = Mapping[str, Mapping[int, float]]
"""Log-perplexity by row key and seed; trials that diverged or are not finished are not in it."""


@dataclass(frozen=True)
class Spread:
    """Variances of log-perplexity over seeds.

    Attributes:
        variance: that which rows share; 0 without degrees of freedom.
        df: its degrees of freedom: seeds less one, summed over these rows.
        rows: how many rows it was pooled from.
        own: by row key, variance and degrees of freedom of rows that scatter by far more.
    """

    variance: float
    df: int
    rows: int
    own: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of one trial, in nats (about a relative change); None if unknown."""
        return math.sqrt(self.variance) if self.df else None

    def of(self, row: str) -> tuple[float, int]:
        """Variance and degrees of freedom that count for a row."""
        return self.own.get(row, (self.variance, self.df))

    def least_difference(self, seeds: int, confidence: float = 0.95) -> float | None:
        """The difference of two rows of ``seeds`` seeds, in nats, whose interval just reaches 0."""
        if not self.df:
            return None
        return quantile(confidence, self.df) * math.sqrt(2 * self.variance / seeds)


def spread_of(samples: Samples) -> Spread:
    """The spread of a study's seeds, over all rows of two seeds or more."""
    from scipy.special import fdtrc

    shared = {
        row: (_variance(list(values.values())), len(values) - 1)
        for row, values in samples.items()
        if len(values) > 1
    }
    own: dict[str, tuple[float, int]] = {}
    while len(shared) > 2:
        widest = max(shared, key=lambda row: shared[row][0])
        variance, df = shared[widest]
        others, others_df = _pooled([v for row, v in shared.items() if row != widest])
        if not 0 < others < variance:
            break
        if float(fdtrc(df, others_df, variance / others)) * len(shared) >= OUTLYING:
            break
        own[widest] = shared.pop(widest)
    return Spread(*_pooled(list(shared.values())), len(shared), own)


def quantile(confidence: float, df: float) -> float:
    """Student's t that holds a share ``confidence`` between -t and t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2))


def _pooled(parts: list[tuple[float, int]]) -> tuple[float, int]:
    df = sum(free for _, free in parts)
    return (math.fsum(variance * free for variance, free in parts) / df if df else 0.0), df


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
