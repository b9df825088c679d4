"""``ssmlab bench``: measurements, each beside a reference or a floor taken in the same process."""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli import bench_models
from ssmlab.cli.bench_mixers import mixers
from ssmlab.cli.output import console, errors, print_json, print_table
from ssmlab.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory on this machine.")
app.command("train")(bench_models.train)
app.command("memory")(bench_models.memory)

app.command("mixers")(mixers)

_BUSY = 0.5  # load per core beyond which other work disturbs the times


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine."""


@app.command("scan")
def scan(
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several [default: 4,1024,512,16].", metavar="B,L,D,N"),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, bf16, fp16 or, on the CPU, fp64; repeat for several "
            "[default: fp32; cuda: bf16]."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of timed calls.", min=1)] = 5,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads [default: torch's own choice].", min=1)
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="On the CPU: measure memory too, each in a process of its own.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    plot: Annotated[
        str | None, typer.Option(help="With --device cuda: also draw bars into this file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Selective scan, forward and backward, against a loop of torch operations or GPU floors."""
    from ssmlab.core.files import check_writable, write_json

    if out is not None:
        if out.is_dir():
            raise ConfigError(f"--out {out} is a folder; expected the name of a file")
        check_writable(out.parent)
    shapes = [_shape(text) for text in shape or ()]
    report: Any
    if device == "cuda":
        report = _scan_cuda(shapes, dtype or ["bf16"], repeats, plot)
    else:
        if plot is not None:
            raise ConfigError("--plot needs --device cuda; leave it out, or use --json")
        report = _scan_cpu(device, shapes, dtype or ["fp32"], repeats, threads, memory)
    if out is not None:
        write_json(out, report)
    if json:
        print_json(report)
        return
    if device == "cuda":
        _print_scan_cuda(report)
    else:
        _print_scan(report)
    if out is not None:
        console.print(f"JSON: {out}", soft_wrap=True)


def _scan_cpu(
    device: str,
    shapes: list[tuple[int, int, int, int]],
    dtypes: list[str],
    repeats: int,
    threads: int | None,
    memory: bool,
) -> dict[str, Any]:
    from ssmlab.bench.scan import check_request, run

    shapes = shapes or [(4, 1024, 512, 16)]
    check_request(device, shapes, dtypes, repeats, threads)
    with errors.status("starting") as status:
        return run(
            device=device,
            shapes=shapes,
            dtypes=dtypes,
            repeats=repeats,
            threads=threads,
            measure_memory=memory,
            on_progress=status.update,
        )


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
            ["backend", "pass", "ms", "× loop", "× publ.", "+ MB", "of in+out", "error"],
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
    "forward for training": "kept fwd",
    "forward + backward": "fwd+bwd",
}
_HEADINGS = {
    "passes": "pass",
    "time": "ms",
    "times_loop": "× loop",
    "times_published": "× publ.",
    "memory": "+ MB",
    "memory_ratio": "of in+out",
    "error": "error",
}


def _cells(row: dict[str, Any]) -> list[Any]:
    error = None
    if row["error"] is not None:
        error = f"{row['error']:.0e}"
    extra = None if row["extra_bytes"] is None else row["extra_bytes"] / 1e6
    return [
        row["backend"],
        _PASS[row["run"]],
        row["median_ms"],
        row["times_loop"],
        row["times_published"],
        extra,
        row["memory_ratio"],
        error,
    ]


def _scan_cuda(
    shapes: list[tuple[int, int, int, int]], dtypes: list[str], repeats: int, plot: str | None
) -> list[dict[str, Any]]:
    from ssmlab.bench import scan_cuda

    if len(dtypes) > 1:
        raise ConfigError(f"--device cuda takes one --dtype at a time, given {', '.join(dtypes)}")
    rows = scan_cuda.run(shapes or list(scan_cuda.SHAPES), dtypes[0], repeats)
    if plot is not None:
        scan_cuda.plot(rows, plot)
    return rows


def _print_scan_cuda(rows: list[dict[str, Any]]) -> None:
    from ssmlab.bench.scan_cuda import PASSES

    for name, title in PASSES.items():
        keys = [key for key in rows[0] if key.startswith(f"{name} ")]
        print_table(
            f"selective scan, {title}",
            ["shape", *(key.removeprefix(f"{name} ") for key in keys)],
            [[row[key] for key in ("shape", *keys)] for row in rows],
        )
    first = rows[0]
    console.print(
        f"{first['device']}, {first['dtype']}. Medians in one process. Floors in ms, from this "
        f"device's own rates: {first['copy TB/s']:.2f} TB/s copied, {first['exp T/s']:.2f} T "
        "exponentials/s."
    )


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
