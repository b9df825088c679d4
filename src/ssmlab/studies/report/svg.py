"""Matplotlib figures as SVG that can stand inside a page: own ids, page fonts, theme colours."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssmlab.studies.report.theme import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Figure"], None]

_FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"


def render(draw: Draw, size: tuple[float, float], key: str, title: str, palette: Palette) -> str:
    """Call ``draw`` on an empty figure of ``size`` (CSS pixels) and return it as one <svg> element.

    The same drawing gives the same text. ``key`` makes the ids of the SVG unique in a page;
    ``title`` is read out in place of the picture.
    """
    with _settings(key, palette):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        # SVG has 72 units an inch: sizes, fonts and lines are then all in CSS pixels.
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.set(wspace=0.05, hspace=0.06)  # type: ignore[call-arg]
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _embed(buffer.getvalue(), key, title, palette)


def stand_alone(svg: str, palette: Palette) -> str:
    """An element that ``render`` made as a file: with the theme's colours, a ground and a font."""
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert box is not None, "render keeps the viewBox"
    width, height = box.groups()
    style = (
        f"svg {{ {palette.css(0)} font-family: {_FONTS}; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {palette.css(1)} }} }}"
    )
    ground = f'<rect width="{width}" height="{height}" fill="var(--paper)"/>'
    return f'{head} width="{width}" height="{height}"><style>{style}</style>{ground}{body}\n'


def quiet(axes: "Axes", palette: Palette, grid: str) -> None:
    """The look of all figures: no box, faint grid lines across axis ``grid`` ("x" or "y")."""
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(True, axis="x" if grid == "x" else "y", color=palette.stand_in("grid"), linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


@contextmanager
def _settings(key: str, palette: Palette) -> Iterator[None]:
    import matplotlib

    ink, muted, line = (palette.stand_in(name) for name in ("ink", "muted", "line"))
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "font.family": "DejaVu Sans",
        "font.size": 11.5,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelsize": 11.5,
        "axes.labelcolor": muted,
        "axes.titlecolor": ink,
        "axes.edgecolor": line,
        "text.color": ink,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "lines.linewidth": 1.8,
        "axes.linewidth": 1,
    }
    # A figure is drawn from the library's own defaults, whatever the user's matplotlibrc says.
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A label may hold letters that the font used for measuring lacks; the browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def _embed(text: str, key: str, title: str, palette: Palette) -> str:
    """From a whole SVG file to an element: no prologue, no metadata, ids and colours of the page."""
    from html import escape

    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{key}-", svg)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib writes a viewBox"
    # Width and height are the page's to say; the box keeps the shape.
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box[0]} role="img" aria-label="{escape(title, quote=True)}"'
    )
    # The white page of the figure and the global style are not wanted inside another page.
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"]*", _font, body)
    return palette.to_variables(f"{head}>{body}").strip()


def _font(found: re.Match[str]) -> str:
    weight = f" font-weight: {found[1]};" if found[1] else ""
    return f"font-size: {found[2]}px;{weight}".rstrip(";")
