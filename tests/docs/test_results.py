"""The published results: every table is rebuilt from the repository alone and is the one there."""

import re
from pathlib import Path

import pytest

from ssmlab.core.errors import StudyError
from ssmlab.studies import pack_study
from ssmlab.studies.archive import archive_stem
from ssmlab.studies.report import build_report, publication, publish
from ssmlab.studies.report.publish import BEGIN
from ssmlab.studies.report.render import to_markdown
from tests.studies.report.conftest import build  # noqa: F401

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def differing(results: Path) -> list[str]:
    """Texts under ``results`` that are not what its packed studies give.

    Each page says which of them it shows; one that none shows has its own table.
    """
    made: dict[Path, str] = {}
    published: set[Path] = set()
    for page in results.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if BEGIN not in text:
            continue
        shown = re.findall(r"\]\(([\w/-]+)\.md\)\.\n", text[text.index(BEGIN) :])
        files = [results / f"{name}.jsonl.xz" for name in shown]
        published.update(files)
        made |= {
            path: text
            for path, text in (publication(files, page) if files else {}).items()
            if path.suffix == ".md" or not path.exists()  # figures differ by the version that draws
        }
    for file in sorted(set(results.rglob("*.jsonl.xz")) - published):
        made[file.with_name(f"{archive_stem(file)}.md")] = to_markdown(build_report(file))
    return sorted(
        str(path.relative_to(results))
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    )


def test_every_published_table_is_what_its_packed_study_gives() -> None:
    assert differing(RESULTS) == [], (
        "write it again: ssmlab study publish docs/results/SCALE/NAME.jsonl.xz ... --page "
        "docs/results/PAGE.md"
    )


def test_a_table_that_was_altered_is_found(build, tmp_path: Path) -> None:  # noqa: F811
    results = tmp_path / "results"
    files = [results / f"{name}.jsonl.xz" for name in ("one", "deeper/two", "apart", "more/three")]
    for file in files:
        pack_study(build(name=file.name), file)
    publish(files[:2], results / "README.md")
    publish(files[3:], results / "more.md")
    assert differing(results) == ["apart.md"]
    apart = results / "apart.md"
    apart.write_text(to_markdown(build_report(files[2])), encoding="utf-8")
    assert differing(results) == []

    for path in ("deeper/two.md", "README.md", "apart.md", "more.md"):
        table = results / path
        text = table.read_text(encoding="utf-8")
        assert "2.510" in text
        table.write_text(text.replace("2.510", "2.509"), encoding="utf-8")
    assert differing(results) == ["README.md", "apart.md", "deeper/two.md", "more.md"]
    (results / "one.md").unlink()
    (results / "one-dots.svg").unlink()
    assert len(differing(results)) == 6

    file = files[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StudyError, match="cut off"):
        differing(results)
