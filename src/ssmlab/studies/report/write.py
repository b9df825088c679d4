"""Write a report's files, each whole or not at all."""

from pathlib import Path

from ssmlab.core.files import write_json, write_text
from ssmlab.studies.archive import archive_stem
from ssmlab.studies.report.build import build_report
from ssmlab.studies.report.render import to_html, to_latex, to_markdown, to_svgs


def write_report(out: Path | str, to: Path | str | None = None) -> dict[str, Path]:
    """Write the report of the study in folder (or packed file) ``out``; finished or not.

    Args:
        out: the study.
        to: the folder to write to; None for the study's own, and for a packed file ``NAME.jsonl.xz``
            the folder ``NAME-report`` beside it.

    Returns:
        ``html`` the page, ``md`` the same in brief, ``tex`` the main table, ``json`` all numbers;
        ``dots``, ``axis`` and ``curves``: the figures that there are, as SVG files.

    Raises:
        StudyError: there is no study in ``out``.
        StorageError: the folder cannot be written, or a file of it not read.
    """
    out = Path(out)
    data = build_report(out)
    folder = out if to is None else Path(to)
    if to is None and data.archive is not None:
        folder = out.with_name(f"{archive_stem(out)}-report")
    texts = {
        "html": ("report.html", to_html(data)),
        "md": ("report.md", to_markdown(data)),
        "tex": ("table.tex", to_latex(data)),
        **{key: (f"{key}.svg", svg) for key, svg in to_svgs(data).items()},
    }
    files = {}
    for kind, (name, text) in texts.items():
        write_text(folder / name, text)
        files[kind] = folder / name
    files["json"] = folder / "report.json"
    write_json(files["json"], data.to_dict())
    return files
