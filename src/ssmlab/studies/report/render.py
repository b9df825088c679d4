"""ReportData as an HTML page, as Markdown and as a LaTeX table."""

from collections.abc import Collection, Sequence
from typing import Any

from ssmlab.studies.report import text
from ssmlab.studies.report.data import STATE_WORDS, VERDICTS, ReportData
from ssmlab.studies.report.figures import make_figures
from ssmlab.studies.report.theme import Palette

FIGURES = ("dots", "axis", "curves")
"""The keys of the figures that a report may have."""

_TALLY = {"holds": ("holds", "hold"), "does not": ("does not hold", "do not hold")}


def to_html(data: ReportData) -> str:
    """One page that loads nothing from elsewhere; the same data gives the same text."""
    from markupsafe import Markup

    palette = Palette()
    figures = [
        {
            "key": figure.key,
            "title": figure.title,
            "caption": figure.caption,
            # Ours, with the labels in it escaped by matplotlib.
            "wide": Markup(figure.element(narrow=False)),
            "narrow": Markup(figure.element(narrow=True)),
            "legend": figure.legend,
        }
        for figure in make_figures(data, palette)
    ]
    css = f":root {{ color-scheme: light dark; {palette.css(0)} }}\n"
    css += f"@media (prefers-color-scheme: dark) {{ :root {{ {palette.css(1)} }} }}\n"
    css += _source("report.css")
    page = _template("report.html.j2", html=True)
    return page.render(**_context(data), figures=figures, css=Markup(css))


def to_markdown(data: ReportData) -> str:
    """The same content in brief, as GitHub's Markdown."""
    return _template("report.md.j2").render(**_context(data), md=text.markdown)


def to_section(data: ReportData, folder: str, name: str, figures: Sequence[tuple[str, str]]) -> str:
    """The main table and the claims as a section of a larger page.

    ``folder`` is where the study's files NAME.md and NAME-KEY.svg lie, seen from the page;
    ``figures`` are the keys and titles of those to show.
    """
    template = _template("section.md.j2")
    where = {"folder": folder, "name": name, "figures": figures}
    return template.render(**_context(data), **where, md=text.markdown)


def to_svgs(data: ReportData, keys: Collection[str] = FIGURES) -> dict[str, str]:
    """The figures as SVG files, by their keys: those of ``keys`` that exist."""
    return {f.key: f.file() for f in make_figures(data, Palette()) if f.key in keys}


def to_latex(data: ReportData) -> str:
    """The main table for a paper; needs the package booktabs."""
    return _template("table.tex.j2").render(**_context(data), tex=text.latex)


def _context(data: ReportData) -> dict[str, Any]:
    paper = [row.paper_ppl for row in data.rows if row.paper_ppl is not None]
    return {
        "data": data,
        "text": text,
        "verdicts": [(name, data.verdicts[name]) for name in VERDICTS],
        "ppl": lambda row: text.ppl_text(row.mean, row.half_width, data.decimals),
        "has_paper": bool(paper),
        "has_paper_params": any(row.paper_params_m is not None for row in data.rows),
        "paper_best": min(paper, default=None),
        "words": STATE_WORDS,
        "tally": lambda name, count: _TALLY.get(name, (name, name))[count > 1],
        "progress": progress_text(data),
        "agreement": agreement_text(data),
        "spread": spread_text(data),
    }


def progress_text(data: ReportData) -> str:
    """How much of the study is done: "12 of 15 trials ended, 3 not begun"."""
    counts = data.counts
    ended = counts["done"] + counts["diverged"]
    parts = [f"{ended} of {text.plural(counts['total'], 'trial')} ended"]
    if counts["diverged"]:
        parts.append(f"{counts['diverged']} of them diverged")
    others = [state for state in STATE_WORDS if state not in ("done", "diverged")]
    parts += [f"{counts[state]} {STATE_WORDS[state]}" for state in others if counts[state]]
    return ", ".join(parts)


def agreement_text(data: ReportData) -> str:
    """How well the order of our rows agrees with the paper's, in a sentence or two."""
    order = data.order
    if order.tau is None:
        return order.note or "No order to compare with the paper's."
    tau = f"{order.tau:.2f}".replace("-", text.MINUS)
    said = f"Kendall's τ = {tau} over {text.plural(order.n, 'row')}"
    said += f" ({text.p_text(order.p)})." if order.p is not None else "."
    if data.spread is not None:
        said += (
            f" Of {text.plural(order.pairs, 'pair')} of rows seeds tell {order.told_apart} apart, "
            f"{order.as_in_paper} of them in the paper's order."
        )
    for what, ours, paper in (
        ("best", order.best_ours, order.best_paper),
        ("worst", order.worst_ours, order.worst_paper),
    ):
        if ours is not None and paper is not None:
            same = f" The {what} row is the paper's: {ours}."
            said += same if ours == paper else f" Our {what} row: {ours}; the paper's: {paper}."
    return said + (f" {order.note}" if order.note else "")


def spread_text(data: ReportData) -> str:
    """How big a difference is noise, in two or three sentences; empty without a spread."""
    if (spread := data.spread) is None:
        return ""
    rows, df = text.plural(spread.rows, "row"), text.plural(spread.df, "degree")
    said = (
        f"Standard deviation of one trial: {_noise(spread.deviation)} of the perplexity, pooled over "
        f"{rows} ({df} of freedom). The interval of the difference of two rows of {spread.seeds} "
        f"seeds leaves out 0 from {_noise(spread.least_difference)} on."
    )
    if spread.own:
        rows = "; ".join(f"{label} ({_noise(size)})" for label, size in spread.own)
        said += f" Scattering by far more, so with a spread of their own: {rows}."
    if spread.by_row:
        rows = "; ".join(f"{label} {_noise(size)}" for label, size in spread.by_row)
        said += f" Row by row: {rows}."
    return said


def _noise(nats: float) -> str:
    return text.log_percent(nats).removeprefix("+")


def _template(name: str, html: bool = False) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ssmlab.studies.report", ""),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # LaTeX is full of braces and percent signs; one set of marks serves all three templates.
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    return environment.get_template(name)


def _source(name: str) -> str:
    from importlib.resources import files

    return (files("ssmlab.studies.report") / name).read_text(encoding="utf-8")
