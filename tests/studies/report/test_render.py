"""The page, Markdown, LaTeX and JSON of hand-made and stored reports."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ssmlab.studies.report import ReportData, write_report
from ssmlab.studies.report.render import to_html, to_latex, to_markdown
from tests.studies.report import samples
from tests.studies.report.conftest import Build

VOID = {"meta", "link", "br", "img", "hr", "input", "line"}
EVIL = "<script>alert('$x$ & \"y\"')</script> | `z` \\input{a} 100% {b}_c"


class Page(HTMLParser):
    """Checks that elements nest, and keeps what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._keep(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self._keep(attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def _keep(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.links.append((name, value or ""))


@pytest.fixture(scope="module")
def table7() -> ReportData:
    return samples.report()


@pytest.fixture(scope="module")
def table7_html(table7: ReportData) -> str:
    return to_html(table7)


def test_page_is_well_formed_with_unique_ids(table7_html: str) -> None:
    page = Page(table7_html)
    assert len(page.ids) == len(set(page.ids))
    used = {value[1:] for _, value in page.links if value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", table7_html))
    assert used
    assert used <= set(page.ids)
    assert page.seen.count("figure") == 2
    assert page.seen.count("h1") == 1
    assert table7_html.count('scope="row"') >= 5
    assert table7_html.count("aria-label=") >= 4


def test_page_loads_nothing(table7_html: str) -> None:
    page = Page(table7_html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    assert all(value.startswith("#") for _, value in page.links)
    assert "@import" not in table7_html
    assert not re.search(r"url\((?!#)", table7_html)


def test_page_says_what_it_must(table7_html: str) -> None:
    text = " ".join(" ".join(Page(table7_html).text).split())
    for needed in (
        "Table 7", "Kendall's τ = 1.00", "10.93", "371.5", "does not hold", "undecided", "holds",
        "15 of 15 trials ended", "Python standard library", "ssmlab study run table7",
        "not comparable", "0123456789", "−9.2%", "95% CI −10.6% to −7.8%",
    ):  # fmt: skip
        assert needed in text, needed


def test_figures_follow_the_theme(table7_html: str) -> None:
    """No colour of a figure is fixed, and every variable has a light and a dark value."""
    figures = "".join(re.findall(r"<svg.*?</svg>", table7_html, re.DOTALL))
    assert not re.search(r"#[0-9a-fA-F]{6}\b", figures)
    for name in set(re.findall(r"var\(--([\w-]+)\)", table7_html)):
        assert table7_html.count(f"--{name}:") == 2, name


def test_the_same_data_gives_the_same_page(table7: ReportData, table7_html: str) -> None:
    assert to_html(table7) == table7_html


def test_user_text_is_escaped_everywhere() -> None:
    rows = (samples.row((EVIL,), [2.0, 2.1], versus_best=0.0, paper_ppl=8.0),)
    claim = dataclasses.replace(samples.report().claims[0], text=EVIL, reason=EVIL)
    data = samples.report(
        title=EVIL, axes=(EVIL,), rows=rows, claims=(claim,), plot_axis=EVIL, notes=(EVIL,)
    )
    html = to_html(data)
    page = Page(html)
    assert "script" not in page.seen
    assert EVIL in "".join(page.text)
    markdown = to_markdown(data)
    assert "<script" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert re.sub(r"\\.", "", table[0]).count("|") == re.sub(r"\\.", "", table[2]).count("|")
    latex = to_latex(data)
    assert "\\input{a}" not in latex
    assert re.search(r"100\\% \\\{b\\\}\\_c", latex)


def test_a_second_axis_and_a_plot() -> None:
    data = samples.grid(2)
    html = to_html(data)
    page = Page(html)
    assert page.seen.count("figure") == 3
    assert len(page.ids) == len(set(page.ids))
    assert "Perplexity against N" in html
    assert "constant, N 1" in html
    assert to_latex(data).count(" & ") == 11 * 6


def test_partial_study_marks_what_is_missing() -> None:
    data = samples.partial()
    text = " ".join(" ".join(Page(to_html(data)).text).split())
    for needed in (
        "Not finished.",
        "11 of 15 trials ended, 1 of them diverged, 1 stopped, 3 not begun",
        "loss nan at step 7 of 200",
        "3 not begun",
    ):
        assert needed in text
    assert "loss nan at step 7 of 200" in to_markdown(data)
    assert "3 not begun" in to_latex(data)


def test_one_seed_shows_no_interval() -> None:
    data = samples.report(1)
    assert "±" not in to_markdown(data).split("Held-out")[0]
    assert "95% CI" not in to_html(data)


def test_latex_braces_and_environments_balance(table7: ReportData) -> None:
    latex = to_latex(table7)
    plain = re.sub(r"\\[{}%]", "", latex)
    assert plain.count("{") == plain.count("}")
    assert latex.count("\\begin{") == latex.count("\\end{") == 2
    assert r"\textbf{2." in latex
    assert "$\\Delta$, B, C" in latex


def test_json_has_no_nan(table7: ReportData) -> None:
    broken = dataclasses.replace(table7.rows[0], mean=float("nan"), low=float("-inf"))
    data = dataclasses.replace(table7, rows=(broken, *table7.rows[1:]))
    plain = json.loads(json.dumps(data.to_dict(), allow_nan=False))
    assert plain["rows"][0]["mean"] is None
    assert plain["rows"][4]["best"] is True
    assert plain["claims"][0]["verdict"] == "holds"
    assert "train" not in plain["rows"][0]["trials"][0]


def test_write_report_from_the_store(build: Build) -> None:
    out = build({"w8": (3.0, 3.1), "w16": (2.8, "loss inf at step 3"), "w32": (2.5, None)})
    files = write_report(out)
    assert {kind: path.name for kind, path in files.items()} == {
        "html": "report.html", "md": "report.md", "tex": "table.tex", "json": "report.json",
        "dots": "dots.svg", "axis": "axis.svg", "curves": "curves.svg",
    }  # fmt: skip
    first = {kind: path.read_bytes() for kind, path in files.items()}
    Page(first["html"].decode())
    assert "Width &lt;of&gt; the model" in first["html"].decode()
    plain = json.loads(first["json"])
    assert plain["counts"]["diverged"] == 1
    assert {kind: path.read_bytes() for kind, path in write_report(out).items()} == first
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_a_figure_stands_alone(build: Build) -> None:
    """Parsed as XML, sized, in both themes, with its legend, and drawing on nothing outside."""
    out = build({"w8": (3.0, 3.1), "w16": (2.8, 2.7), "w32": (2.5, None)})
    files = write_report(out)
    for kind in ("dots", "axis", "curves"):
        text = files[kind].read_text(encoding="utf-8")
        svg = ElementTree.fromstring(text)
        assert svg.tag.endswith("svg")
        assert float(svg.attrib["width"]) == 860
        style = "".join(element.text or "" for element in svg if element.tag.endswith("style"))
        assert "prefers-color-scheme: dark" in style
        for name in set(re.findall(r"var\(--([\w-]+)\)", text)):
            assert style.count(f"--{name}:") == 2, name
        assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    legend = files["curves"].read_text(encoding="utf-8")
    assert "width 8  3.05" in legend
    assert "width 32  2.50" in legend


def test_a_row_far_off_does_not_crush_the_others(build: Build) -> None:
    out = build({"w8": (2.5, 80.0), "w16": (2.81, 2.8), "w32": (2.5, 2.51)})
    files = write_report(out)
    text = files["dots"].read_text(encoding="utf-8")
    labels = [float(x) for x in re.findall(r">(\d+\.\d+)<", text)]
    assert 14.14 in labels  # the mean of 2.5 and 80, in place of its dot
    assert sum(label < 4 for label in labels) >= 4  # the ticks are those of the others
    html = files["html"].read_text(encoding="utf-8")
    assert "the mean lies beyond the plot" in html
    assert "Scattering by far more, so with a spread of their own: width 8" in html


def test_a_row_that_scatters_near_the_others_has_its_dot(build: Build) -> None:
    out = build({"w8": (2.6, 3.5), "w16": (2.81, 2.8), "w32": (2.5, 2.51)})
    html = write_report(out)["html"].read_text(encoding="utf-8")
    assert "Scattering by far more, so with a spread of their own: width 8" in html
    assert "the mean lies beyond the plot" not in html


def test_report_of_a_study_with_nothing_done(build: Build) -> None:
    files = write_report(build({"w8": (None,), "w16": (None,), "w32": (None,)}))
    page = Page(files["html"].read_text(encoding="utf-8"))
    assert "figure" not in page.seen
    assert "0 of 3 trials ended" in " ".join(page.text)
