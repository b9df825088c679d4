"""What a study is: rows made by axes, scales to run them at, the paper's figures and its claims.

A row is one choice on every axis; a trial is one row with one seed. Configs are laid on each other
in this order, the later winning: ``TrialConfig()``, the study's base, the scale, the row, what the
row has at that scale alone, the user's overrides, the seed.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssmlab.core.errors import ConfigError, StudyError
from ssmlab.studies.claims import Claim, RowName

if TYPE_CHECKING:
    from ssmlab.training.config import TrialConfig

_SPELLED = {"Δ": "delta", "π": "pi", "α": "alpha", "β": "beta"}


def slug(text: str) -> str:
    """``text`` as a name for folders: lower case, digits and single dashes."""
    for letter, name in _SPELLED.items():
        text = text.replace(letter, f" {name} ")
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def nearest(given: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"


@dataclass(frozen=True)
class Point:
    """One choice on an axis.

    Attributes:
        label: what tables print.
        changes: dotted keys of ``TrialConfig`` and their values.
        key: short name in the names of rows and folders; made from the label if left out.
    """

    label: str
    changes: Mapping[str, Any]
    key: str = ""

    @property
    def slug(self) -> str:
        return self.key or slug(self.label)


@dataclass(frozen=True)
class Axis:
    """What is varied, and the choices, in the order of the table."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Figure:
    """What the paper prints for a row; None where it prints nothing.

    Attributes:
        ppl: perplexity.
        params_m: parameters in millions.
    """

    ppl: float | None = None
    params_m: float | None = None


@dataclass(frozen=True)
class Scale:
    """A size at which to run a study.

    Attributes:
        name: for example ``quick``.
        changes: dotted keys of ``TrialConfig`` and their values.
        seeds: seeds of each row unless the user says otherwise.
        note: one line for people: what a trial is and what it takes.
        requires: keys that only the user can set, each with what is wanted. A run without one of
            them is refused before any work.
    """

    name: str
    changes: Mapping[str, Any]
    seeds: int = 2
    note: str = ""
    requires: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table: a choice on every axis."""

    key: str
    labels: tuple[str, ...]
    changes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """All the labels as one text."""
        return ", ".join(self.labels)


@dataclass(frozen=True)
class Trial:
    """One row with one seed. ``name`` is a readable slug and the hash of the resolved config."""

    row: Row
    seed: int
    config: "TrialConfig"
    name: str


@dataclass(frozen=True)
class Study:
    """An experiment as data.

    Attributes:
        name: slug that the command line and folders use.
        title: for people.
        source: where the figures and claims come from.
        axes: what is varied; rows are their product, the last axis fastest.
        base: dotted keys of ``TrialConfig`` common to all rows and scales.
        scales: sizes to run at.
        figures: the paper's figures, by the labels of the row.
        claims: what the paper says of these rows.
        plot: name of the axis that the report plots perplexity against, if any.
        sizes: by scale and row, keys that this row has at that scale alone, for example the width
            at which it has as many parameters as the others.

    Raises:
        StudyError: names that repeat, or figures, claims or a plot of something that is not there.
    """

    name: str
    title: str
    source: str
    axes: tuple[Axis, ...]
    base: Mapping[str, Any]
    scales: tuple[Scale, ...]
    figures: Mapping[tuple[str, ...], Figure] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    plot: str | None = None
    sizes: Mapping[str, Mapping[RowName, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if slug(self.name) != self.name or not self.name:
            raise StudyError(
                f"study name {self.name!r}: expected lower case, digits and dashes, "
                f"for example '{slug(self.name) or 'my-study'}'"
            )
        if not self.axes or not all(axis.points for axis in self.axes):
            raise StudyError(f"study {self.name}: needs an axis, and each axis at least one point")
        if not self.scales:
            raise StudyError(f"study {self.name}: needs at least one scale")
        for scale in self.scales:
            if scale.seeds < 1:
                raise StudyError(f"study {self.name}, scale {scale.name}: needs at least 1 seed")
        rows = self.rows()
        self._refuse_repeats("axis", [axis.name for axis in self.axes])
        self._refuse_repeats("scale", [scale.name for scale in self.scales])
        self._refuse_repeats("claim", [claim.key for claim in self.claims])
        self._refuse_repeats("row key", [row.key for row in rows])
        self._refuse_repeats("row", [row.label for row in rows])
        for labels in self.figures:
            self.row(labels)
        for scale, by_row in self.sizes.items():
            self.scale(scale)
            for name in by_row:
                self.row(name)
        for claim in self.claims:
            for contrast in claim.contrasts:
                for name in contrast.weights:
                    self.row(name)
        if self.plot is not None and self.plot not in [axis.name for axis in self.axes]:
            raise StudyError(
                f"study {self.name}: plot={self.plot!r} is not an axis; "
                + nearest(self.plot, [axis.name for axis in self.axes])
            )

    def _refuse_repeats(self, what: str, names: Sequence[str]) -> None:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise StudyError(f"study {self.name}: the {what} {twice!r} is there twice")

    def rows(self) -> list[Row]:
        """The lines of the table, in its order."""
        rows = []
        for points in itertools.product(*(axis.points for axis in self.axes)):
            changes: dict[str, Any] = {}
            for axis, point in zip(self.axes, points, strict=True):
                clash = sorted(changes.keys() & point.changes.keys())
                if clash:
                    raise StudyError(
                        f"study {self.name}: {clash[0]} is set by axis {axis.name!r} and by one "
                        "before it; set each key on one axis"
                    )
                changes.update(point.changes)
            key = "-".join(point.slug for point in points)
            rows.append(Row(key, tuple(point.label for point in points), changes))
        return rows

    def row(self, name: RowName) -> Row:
        """The row with this key (str) or these labels (tuple).

        Raises:
            StudyError: there is none.
        """
        rows = self.rows()
        for row in rows:
            if name in (row.key, row.labels):
                return row
        raise StudyError(
            f"study {self.name} has no row {name!r}; "
            + nearest(
                name if isinstance(name, str) else slug("-".join(name)), [r.key for r in rows]
            )
        )

    def figure(self, row: Row) -> Figure:
        """The paper's figures for ``row``; empty if it prints none."""
        return self.figures.get(row.labels, Figure())

    def scale(self, name: str) -> Scale:
        """The scale called ``name``.

        Raises:
            StudyError: there is none; the nearest is named.
        """
        for scale in self.scales:
            if scale.name == name:
                return scale
        names = [scale.name for scale in self.scales]
        raise StudyError(f"study {self.name} has no scale '{name}': {nearest(name, names)}")

    def trials(
        self,
        scale: str,
        seeds: int | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Trial]:
        """All trials: every row with seed 0, then every row with seed 1, and so on.

        Args:
            scale: name of a scale.
            seeds: seeds of each row; None for the scale's own number.
            overrides: dotted keys that win over all others.

        Raises:
            StudyError: no such scale, or an override of what the study itself varies, or of what
                alone sets two rows apart at this scale.
            ConfigError: a config that cannot be; the row is named.
        """
        chosen = self.scale(scale)
        count = chosen.seeds if seeds is None else seeds
        if count < 1:
            raise StudyError(f"seeds: expected at least 1, got {count}")
        changes = dict(overrides or {})
        self._refuse_overriding_axes(changes)
        rows = self.rows()
        configs = self._configs(rows, chosen, changes)
        if changes and len(set(configs)) < len(rows):
            self._refuse_merging_rows(rows, chosen, configs, changes)
        return [
            _trial(row, seed, config)
            for seed in range(count)
            for row, config in zip(rows, configs, strict=True)
        ]

    def _refuse_overriding_axes(self, overrides: Mapping[str, Any]) -> None:
        for path in overrides:
            if path == "seed":
                raise StudyError("'seed' is set by the study; say how many with --seeds")
            for axis in self.axes:
                for key in (key for point in axis.points for key in point.changes):
                    if path == key or key.startswith(path + ".") or path.startswith(key + "."):
                        raise StudyError(
                            f"'{path}' is what axis {axis.name!r} of study {self.name} varies; "
                            "leave it out, or declare a study of your own"
                        )

    def _refuse_merging_rows(
        self,
        rows: list[Row],
        scale: Scale,
        configs: list["TrialConfig"],
        overrides: Mapping[str, Any],
    ) -> None:
        own = self._configs(rows, scale, {})
        for (a, mine_a, now_a), (b, mine_b, now_b) in itertools.combinations(
            zip(rows, own, configs, strict=True), 2
        ):
            if now_a == now_b and mine_a != mine_b:
                raise StudyError(
                    f"with {' and '.join(overrides)} overridden, rows {a.key} and {b.key} of study "
                    f"{self.name} would be the same: they differ in that alone at scale "
                    f"{scale.name}; leave it out, or declare a study of your own"
                )

    def _configs(
        self, rows: list[Row], scale: Scale, overrides: Mapping[str, Any]
    ) -> list["TrialConfig"]:
        from ssmlab.core.config import override
        from ssmlab.training.config import TrialConfig

        configs, failures = [], {}
        base = {**self.base, **scale.changes}
        sizes = {self.row(name).key: keys for name, keys in self.sizes.get(scale.name, {}).items()}
        for row in rows:
            changes = {**base, **row.changes, **sizes.get(row.key, {}), **overrides}
            try:
                configs.append(override(TrialConfig(), changes))
            except ConfigError as error:
                failures[row.key] = error
        if len(failures) == len(rows) and len({str(error) for error in failures.values()}) == 1:
            raise next(iter(failures.values()))  # not of one row: of the base or an override
        for key, error in failures.items():
            raise ConfigError(f"row {key} of study {self.name}: {error}") from error
        return configs

    def to_dict(self) -> dict[str, Any]:
        """The whole study as plain data for JSON; ``from_dict`` reads it back."""
        data = {
            name: getattr(self, name) for name in ("name", "title", "source", "base", "plot")
        } | {
            "axes": [dataclasses.asdict(axis) for axis in self.axes],
            "scales": [dataclasses.asdict(scale) for scale in self.scales],
            "figures": [
                {"labels": labels, "ppl": figure.ppl, "params_m": figure.params_m}
                for labels, figure in self.figures.items()
            ],
            "claims": [claim.to_dict() for claim in self.claims],
            "sizes": {
                scale: {self.row(name).key: keys for name, keys in by_row.items()}
                for scale, by_row in self.sizes.items()
            },
        }
        return _plain(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Study":
        """A study from what ``to_dict`` gave."""
        return cls(
            name=data["name"],
            title=data["title"],
            source=data["source"],
            axes=tuple(
                Axis(axis["name"], tuple(Point(**point) for point in axis["points"]))
                for axis in data["axes"]
            ),
            base=data["base"],
            scales=tuple(Scale(**scale) for scale in data["scales"]),
            figures={
                tuple(figure["labels"]): Figure(figure["ppl"], figure["params_m"])
                for figure in data["figures"]
            },
            claims=tuple(Claim.from_dict(claim) for claim in data["claims"]),
            plot=data["plot"],
            sizes=data.get("sizes", {}),
        )


def _trial(row: Row, seed: int, config: "TrialConfig") -> Trial:
    from ssmlab.core.config import config_hash

    config = dataclasses.replace(config, seed=seed)
    return Trial(row, seed, config, f"{row.key}-s{seed}-{config_hash(config)}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
