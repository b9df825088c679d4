"""Packed studies as pages of a repository: a table and figures beside each, and one page over all."""

import os
from collections.abc import Sequence
from pathlib import Path

from ssmlab.core.errors import StudyError
from ssmlab.core.files import write_text
from ssmlab.studies.archive import archive_stem
from ssmlab.studies.report.build import build_report
from ssmlab.studies.report.data import VERDICTS, ReportData
from ssmlab.studies.report.render import to_markdown, to_section, to_svgs
from ssmlab.studies.report.text import MINUS, MISSING, markdown

BEGIN, END = "<!-- studies: begin -->", "<!-- studies: end -->"
# Learning curves of a table are large and say little: they stay in the report.
_FIGURES = {"dots": "Perplexity of every row", "axis": "Perplexity along the axis"}


def publication(files: Sequence[Path | str], page: Path | str) -> dict[Path, str]:
    """The text of every file that presents these packed studies; nothing is written.

    For each ``NAME.jsonl.xz`` there is ``NAME.md``, its report in brief, and its figures
    ``NAME-dots.svg`` and ``NAME-axis.svg``; and there is ``page``, in which what stands between the
    lines ``<!-- studies: begin -->`` and ``<!-- studies: end -->`` is made anew: verdicts at a
    glance, then tables, figures and claims of each study. All else in it stays. The same files give
    the same texts.

    Raises:
        StudyError: no file, one that is not a packed study, two of one name in a folder, or a page
            that is there without these two lines.
        StorageError: a file cannot be read.
    """
    files, page = [Path(file) for file in files], Path(page)
    if not files:
        raise StudyError("no packed study was given; give files that 'ssmlab study pack' wrote")
    before, after = _around(page)
    texts: dict[Path, str] = {}
    glance = [
        "| Study | Rows | Seeds | Kendall's τ | " + " | ".join(VERDICTS) + " |",
        "| :-- | --: | --: | --: |" + " --: |" * len(VERDICTS),
    ]
    sections = []
    for file in files:
        name, data = archive_stem(file), build_report(file)
        if data.archive is None:
            raise StudyError(f"{file} is a folder; pack it first: ssmlab study pack {file} FILE")
        table = file.with_name(f"{name}.md")
        if table in texts or table == page:
            raise StudyError(f"two of the files to write would be {table}; rename {file}")
        texts[table] = to_markdown(data)
        figures = to_svgs(data, _FIGURES)
        texts |= {file.with_name(f"{name}-{key}.svg"): svg for key, svg in figures.items()}
        folder = Path(os.path.relpath(file.parent, page.parent)).as_posix()
        folder = "" if folder == "." else f"{folder}/"
        glance.append(_glance(data))
        sections.append(to_section(data, folder, name, [(key, _FIGURES[key]) for key in figures]))
    parts = ["\n".join(glance), *(section.rstrip() for section in sections)]
    texts[page] = f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"
    return texts


def publish(files: Sequence[Path | str], page: Path | str) -> list[Path]:
    """Write what ``publication`` says, each file whole or not at all; those that it wrote.

    Raises:
        StudyError, StorageError: as ``publication``, before anything is written; or a file cannot
            be written.
    """
    texts = publication(files, page)
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _glance(data: ReportData) -> str:
    tau = MISSING if data.order.tau is None else f"{data.order.tau:.2f}".replace("-", MINUS)
    counts = " | ".join(str(data.verdicts[name]) for name in VERDICTS)
    return f"| {markdown(data.title)} | {len(data.rows)} | {data.n_seeds} | {tau} | {counts} |"


def _around(page: Path) -> tuple[str, str]:
    """What stands in the page before and behind the part that is made."""
    if not page.exists():
        return "", "\n"
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise StudyError(
            f"{page} does not say where the studies belong: put the lines\n{BEGIN}\n{END}\n"
            "there once, in this order; what stands between them is replaced"
        )
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
