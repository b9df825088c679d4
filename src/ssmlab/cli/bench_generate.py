"""``ssmlab bench generate``: decoding and prefill beside their floors."""

from typing import Annotated, Any

import typer

from ssmlab.cli.output import console, print_json, print_table
from ssmlab.core.errors import ConfigError


def generate(
    shape: Annotated[
        str, typer.Option(help="130m, 370m, 790m, 1.4b, 2.8b or tiny; random weights.")
    ] = "130m",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint, instead of a shape.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Rows decoded at once; repeat [1 to 128].")
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prefill.")] = 1024,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs; the median counts.")] = 15,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="Measure transformers beside it, if installed.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens per second of decoding at each batch size, and the prefill of a prompt."""
    import torch

    from ssmlab.bench.generate import bench_decode, bench_prefill, random_model, their_model
    from ssmlab.cli.models import load_model
    from ssmlab.training.device import select_device

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in types:
        raise ConfigError(f"--dtype is {dtype!r}, expected one of {', '.join(types)}")
    if model is not None:
        loaded = load_model(model, device, dtype)
    else:
        loaded = random_model(shape, select_device(device), types[dtype])
    other = their_model(loaded) if transformers else None
    sizes = batch or [1, 2, 4, 8, 16, 32, 64, 128]
    decode = bench_decode(loaded, sizes, repeats, other)
    prefill = bench_prefill(loaded, prompt, max(3, repeats // 3), other)
    report: dict[str, Any] = {
        "model": model or shape,
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "device": str(loaded.embedding.weight.device),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "decode": decode,
        "prefill": prefill,
    }
    if json:
        print_json(report)
        return
    for title, rows in (("decoding", decode), ("prefill", [prefill])):
        columns = list(rows[0])
        print_table(
            f"{title}, {report['model']} {dtype} on {report['device']}",
            columns,
            [[row[c] for c in columns] for row in rows],
        )
    console.print(
        "Medians in one process, the things compared by turns. 'weights read' is the floor of a "
        "step, 'products' that of a prefill; 'eager' is a step without a CUDA graph."
    )
