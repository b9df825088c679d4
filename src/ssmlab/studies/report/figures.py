"""The figures of a report: dots per row, learning curves, perplexity along an axis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmlab.studies.report.curves import Curve, mean_curve, smooth, upper_limit
from ssmlab.studies.report.data import CurvePoint, ReportData, RowView
from ssmlab.studies.report.svg import quiet, render, stand_alone
from ssmlab.studies.report.text import count_text, labels_text, ppl_text
from ssmlab.studies.report.theme import (
    Palette,
    Style,
    category,
    family_names,
    other_labels,
    row_styles,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 860, 380


@dataclass(frozen=True)
class LegendEntry:
    """A series of a figure: its style, its name and a figure to set beside it."""

    style: Style
    label: str
    value: str = ""


@dataclass(frozen=True)
class FigureView:
    """A figure for wide and for narrow screens, or as a file of its own.

    Attributes:
        key: its name in ids and file names.
        title, caption: what stands beside it.
        draw: draws it on an empty figure, and is told whether for a narrow screen.
        heights: of the wide one and of the narrow one, in CSS pixels.
        legend: its series; a page sets them as text below it, a file draws them.
    """

    key: str
    title: str
    caption: str
    draw: Callable[["Figure", bool], None]
    heights: tuple[float, float]
    palette: Palette
    legend: tuple[LegendEntry, ...] = ()

    def element(self, narrow: bool) -> str:
        """One <svg> element, without the legend."""
        size = (NARROW if narrow else WIDE, self.heights[narrow])
        key = f"{self.key}-{'n' if narrow else 'w'}"
        return render(lambda f: self.draw(f, narrow), size, key, self.title, self.palette)

    def file(self) -> str:
        """An SVG file with the legend in it, light or dark as the reader's screen is."""
        entries = [f"{e.label}  {e.value}".rstrip() for e in self.legend]
        longest = max(map(len, entries), default=0)
        columns = max(1, min(len(entries), WIDE // (60 + 7 * longest)))
        lines = -(-len(entries) // columns)

        def draw(figure: "Figure") -> None:
            from matplotlib.lines import Line2D

            self.draw(figure, False)
            if entries:
                handles = [
                    Line2D(
                        [], [], color=self.palette.stand_in(e.style.color), dashes=e.style.dashes
                    )
                    for e in self.legend
                ]
                figure.legend(
                    handles, entries, loc="outside lower left", ncols=columns, frameon=False
                )

        size = WIDE, self.heights[0] + 20 * lines
        return stand_alone(render(draw, size, self.key, self.title, self.palette), self.palette)


def make_figures(data: ReportData, palette: Palette) -> list[FigureView]:
    """The figures that the results at hand allow, in the order of the page."""
    styles = row_styles(palette, data.rows, data.axes, data.plot_axis)
    found = [
        dots_figure(data, palette),
        axis_figure(data, palette),
        curves_figure(data, palette, styles),
    ]
    return [figure for figure in found if figure is not None]


def dots_figure(data: ReportData, palette: Palette) -> FigureView | None:
    """Perplexity of every row, a dot per seed, beside the paper's; rows in the paper's order."""
    if all(row.mean is None for row in data.rows):
        return None
    rows = sorted(data.rows, key=lambda row: -(row.paper_ppl or 0))
    paper = any(row.paper_ppl is not None for row in rows)
    low, high = _dots_range(data)

    def names(narrow: bool) -> list[str]:
        return [_short(labels_text(row.labels, data.axes), 18 if narrow else 36) for row in rows]

    def draw(figure: "Figure", narrow: bool) -> None:
        panels = figure.subplots(1, 2 if paper else 1, sharey=True, squeeze=False)[0]
        ours = panels[0]
        for index, row in enumerate(rows):
            _draw_row(ours, row, index, (low, high), palette)
        ours.set_xlim(low, high)
        ours.set_title("this study")
        ours.set_yticks(range(len(rows)), names(narrow))
        for label, row in zip(ours.get_yticklabels(), rows, strict=True):
            label.set_color(palette.stand_in("ink"))
            label.set_fontweight("bold" if row.best else "normal")
        ours.set_ylim(len(rows) - 0.4, -0.6)
        if paper:
            values = [(i, r.paper_ppl) for i, r in enumerate(rows) if r.paper_ppl is not None]
            ink = palette.stand_in("muted")
            panels[1].plot([v for _, v in values], [i for i, _ in values], "s", ms=6.5, color=ink)
            panels[1].set_title("the paper")
            _pad(panels[1], [v for _, v in values])
        for panel in panels:
            panel.set_xlabel("perplexity")
            panel.locator_params(axis="x", nbins=3 if narrow and paper else 5)
            quiet(panel, palette, "x")
        ours.tick_params(axis="y", pad=9)  # room for the arrowheads of clipped intervals

    height = 96 + 27 * len(rows)
    caption = (
        "Perplexity of every row. Large dot: mean over seeds, with its 95% confidence interval; "
        "small dots: single seeds."
    )
    caption += _clipped_text(rows, (low, high))
    beyond = [row for row in rows if row.mean is not None and not low <= row.mean <= high]
    if beyond:
        caption += " A figure in place of a dot: the mean lies beyond the plot."
    if paper:
        caption += (
            " Rows are in the paper's order, the worst at the top: where we agree, the dots on the "
            "left run down to the left as those on the right do."
        )
        if any(row.paper_ppl is None for row in rows):
            caption += " Rows that the paper does not print come last."
    return FigureView("dots", "Perplexity of every row", caption, draw, (height, height), palette)


def axis_figure(data: ReportData, palette: Palette) -> FigureView | None:
    """Perplexity against the axis that the study names, ours and the paper's side by side."""
    if data.plot_axis not in data.axes or all(row.mean is None for row in data.rows):
        return None
    position = data.axes.index(data.plot_axis)
    ticks = list(dict.fromkeys(row.labels[position] for row in data.rows))
    families = family_names(data.rows, position)
    styles = [category(palette, index) for index in range(len(families))]
    paper = any(row.paper_ppl is not None for row in data.rows)
    limits = _dots_range(data)

    def draw(figure: "Figure", narrow: bool) -> None:
        shape = (2, 1) if narrow and paper else (1, 2 if paper else 1)
        panels = figure.subplots(*shape, squeeze=False).flatten()
        for family, style in zip(families, styles, strict=True):
            rows = [row for row in data.rows if other_labels(row, position) == family]
            for panel, ours in zip(panels, (True, False), strict=False):
                found = [(row, row.mean if ours else row.paper_ppl) for row in rows]
                points = [(row, value) for row, value in found if value is not None]
                at = [ticks.index(row.labels[position]) for row, _ in points]
                color = palette.stand_in(style.color)
                panel.plot(
                    at,
                    [value for _, value in points],
                    "o-" if ours else "s-",
                    color=color,
                    ms=6,
                    dashes=style.dashes,
                )
                for place, (row, _) in zip(at, points, strict=True):
                    if ours and row.low is not None and row.high is not None:
                        _draw_interval(panel, place, (row.low, row.high), limits, color)
        panels[0].set_ylim(*limits)
        for panel, title in zip(panels, ("this study", "the paper"), strict=False):
            panel.set_title(title)
            panel.set_ylabel("perplexity")
            panel.set_xlim(-0.4, len(ticks) - 0.6)
            panel.set_xticks(range(len(ticks)), [_short(tick, 10) for tick in ticks])
            panel.set_xlabel(data.plot_axis or "")
            panel.locator_params(axis="y", nbins=6)
            quiet(panel, palette, "y")

    legend = tuple(
        LegendEntry(style, ", ".join(family))
        for family, style in zip(families, styles, strict=True)
        if family
    )
    caption = (
        f"Perplexity against {data.plot_axis}: mean over seeds with its 95% confidence interval"
        + (", and the paper's figures. The shapes compare; the scales do not." if paper else ".")
        + _clipped_text(data.rows, limits)
    )
    title = f"Perplexity against {data.plot_axis}"
    heights = (320, 560 if paper else 300)
    return FigureView("axis", title, caption, draw, heights, palette, legend)


def curves_figure(data: ReportData, palette: Palette, styles: Sequence[Style]) -> FigureView | None:
    """Training and validation loss against training tokens, a line per row."""
    kinds: list[tuple[str, list[list[Curve]], list[Curve]]] = []
    for title, name, least in (("training loss", "train", 3), ("validation loss", "val", 2)):
        seeds, means = [], []
        for row in data.rows:
            drawn = [t for t in row.trials if len(getattr(t, name)) >= least]
            ended = [t for t in drawn if t.state == "done"]
            thinned = smooth if name == "train" else list
            seeds.append([thinned(_points(getattr(t, name))) for t in drawn])
            # A seed that is still running would cut the mean short.
            means.append(thinned(mean_curve([_points(getattr(t, name)) for t in ended or drawn])))
        if any(means):
            kinds.append((title, seeds, means))
    if not kinds:
        return None
    most = max(len(row_seeds) for _, seeds, _ in kinds for row_seeds in seeds)
    thin = most > 1 and len(data.rows) <= 6

    def draw(figure: "Figure", narrow: bool) -> None:
        shape = (len(kinds), 1) if narrow else (1, len(kinds))
        panels = figure.subplots(*shape, squeeze=False).flatten()
        for panel, (title, seeds, means) in zip(panels, kinds, strict=True):
            for row_seeds, mean, style in zip(seeds, means, styles, strict=True):
                color = palette.stand_in(style.color)
                for curve in row_seeds if thin and len(row_seeds) > 1 else ():
                    panel.plot(*zip(*curve, strict=True), color=color, lw=0.8, alpha=0.35)
                if mean:
                    dots = "o" if title == "validation loss" and len(mean) <= 12 else ""
                    xs, ys = zip(*mean, strict=True)
                    panel.plot(xs, ys, color=color, dashes=style.dashes, marker=dots, ms=3.5)
            _curve_limits(panel, [curve for curve in means if curve])
            panel.set_title(title)
            panel.set_xlabel("training tokens")
            panel.set_ylabel("nats per token")
            panel.xaxis.set_major_formatter(lambda value, _: count_text(value))
            panel.locator_params(axis="x", nbins=5)
            quiet(panel, palette, "y")

    order = sorted(
        range(len(data.rows)), key=lambda i: (data.rows[i].mean is None, -(data.rows[i].mean or 0))
    )
    legend = tuple(
        LegendEntry(
            styles[i],
            labels_text(data.rows[i].labels, data.axes),
            ppl_text(data.rows[i].mean, None, data.decimals),
        )
        for i in order
        if any(means[i] for _, _, means in kinds)
    )
    caption = (
        "Learning curves: mean over seeds"
        + (", thin lines single seeds" if thin else "")
        + ". Training loss is smoothed; the steep start lies above the plot."
        + " In the legend, the final perplexity, the worst row first."
    )
    heights = (330, 340 if len(kinds) == 1 else 580)
    return FigureView("curves", "Learning curves", caption, draw, heights, palette, legend)


def _draw_row(
    panel: "Axes", row: RowView, index: int, limits: tuple[float, float], palette: Palette
) -> None:
    from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

    accent, muted = palette.stand_in("accent"), palette.stand_in("muted")
    if row.mean is None:
        start = limits[0] + 0.03 * (limits[1] - limits[0])
        panel.text(start, index, row.note or "no result", va="center", color=muted, size=10.5)
        return
    for bound, caret in ((row.low, CARETLEFTBASE), (row.high, CARETRIGHTBASE)):
        if bound is not None:
            end = min(max(bound, limits[0]), limits[1])
            panel.plot([row.mean, end], [index, index], color=accent, lw=1.4)
            mark = "|" if end == bound else caret
            panel.plot([end], [index], marker=mark, ms=8, color=accent, clip_on=False)
    seeds = [trial.val_ppl for trial in row.trials if trial.val_ppl is not None]
    if len(seeds) > 1:
        panel.plot(seeds, [index + 0.27] * len(seeds), "o", ms=3.2, color=muted, mew=0)
    if limits[0] <= row.mean <= limits[1]:
        panel.plot([row.mean], [index], "o", ms=7.5, color=accent)
        return
    above = row.mean > limits[1]
    end, align = (limits[1], "right") if above else (limits[0], "left")
    panel.text(
        end, index - 0.12, f"{row.mean:,.4g}", ha=align, va="bottom", color=accent, size=10.5
    )


def _dots_range(data: ReportData) -> tuple[float, float]:
    """Room for all dots, and for intervals as far as they do not crush the dots. Of rows that scatter
    by far more than the others only those whose mean is not far from them."""
    own = {label for label, _ in data.spread.own} if data.spread is not None else set()
    rows = [row for row in data.rows if labels_text(row.labels, data.axes) not in own]
    low, high = _dots_ends(rows)
    reach = low - (high - low), high + (high - low)
    rows = [
        row
        for row in data.rows
        if row in rows or (row.mean is not None and reach[0] <= row.mean <= reach[1])
    ]
    low, high = _dots_ends(rows)
    room = (high - low) * 0.5 or 0.05 * high
    ends = [end for row in rows for end in (row.low, row.high) if end is not None]
    margin = 0.08 * (high - low) or 0.05 * high
    return (
        max(low - room, min([*ends, low]) - margin),
        min(high + room, max([*ends, high]) + margin),
    )


def _dots_ends(rows: Sequence[RowView]) -> tuple[float, float]:
    values = [t.val_ppl for row in rows for t in row.trials if t.val_ppl is not None]
    values += [row.mean for row in rows if row.mean is not None]
    return min(values), max(values)


def _clipped_text(rows: Sequence[RowView], limits: tuple[float, float]) -> str:
    """A sentence for the caption if an interval does not fit into the plot."""
    clipped = any(
        (row.low is not None and row.low < limits[0])
        or (row.high is not None and row.high > limits[1])
        for row in rows
    )
    return " An interval that ends in an arrowhead goes on beyond the plot." if clipped else ""


def _draw_interval(
    panel: "Axes",
    place: float,
    ends: tuple[float, float],
    limits: tuple[float, float],
    color: str,
) -> None:
    """An upright interval at ``place``, with an arrowhead where it leaves the plot."""
    from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

    inside = [min(max(end, limits[0]), limits[1]) for end in ends]
    panel.plot([place, place], inside, color=color, lw=1.2)
    for end, drawn, caret in zip(ends, inside, (CARETDOWNBASE, CARETUPBASE), strict=True):
        mark = "_" if end == drawn else caret
        panel.plot([place], [drawn], marker=mark, ms=7, color=color, clip_on=False)


def _pad(panel: "Axes", values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    margin = 0.1 * (high - low) or 0.05 * high
    panel.set_xlim(low - margin, high + margin)


def _points(points: Sequence[CurvePoint]) -> Curve:
    return [(point.tokens, point.loss) for point in points]


def _curve_limits(panel: "Axes", curves: Sequence[Curve]) -> None:
    low = min(loss for curve in curves for _, loss in curve)
    high = max(upper_limit(curve) for curve in curves)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    panel.set_ylim(low - margin, high + margin)
    panel.set_xlim(0, max(tokens for curve in curves for tokens, _ in curve) * 1.01)


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1].rstrip(" ,") + "…"
