"""Claims about rows, written so that they can be tested: inequalities between mean log-perplexities.

Logs make a claim about ratios, which carries over between scales; a difference of one perplexity at
350M parameters means nothing for a model a hundred times smaller.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

RowName: TypeAlias = str | tuple[str, ...]
"""A row's key, or its labels."""


TREND_NOTE = (
    "A straight line through the log-perplexities of all rows, at equal steps; its change from the "
    "first row to the last. Neighbouring rows may be closer than seeds tell apart."
)


@dataclass(frozen=True)
class Contrast:
    """The statement  Σ weight_i · mean log-perplexity_i < below.

    Attributes:
        weights: one weight per row, by its key or its labels.
        below: the bound, in nats.
        text: the statement in words.
    """

    weights: Mapping[RowName, float]
    below: float = 0.0
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        weights = [
            {"row": row if isinstance(row, str) else list(row), "weight": weight}
            for row, weight in self.weights.items()
        ]
        return {"weights": weights, "below": self.below, "text": self.text}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Contrast":
        weights: dict[RowName, float] = {}
        for item in data["weights"]:
            row = item["row"]
            weights[row if isinstance(row, str) else tuple(row)] = item["weight"]
        return cls(weights, data["below"], data["text"])


@dataclass(frozen=True)
class Claim:
    """One thing that the paper says of a study's rows: all of ``contrasts`` together.

    Attributes:
        key: short name, unique in the study.
        text: the claim in words.
        source: where the paper says so.
        contrasts: statements that must all be true.
        note: how we read the claim, where the paper leaves that open.
    """

    key: str
    text: str
    source: str
    contrasts: tuple[Contrast, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.contrasts:
            raise ValueError(f"claim {self.key!r}: expected at least one contrast, got none")

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "text": self.text,
            "source": self.source,
            "contrasts": [contrast.to_dict() for contrast in self.contrasts],
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Claim":
        contrasts = tuple(Contrast.from_dict(contrast) for contrast in data["contrasts"])
        return cls(data["key"], data["text"], data["source"], contrasts, data["note"])


def better(a: RowName, b: RowName, *, by: float = 0.0) -> Contrast:
    """Row ``a`` has the lower perplexity, lower by more than the fraction ``by`` of b's.

    ``by=0.1`` means that a's perplexity is below 90% of b's.
    """
    if not 0 <= by < 1:
        raise ValueError(f"better: by is a fraction, expected 0 <= by < 1, got {by}")
    margin = f" by more than {by:.1%}" if by else ""
    return Contrast({a: 1.0, b: -1.0}, math.log1p(-by), f"{_name(a)} < {_name(b)}{margin}")


def no_worse(a: RowName, b: RowName, margin: float) -> Contrast:
    """Row ``a``'s perplexity is at most the fraction ``margin`` above b's (non-inferiority)."""
    if not margin > 0:
        raise ValueError(f"no_worse: expected margin > 0, got {margin}; 'better' has none")
    text = f"{_name(a)} < {_name(b)} + {margin:.1%}"
    return Contrast({a: 1.0, b: -1.0}, math.log1p(margin), text)


def best(a: RowName, others: Iterable[RowName]) -> tuple[Contrast, ...]:
    """Row ``a`` is better than each of ``others``."""
    return tuple(better(a, other) for other in others)


def worst(a: RowName, others: Iterable[RowName]) -> tuple[Contrast, ...]:
    """Each of ``others`` is better than row ``a``."""
    return tuple(better(other, a) for other in others)


def falling(rows: Iterable[RowName]) -> tuple[Contrast, ...]:
    """Each row is better than the one before it."""
    return tuple(better(b, a) for a, b in itertools.pairwise(rows))


def alike(a: RowName, b: RowName, margin: float) -> tuple[Contrast, Contrast]:
    """The perplexities of two rows differ by less than the fraction ``margin`` (equivalence)."""
    return no_worse(a, b, margin), no_worse(b, a, margin)


def better_on_average(pairs: Iterable[tuple[RowName, RowName]]) -> Contrast:
    """The first rows of ``pairs`` have the lower perplexity, on the mean over the pairs."""
    pairs = tuple(pairs)
    share = 1 / len(pairs)
    weights = _added(term for a, b in pairs for term in ((a, share), (b, -share)))
    text = " and ".join(f"{_name(a)} < {_name(b)}" for a, b in pairs)
    return Contrast(weights, 0.0, f"on average {text}")


def falls(rows: Sequence[RowName]) -> Contrast:
    """A straight line through the rows' log-perplexities, at equal steps, falls.

    What is estimated is the fitted change from the first row to the last; it uses all rows, so it
    sees a trend whose single steps are lost in the spread of the seeds.
    """
    return Contrast(_line(rows), 0.0, f"{_trend(rows)} falls")


def level(rows: Sequence[RowName], margin: float) -> tuple[Contrast, Contrast]:
    """Such a line changes by less than the fraction ``margin`` from the first row to the last."""
    if not margin > 0:
        raise ValueError(f"level: expected margin > 0, got {margin}")
    line, bound = _line(rows), math.log1p(margin)
    return (
        Contrast(line, bound, f"{_trend(rows)} rises by less than {margin:.1%}"),
        Contrast(
            {row: -weight for row, weight in line.items()},
            bound,
            f"{_trend(rows)} falls by less than {margin:.1%}",
        ),
    )


def falls_more(rows: Sequence[RowName], than: Sequence[RowName]) -> Contrast:
    """Such a line through ``rows`` falls by more than the one through ``than`` (an interaction)."""
    other = ((row, -weight) for row, weight in _line(than).items())
    weights = _added(itertools.chain(_line(rows).items(), other))
    return Contrast(weights, 0.0, f"{_trend(rows)} falls more than {_trend(than)}")


def larger_gain(gain: tuple[RowName, RowName], than: tuple[RowName, RowName]) -> Contrast:
    """Going from ``gain[0]`` to ``gain[1]`` lowers perplexity by a larger factor than going from
    ``than[0]`` to ``than[1]`` does (an interaction)."""
    weights = _added(((gain[1], 1.0), (gain[0], -1.0), (than[1], -1.0), (than[0], 1.0)))
    text = (
        f"{_name(gain[0])} to {_name(gain[1])} gains more than {_name(than[0])} to {_name(than[1])}"
    )
    return Contrast(weights, 0.0, text)


def _added(terms: Iterable[tuple[RowName, float]]) -> dict[RowName, float]:
    """One weight a row, the sum of its terms; rows in the order in which they come first."""
    weights: dict[RowName, float] = {}
    for row, weight in terms:
        weights[row] = weights.get(row, 0.0) + weight
    return weights


def _line(rows: Sequence[RowName]) -> dict[RowName, float]:
    """Weights whose sum over rows is the fitted change from the first row to the last."""
    last = len(rows) - 1
    if last < 1:
        raise ValueError(f"a trend: expected at least 2 rows, got {len(rows)}")
    squares = math.fsum((i - last / 2) ** 2 for i in range(last + 1))
    return {row: (i - last / 2) * last / squares for i, row in enumerate(rows)}


def _trend(rows: Sequence[RowName]) -> str:
    return f"the trend from {_name(rows[0])} to {_name(rows[-1])}"


def _name(row: RowName) -> str:
    return row if isinstance(row, str) else ", ".join(row)
