"""Write a report's files, each whole or not at all."""

from pathlib import Path

from ssmlab.core.files import write_json, write_text
from ssmlab.studies.report.build import build_report
from ssmlab.studies.report.render import to_html, to_latex, to_markdown


def write_report(out: Path | str) -> dict[str, Path]:
    """Write the report of the study in folder ``out`` beside its trials; finished or not.

    Returns:
        ``html`` the page, ``md`` the same in brief, ``tex`` the main table, ``json`` all figures.

    Raises:
        StudyError: there is no study in ``out``.
        StorageError: the folder cannot be written, or a file of it not read.
    """
    out = Path(out)
    data = build_report(out)
    texts = {
        "html": ("report.html", to_html(data)),
        "md": ("report.md", to_markdown(data)),
        "tex": ("table.tex", to_latex(data)),
    }
    files = {}
    for kind, (name, text) in texts.items():
        write_text(out / name, text)
        files[kind] = out / name
    files["json"] = out / "report.json"
    write_json(files["json"], data.to_dict())
    return files
