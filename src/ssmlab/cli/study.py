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
OutArgument = Annotated[Path, typer.Argument(help="The study's folder.", metavar="DIR")]


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
        typer.Option(min=1, help="Trials side by side [default: a CPU core each; 1 on a GPU]."),
    ] = None,
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
            on_event=progress,
        )
    _report(out, write_report(out), json)


@app.command("status")
def status(out: OutArgument, json: JsonOption = False) -> None:
    """How far a study is: every trial, its state and its perplexity."""
    from ssmlab.studies import study_status

    trials: list[dict[str, Any]] = study_status(out)
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
def report(out: OutArgument, json: JsonOption = False) -> None:
    """Write report.html, report.md and table.tex again from the results there are."""
    from ssmlab.studies.report import write_report

    _report(out, write_report(out), json)


def _default_workers(device: str) -> int:
    """On a CPU as many as there are cores, within reason: small models do not keep several busy."""
    from ssmlab.training.device import select_device

    if select_device(device).type != "cpu":
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
