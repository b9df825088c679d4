"""Numbers and texts as a reader wants them, and their escaping for Markdown and LaTeX."""

import math
import re
from collections.abc import Sequence

MISSING = "–"
MINUS = "−"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "Δ": r"$\Delta$",
    "π": r"$\pi$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "μ": r"$\mu$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "∼": r"$\sim$",
    "∞": r"$\infty$",
    "→": r"$\to$",
    "½": r"$\frac{1}{2}$",
    "²": r"$^{2}$",
    "³": r"$^{3}$",
    "ₙ": r"$_{n}$",
    "…": r"\ldots{}",
    "’": "'",
    "\N{NO-BREAK SPACE}": "~",
}


def latex(text: str) -> str:
    """``text`` with nothing left that LaTeX would take as a command; usual symbols in maths."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in one_line(text))
    # Two formulas side by side would open a display: $a$$b$.
    return escaped.replace("$$", "$ $")


def markdown(text: str) -> str:
    """``text`` with nothing left that GitHub's Markdown would take as markup or as a cell's end."""
    escaped = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """``text`` without line breaks, tabs and control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]+", " ", str(text)).split(" "))


def ppl_decimals(means: Sequence[float], half_widths: Sequence[float] = ()) -> int:
    """Decimals (2 to 4) that tell perplexities apart and show the middle one of their intervals."""
    sizes = [(max(means, default=0.0) - min(means, default=0.0)) / 10]
    sizes += [half / 10 for half in sorted(half_widths)[len(half_widths) // 2 :][:1]]
    return min(4, max([2, *(math.ceil(-math.log10(size)) for size in sizes if size > 0)]))


def ppl_text(mean: float | None, half_width: float | None, decimals: int) -> str:
    """A perplexity with the half-width of its interval: "3.21 ± 0.05"."""
    if mean is None:
        return MISSING
    text = f"{mean:,.{decimals}f}"
    return text if half_width is None else f"{text} ± {half_width:,.{decimals}f}"


def signed_percent(ratio: float | None, decimals: int = 1) -> str:
    """A ratio less 1 as a percentage with a sign: 0.031 is "+3.1%"."""
    if ratio is None:
        return MISSING
    text = f"{100 * ratio:+.{decimals}f}%"
    return f"{text[1:]}" if float(text[:-1]) == 0 else text.replace("-", MINUS)


def log_percent(log_ratio: float | None) -> str:
    """The logarithm of a ratio as a percentage with a sign; huge ones as a factor."""
    if log_ratio is None:
        return MISSING
    if log_ratio > 50:
        return "more than e⁵⁰ times"
    ratio = math.expm1(log_ratio)
    if ratio >= 10:
        return f"×{ratio + 1:.3g}"
    return signed_percent(ratio, 2 if abs(ratio) < 0.01 else 1)


def p_text(p: float | None) -> str:
    """A p-value: "p = 0.03", "p < 0.001"."""
    if p is None:
        return MISSING
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def count_text(count: float | None) -> str:
    """A count with a unit: 950, 1.2K, 371.5M, 7.08B."""
    if count is None:
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * size:
            return f"{count / size:.4g}{unit}"
    return f"{count:.4g}"


def millions(count: float | None) -> str:
    """A count in millions, without the unit: 371.5, 0.206."""
    if count is None:
        return MISSING
    value = count / 1e6
    return f"{value:,.1f}" if value >= 10 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """A time: "42 s", "3 min 20 s", "2 h 05 min", "3 d 4 h"."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """A count and its noun: "1 seed", "3 seeds"."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def number(value: float | None, decimals: int) -> str:
    """A number with a fixed count of decimals, or a dash."""
    return MISSING if value is None else f"{value:,.{decimals}f}".replace("-", MINUS)


def p_number(p: float | None) -> str:
    """A p-value for a table's cell: "0.03", "< 0.001"."""
    return p_text(p).removeprefix("p ").removeprefix("= ")


def labels_text(labels: Sequence[str], axes: Sequence[str]) -> str:
    """A row's labels in one text; a bare number says of what: "constant, N 16"."""
    return ", ".join(
        label if any(letter.isalpha() for letter in label) else f"{axis} {label}"
        for axis, label in zip(axes, labels, strict=True)
    )
