"""``ssmlab bench``: measurements, each beside a reference or a floor taken in the same process."""

from typing import Annotated

import typer

from ssmlab.cli import bench_models
from ssmlab.cli.bench_mixers import mixers
from ssmlab.cli.output import console, print_json, print_table
from ssmlab.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory on this machine.")
app.command("train")(bench_models.train)
app.command("memory")(bench_models.memory)

app.command("mixers")(mixers)


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine."""


@app.command("scan")
def scan(
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(help="B,L,D,N; repeat for several.", metavar="B,L,D,N"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16, fp16 or (on the CPU) fp64.", show_default="fp32; cuda: bf16"
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(help="With --device cuda: also draw bars into this file.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median counts.", min=1)] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Selective scan, forward and backward, against a loop of torch operations or GPU floors."""
    if device == "cuda":
        _scan_cuda(shape, dtype or "bf16", repeats, json, plot)
        return
    if plot is not None:
        raise ConfigError("--plot needs --device cuda; leave it out, or use --json")
    from ssmlab.bench.scan import run

    shapes = [_shape(text) for text in shape or ["4,1024,512,16"]]
    rows = run(device=device, shapes=shapes, dtype=dtype or "fp32", repeats=repeats)
    if json:
        print_json(rows)
        return
    if rows:
        columns = list(rows[0])
        print_table("selective scan", columns, [[row[c] for c in columns] for row in rows])
        console.print("Medians in one process; ratios are to the loop of torch operations.")


def _scan_cuda(
    shape: list[str] | None, dtype: str, repeats: int, json: bool, plot: str | None
) -> None:
    from ssmlab.bench import scan_cuda

    shapes = [_shape(text) for text in shape] if shape else list(scan_cuda.SHAPES)
    rows = scan_cuda.run(shapes, dtype, repeats)
    if plot is not None:
        scan_cuda.plot(rows, plot)
    if json:
        print_json(rows)
        return
    for name in ("forward", "backward"):
        columns = ["shape", *(key for key in rows[0] if key.startswith(name))]
        print_table(f"selective scan, {name}", columns, [[row[c] for c in columns] for row in rows])
    first = rows[0]
    console.print(
        f"{first['device']}, {dtype}. Medians in one process. Floors in ms, from this device's own "
        f"rates: {first['copy TB/s']:.2f} TB/s copied, {first['exp T/s']:.2f} T exponentials/s."
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
