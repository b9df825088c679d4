"""Colours of the page and its figures, in light and dark.

Figures are drawn once. Their colours are stand-ins that become CSS variables in the SVG, so that
one figure reads well in both themes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ssmlab.studies.report.data import RowView

# Name -> (light, dark). Ink on paper has a contrast of at least 7, muted at least 4.5.
BASE: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181d"),
    "raised": ("#f5f6f8", "#1e2229"),
    "ink": ("#1b1f24", "#e7eaee"),
    "muted": ("#5a6370", "#a3acb8"),
    "line": ("#d9dde3", "#363d47"),
    "grid": ("#e8ebef", "#2a3038"),
    "accent": ("#0b5cad", "#7db8f5"),
    "accent-soft": ("#e8f1fb", "#1b2e43"),
    "holds": ("#17693a", "#79d3a0"),
    "holds-soft": ("#e6f4ea", "#17301f"),
    "does-not": ("#a3261d", "#f59a92"),
    "does-not-soft": ("#fcebe9", "#3b1d1b"),
    "undecided": ("#75540a", "#e3bd66"),
    "undecided-soft": ("#fbf3dd", "#332a14"),
}

_CATEGORIES = (
    ("#0b5cad", "#6db1f5"),
    ("#c2410c", "#fb9a62"),
    ("#15803d", "#6fd08f"),
    ("#8b3fb0", "#cf9bea"),
    ("#8a6a00", "#e0c04d"),
    ("#0e7c86", "#5fd0d8"),
    ("#be1e5a", "#f58bb2"),
    ("#55606e", "#b3bcc8"),
)
# Ends of the ramps of one family of rows: (light pale, light deep), (dark dim, dark bright).
_RAMPS = (
    (("#8fbcec", "#06336b"), ("#32659c", "#b9dcff")),
    (("#f3b184", "#8a2a00"), ("#96501f", "#ffd0ad")),
    (("#8ed0a3", "#0b4d22"), ("#2c7a47", "#b4f0c8")),
    (("#d3a8e6", "#55157a"), ("#7b4796", "#eccbff")),
)
_DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 2.0), (1.5, 1.8), (6.0, 2.0, 1.5, 2.0))
_STAND_IN = re.compile(r"#fe[0-9a-f]{4}", re.IGNORECASE)


@dataclass(frozen=True)
class Style:
    """How a series is drawn: a colour's name and the dashes of its line (empty: solid)."""

    color: str
    dashes: tuple[float, ...] = ()


class Palette:
    """Names of colours, their values in both themes, and stand-ins for drawing with them."""

    def __init__(self) -> None:
        self.colors: dict[str, tuple[str, str]] = dict(BASE)

    def stand_in(self, name: str) -> str:
        """A colour that matplotlib can draw with and ``to_variables`` finds again."""
        return f"#fe{list(self.colors).index(name):04x}"

    def to_variables(self, svg: str) -> str:
        """``svg`` with every stand-in as the CSS variable of its colour."""
        names = list(self.colors)
        return _STAND_IN.sub(lambda found: f"var(--{names[int(found[0][3:], 16)]})", svg)

    def css(self, theme: int) -> str:
        """Declarations of all colours: theme 0 light, 1 dark."""
        return " ".join(f"--{name}: {pair[theme]};" for name, pair in self.colors.items())

    def add(self, name: str, light: str, dark: str) -> str:
        self.colors[name] = (light, dark)
        return name


def row_styles(
    palette: Palette, rows: Sequence[RowView], axes: Sequence[str], plot_axis: str | None
) -> list[Style]:
    """A style per row: a ramp along ``plot_axis`` and a hue per value of the others; else hues."""
    if plot_axis is None or plot_axis not in axes:
        return [category(palette, index) for index in range(len(rows))]
    position = list(axes).index(plot_axis)
    families = family_names(rows, position)
    steps = list(dict.fromkeys(row.labels[position] for row in rows))
    styles = []
    for row in rows:
        family = families.index(other_labels(row, position))
        part = steps.index(row.labels[position]) / max(1, len(steps) - 1)
        if len(families) == 1:
            light, dark = _viridis(0.86 - 0.86 * part), _viridis(0.3 + 0.7 * part)
        else:
            ramp = _RAMPS[family % len(_RAMPS)]
            light, dark = (_mix(*ends, part) for ends in ramp)
        name = palette.add(f"r{family}-{steps.index(row.labels[position])}", light, dark)
        styles.append(Style(name, _DASHES[family % len(_DASHES)]))
    return styles


def category(palette: Palette, index: int) -> Style:
    """The style of the ``index``-th of a set without order; colours come again with other dashes."""
    turn, hue = divmod(index, len(_CATEGORIES))
    name = palette.add(f"c{hue}", *_CATEGORIES[hue])
    return Style(name, _DASHES[turn % len(_DASHES)])


def family_names(rows: Sequence[RowView], position: int) -> list[tuple[str, ...]]:
    """The values of all axes but the one at ``position``, in order of first use."""
    return list(dict.fromkeys(other_labels(row, position) for row in rows))


def other_labels(row: RowView, position: int) -> tuple[str, ...]:
    """A row's labels without the one at ``position``."""
    return row.labels[:position] + row.labels[position + 1 :]


def _mix(start: str, end: str, part: float) -> str:
    pairs = [(int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in pairs)


def _viridis(part: float) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis"](min(1.0, max(0.0, part))))
