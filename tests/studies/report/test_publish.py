"""Packed studies as pages of a repository."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssmlab.cli.app import app
from ssmlab.core.errors import StudyError
from ssmlab.studies import pack_study
from ssmlab.studies.report import publication, publish, write_report
from ssmlab.studies.report.publish import BEGIN, END
from tests.studies.report.conftest import Build, widths


@pytest.fixture
def packed(build: Build, tmp_path: Path) -> list[Path]:
    files = []
    for name, worst in (("one", 3.0), ("two", 2.9)):
        folder = build(
            {"w8": (worst, 3.02), "w16": (2.8, 2.81), "w32": (2.5, 2.52)},
            study=widths(name=name, title=f"Study {name} | <odd>"),
            name=f"runs-{name}",
        )
        files.append(tmp_path / "results" / "small" / f"{name}.jsonl.xz")
        pack_study(folder, files[-1])
    return files


def test_a_page_over_studies(packed: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "results" / "README.md"
    written = publish(packed, page)
    assert {str(path.relative_to(tmp_path / "results")) for path in written} == {
        "README.md",
        *(f"small/one{end}" for end in (".md", "-dots.svg", "-axis.svg")),
        *(f"small/two{end}" for end in (".md", "-dots.svg", "-axis.svg")),
    }  # fmt: skip
    text = page.read_text(encoding="utf-8")
    for needed in (
        "| Study one \\| &lt;odd&gt; | 3 | 2 | 1.00 | 1 | 1 | 0 |",
        "### Study two",
        "[one.md](small/one.md)",
        "![Perplexity of every row](small/two-dots.svg)",
        "![Perplexity along the axis](small/one-axis.svg)",
        "Standard deviation of one trial",
        "**holds** | Width 32 is better than width 8.",
    ):
        assert needed in text, needed
    report = write_report(packed[0], tmp_path / "out")
    assert (packed[0].parent / "one.md").read_bytes() == report["md"].read_bytes()
    assert (packed[0].parent / "one-axis.svg").read_bytes() == report["axis"].read_bytes()


def test_what_people_wrote_on_the_page_stays(packed: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# Ours\n\nProse.\n\n{BEGIN}\nformer\n{END}\n\nMore prose.\n", encoding="utf-8"
    )
    first = publication(packed, page)
    assert page.read_text(encoding="utf-8").count("former") == 1  # nothing is written yet
    publish(packed, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Ours\n\nProse.\n\n{BEGIN}\n\n| Study |")
    assert text.endswith(f"{END}\n\nMore prose.\n")
    assert "former" not in text
    assert "(results/small/one-dots.svg)" in text
    assert publication(packed, page) == first  # made again, the same


def test_what_cannot_be_published(packed: list[Path], build: Build, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Ours\n", encoding="utf-8")
    with pytest.raises(StudyError, match="does not say where the studies belong"):
        publish(packed, page)
    page.write_text(f"{END}\n{BEGIN}\n", encoding="utf-8")
    with pytest.raises(StudyError, match="in this order"):
        publish(packed, page)
    page.unlink()
    with pytest.raises(StudyError, match="no packed study"):
        publish([], page)
    with pytest.raises(StudyError, match="pack it first"):
        publish([build(name="folder")], page)
    with pytest.raises(StudyError, match="rename"):
        publish([packed[0], packed[0]], page)
    with pytest.raises(StudyError, match="rename"):
        publish(packed, packed[1].with_name("two.md"))
    packed[1].write_bytes(packed[1].read_bytes()[:-9])
    with pytest.raises(StudyError, match="cut off"):
        publish(packed, page)
    assert not page.exists()
    assert not (packed[0].parent / "one.md").exists()


def test_publish_from_the_command_line(packed: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = CliRunner().invoke(app, ["study", "publish", *map(str, packed), "--page", str(page)])
    assert done.exit_code == 0, done.output
    assert page.exists()
    assert f"Wrote {page}" in done.output.replace("\n", "")
