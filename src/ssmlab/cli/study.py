"""``ssmlab study``: list, run, watch and report the experiments."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.output import console, print_json, print_table
from ssmlab.core.errors import StudyError

app = typer.Typer(no_args_is_help=True, help="Run whole ablation studies and report on them.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MOST_WORKERS = 8  # each is a process with torch in it, some 400 MB
StudyArgument = Annotated[
    Path,
    typer.Argument(help="The study's folder, or the file it is packed in.", metavar="DIR|FILE"),
]


@app.command("list")
def list_studies(json: JsonOption = False) -> None:
    """The studies there are."""
    from ssmlab.paper import get_study, study_names

    studies = [get_study(name) for name in study_names()]
    rows = [
        {
            "name": study.name,
            "title": study.title,
            "source": study.source,
            "rows": len(study.rows()),
            "claims": len(study.claims),
            "scales": [scale.name for scale in study.scales],
        }
        for study in studies
    ]
    if json:
        print_json(rows)
        return
    print_table(
        "studies",
        ["name", "title", "rows", "claims", "scales"],
        [[r["name"], r["title"], r["rows"], r["claims"], ", ".join(r["scales"])] for r in rows],
    )
    console.print("Run one: [cyan]ssmlab study run NAME --scale quick[/cyan]")


@app.command("run")
def run(
    name: Annotated[
        str, typer.Argument(help="A study's name, or your own as path/to/file.py:NAME.")
    ],
    scale: Annotated[
        str, typer.Option(help="quick (minutes on a CPU), small (one GPU) or paper.")
    ] = "quick",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each row [default: the scale's own].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The study's folder [default: runs/NAME-SCALE]. If it exists, goes on."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Text files, folders or globs [default: Python's standard library]."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a config key of every trial."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trials side by side [default: one a GPU, else one a CPU core]."),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Another study: trials that it has finished and this one has too are "
            "taken over instead of run. Repeatable.",
        ),
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Run nothing: take over what --reuse has finished, on whatever device, and report.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a study, or go on with one that was stopped; then write its report."""
    from ssmlab.core.config import parse_assignments
    from ssmlab.paper import get_study
    from ssmlab.studies import run_study
    from ssmlab.studies.report import write_report
    from ssmlab.training.progress import StudyProgress

    study = get_study(name)
    out = out or Path("runs") / f"{study.name}-{scale}"
    overrides = parse_assignments(set_ or ())
    if data:
        if "data.paths" in overrides:
            raise StudyError("--data and --set data.paths were both given; keep one of them")
        overrides["data.paths"] = [str(Path(path).expanduser().absolute()) for path in data]
    with StudyProgress(quiet=json) as progress:
        run_study(
            study,
            out,
            scale=scale,
            seeds=seeds,
            overrides=overrides,
            workers=workers or _default_workers(str(overrides.get("training.device", "auto"))),
            reuse=reuse or (),
            collect=collect,
            on_event=progress,
        )
    _report(out, write_report(out), json)


@app.command("status")
def status(out: StudyArgument, json: JsonOption = False) -> None:
    """How far a study is: every trial, its state and its perplexity."""
    from ssmlab.studies import study_status
    from ssmlab.studies.archive import study_folder

    with study_folder(out) as folder:
        trials: list[dict[str, Any]] = study_status(folder)
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial["state"]] = counts.get(trial["state"], 0) + 1
    if json:
        print_json({"folder": str(out), "counts": counts, "trials": trials})
        return
    print_table(
        f"{out}: " + ", ".join(f"{count} {state}" for state, count in counts.items()),
        ["trial", "seed", "state", "step", "of", "perplexity"],
        [[t["row"], t["seed"], t["state"], t["step"], t["steps"], t["val_ppl"]] for t in trials],
    )


@app.command("report")
def report(
    out: StudyArgument,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to write to [default: the study's own; for a file NAME.jsonl.xz the folder "
            "NAME-report beside it].",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the report again from the results there are: a page, Markdown, LaTeX, JSON, figures."""
    from ssmlab.studies.report import write_report

    _report(out, write_report(out, to), json)


@app.command("pack")
def pack(
    folder: Annotated[Path, typer.Argument(help="The study's folder.", metavar="DIR")],
    file: Annotated[
        Path, typer.Argument(help="The file to write, named like table7.jsonl.xz.", metavar="FILE")
    ],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")] = False,
) -> None:
    """Pack all that a study's folder says into one small file, to keep or to publish.

    No weights and no checkpoints, and nothing of whose machine it was: no host name, no command
    line, and of absolute paths the last part alone.
    """
    from ssmlab.studies import pack_study

    pack_study(folder, file, force=force)
    console.print(
        f"Packed {folder} into {file} ({file.stat().st_size / 1e3:.0f} kB)", soft_wrap=True
    )


@app.command("unpack")
def unpack(
    file: Annotated[Path, typer.Argument(help="A file that 'pack' wrote.", metavar="FILE")],
    folder: Annotated[
        Path, typer.Argument(help="The study's folder, new or empty.", metavar="DIR")
    ],
) -> None:
    """Make a study's folder again out of a packed file.

    'study run' goes on in it if packing changed no setting, which it does to absolute paths such
    as those of --data; else run in a new folder with --reuse FILE.
    """
    from ssmlab.studies import unpack_study

    unpack_study(file, folder)
    console.print(f"Unpacked {file} into {folder}", soft_wrap=True)


@app.command("publish")
def publish(
    files: Annotated[
        list[Path], typer.Argument(help="Files that 'pack' wrote.", metavar="FILE...")
    ],
    page: Annotated[
        Path,
        typer.Option(
            metavar="PAGE",
            help="The Markdown page over all of them; made, or made anew between its lines "
            "'<!-- studies: begin -->' and '<!-- studies: end -->'.",
        ),
    ],
) -> None:
    """Write tables, figures and verdicts of packed studies as Markdown pages of a repository.

    Beside each NAME.jsonl.xz: NAME.md and figures NAME-....svg; and the page over all.
    """
    from ssmlab.studies.report import publish

    for path in publish(files, page):
        console.print(f"Wrote {path}", soft_wrap=True)


def _default_workers(device: str) -> int:
    """One a GPU, or a CPU core, within reason: small models do not keep several cores busy."""
    from ssmlab.training.device import select_device

    place = select_device(device)
    if place.type == "cuda" and place.index is None:
        import torch

        return torch.cuda.device_count()
    if place.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, _MOST_WORKERS)


def _report(out: Path, files: dict[str, Path], json: bool) -> None:
    from ssmlab.studies.report import build_report

    data = build_report(out)
    if json:
        print_json({**data.to_dict(), "files": {kind: str(path) for kind, path in files.items()}})
        return
    columns, rows = data.table()
    print_table(data.title, columns, rows)
    for claim in data.claims:
        console.print(f"  [bold]{claim.verdict}[/bold]: {claim.text}", soft_wrap=True)
    console.print()
    console.print(f"Open the report: {files['html'].absolute().as_uri()}", soft_wrap=True)
    others = ", ".join(str(path) for kind, path in files.items() if kind != "html")
    console.print(f"Beside it: {others}", soft_wrap=True)
