"""``ssmlab bench``: measurements, each beside a reference or a floor taken in the same process."""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.bench_mixers import mixers
from ssmlab.cli.output import console, errors, print_json, print_table
from ssmlab.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory on this machine.")

app.command("mixers")(mixers)

_BUSY = 0.5  # load per core beyond which other work disturbs the times


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine."""


@app.command("scan")
def scan(
    device: Annotated[str, typer.Option(help="Where to run: cpu.")] = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several [default: 4,1024,512,16].", metavar="B,L,D,N"),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="fp32, bf16, fp16 or fp64; repeat for several [default: fp32]."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of timed calls.", min=1)] = 5,
    threads: Annotated[
        int | None, typer.Option(help="Threads [default: torch's own choice].", min=1)
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measure memory too, each figure in a process of its own.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Selective scan, forward and backward: our backends against a loop of torch operations."""
    from ssmlab.bench.scan import check_request, run
    from ssmlab.core.files import check_writable, write_json

    shapes = [_shape(text) for text in shape or ["4,1024,512,16"]]
    dtypes = dtype or ["fp32"]
    check_request(device, shapes, dtypes, repeats, threads)
    if out is not None:
        if out.is_dir():
            raise ConfigError(f"--out {out} is a folder; expected the name of a file")
        check_writable(out.parent)
    with errors.status("starting") as status:
        report = run(
            device=device,
            shapes=shapes,
            dtypes=dtypes,
            repeats=repeats,
            threads=threads,
            measure_memory=memory,
            on_progress=status.update,
        )
    if out is not None:
        write_json(out, report)
    if json:
        print_json(report)
    else:
        _print_scan(report)
        if out is not None:
            console.print(f"JSON: {out}", soft_wrap=True)


def _print_scan(report: dict[str, Any]) -> None:
    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in ("batch", "length", "channels", "states", "dtype"))

    left_out = {f"{name}: {why}" for name, why in report["backends_left_out"].items()}
    for (b, length, d, n, dtype), group in groupby(report["rows"], key=place):
        rows = list(group)
        inputs, output = rows[0]["inputs_bytes"] / 1e6, rows[0]["output_bytes"] / 1e6
        print_table(
            f"selective scan, B={b} L={length} D={d} N={n} {dtype}, {report['threads']} threads, "
            f"inputs {inputs:.1f} MB, output {output:.1f} MB",
            ["backend", "pass", "ms", "quartiles", "× loop", "extra MB", "of in+out", "error"],
            [_cells(row) for row in rows],
        )
        left_out |= {f"{r['backend']}, {r['run']}: {why}" for r in rows for why in r["left_out"]}
    for line in sorted(left_out):
        console.print(f"Left out: {line}", markup=False)
    for key, heading in _HEADINGS.items():
        console.print(f"{heading}: {report['methods'][key]}", markup=False)
    load, cores = report["load_average_before"], report["environment"]["cores"]
    if load is not None and load > _BUSY * cores:
        console.print(
            f"[yellow]Other work was running[/yellow] (load {load:.1f} on {cores} cores): the "
            "times are not to be relied on."
        )


_PASS = {
    "forward": "fwd",
    "forward for training": "fwd, kept",
    "forward + backward": "fwd+bwd",
}
_HEADINGS = {
    "passes": "pass",
    "time": "ms",
    "times_loop": "× loop",
    "memory": "extra MB",
    "memory_ratio": "of in+out",
    "error": "error",
}


def _cells(row: dict[str, Any]) -> list[Any]:
    quartiles = None
    if row["median_ms"] is not None:
        quartiles = f"{row['low_ms']:.3g}–{row['high_ms']:.3g}"
    error = None
    if row["error"] is not None:
        error = f"{row['error']:.0e} {row['error_of'].replace('gradient of ', 'd')}"
    extra = None if row["extra_bytes"] is None else row["extra_bytes"] / 1e6
    return [
        row["backend"],
        _PASS[row["run"]],
        row["median_ms"],
        quartiles,
        row["times_loop"],
        extra,
        row["memory_ratio"],
        error,
    ]


def _shape(text: str) -> tuple[int, int, int, int]:
    try:
        batch, length, channels, states = (int(part) for part in text.split(","))
        if min(batch, length, channels, states) < 1:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"cannot read the shape '{text}': expected four whole numbers from 1 up, "
            "B,L,D,N, for example 4,1024,512,16"
        ) from None
    return batch, length, channels, states
