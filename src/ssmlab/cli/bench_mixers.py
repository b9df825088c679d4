"""``ssmlab bench mixers``: every mixer over growing lengths."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.output import console, print_json, print_table


def mixers(
    mixer: Annotated[
        list[str] | None, typer.Option(help="Which; repeat for several [default: all].")
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(help="L; repeat for several [default: 256, 1024, 4096, 16384]."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    channels: Annotated[int, typer.Option(help="D.", min=1)] = 128,
    tokens: Annotated[int, typer.Option(help="B times L, the same for every L.", min=1)] = 16384,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16 by autocast.")] = "fp32",
    repeats: Annotated[int, typer.Option(help="Rounds of timed calls.", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Write JSON there too.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a picture there, for example mixers.svg.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every mixer, forward and backward: tokens per second and peak memory over the length."""
    import torch

    from ssmlab.bench import mixers as bench
    from ssmlab.core.errors import ConfigError
    from ssmlab.core.files import check_writable, write_json

    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"--plot {plot}: expected a name that ends in .svg, .png or .pdf")
    for path in (out, plot):  # before the work
        if path is not None:
            check_writable(path.absolute().parent)
    rows = bench.run(
        device=device,
        mixers=mixer or (),
        lengths=length or bench.LENGTHS,
        channels=channels,
        tokens=tokens,
        dtype=dtype,
        repeats=repeats,
    )
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    result = {
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "channels": channels,
        "tokens": tokens,
        "reference": f"one {channels} x {channels} matrix product",
        "rows": rows,
    }
    if out is not None:
        write_json(out, result)
    if plot is not None:
        bench.plot(rows, plot)
    if json:
        print_json(result)
        return
    columns = {
        "L": "L",
        "mixer": "mixer",
        "forward_ms": "forward ms",
        "both_ms": "both ms",
        "tokens_per_second": "tokens/s",
        "times_reference": "x linear",
        "peak_mb": "peak MB",
    }
    print_table(
        f"mixers on {name}, {dtype}, {channels} channels, {tokens} tokens",
        list(columns.values()),
        [[round(row[c]) if c == "tokens_per_second" else row[c] for c in columns] for row in rows],
    )
    console.print(
        "Medians in one process, forward and backward unless said; 'x linear' is the time over "
        f"that of one {channels} x {channels} matrix product on the same tokens; memory is beyond "
        "inputs and parameters, outputs and gradients included."
    )
    for path in (out, plot):
        if path is not None:
            console.print(f"Written: {path}", soft_wrap=True)
