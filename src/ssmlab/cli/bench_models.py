"""``ssmlab bench train`` and ``ssmlab bench memory``: whole training steps of language models."""

import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.blocks.mamba_config import Recompute
from ssmlab.cli.output import console, print_json, print_table
from ssmlab.core.errors import ConfigError
from ssmlab.core.files import write_json

_Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:N.")]
_Precision = Annotated[str, typer.Option(help="auto (bf16 on CUDA), fp32 or bf16.")]
_Length = Annotated[int, typer.Option(help="Tokens a sequence.", min=1)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Out = Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")]
_Plot = Annotated[Path | None, typer.Option(help="Write a figure to this PNG file.")]
_Levels = Annotated[
    list[str] | None,
    typer.Option("--recompute", help="none, inputs, scan or auto; repeat for several."),
]


def train(
    device: _Device = "cpu",
    model: Annotated[
        list[str] | None, typer.Option(help="tiny, 130m, 370m, 790m, 1.4b or 2.8b; repeatable.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Sequences a step; 0 for the most that fit the limit.", min=0)
    ] = 0,
    seq_len: _Length = 2048,
    recompute: _Levels = None,
    repeats: Annotated[int, typer.Option(help="Timed steps; the median counts.", min=1)] = 10,
    precision: _Precision = "auto",
    memory_limit: Annotated[float, typer.Option(help="GB that the batch may fill.", min=0)] = 40.0,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the loss.")] = False,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph", help="Replay the step as a CUDA graph, as training does."),
    ] = False,
    json: _Json = False,
    out: _Out = None,
    plot: _Plot = None,
) -> None:
    """Training steps: tokens per second, MFU, memory, and the share of the time by kernel."""
    from ssmlab.bench.plots import plot_train
    from ssmlab.bench.train import run

    rows = run(
        device=device,
        models=model or (["tiny"] if device == "cpu" else ["130m", "370m"]),
        batch_size=batch_size,
        seq_len=seq_len,
        recompute=_levels(recompute),
        repeats=repeats,
        precision=precision,
        memory_limit_gb=memory_limit,
        compiled=compiled,
        cuda_graph=cuda_graph,
    )
    if out is not None:
        write_json(out, rows)
    if plot is not None:
        plot_train(rows, plot)
    if json:
        print_json(rows)
        return
    left_out = ("shares", "device", "seq_len", "parameters", "compiled", "cuda_graph")
    columns = [name for name in rows[0] if name not in left_out]
    print_table(
        f"training step, {rows[0]['device']}, length {seq_len}",
        columns,
        [[row[c] for c in columns] for row in rows],
    )
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["shares"]))
    print_table(
        "share of device time",
        ["kernels", *(f"{row['model']} {row['recompute']}" for row in rows)],
        [[kind, *(row["shares"].get(kind, 0.0) for row in rows)] for kind in kinds],
    )
    console.print(
        "Medians in one process. MFU counts matrix products alone (6 FLOPs a weight and token), over "
        "the rate of a large matrix product measured in the same process."
    )


def memory(
    device: _Device = "cpu",
    model: Annotated[str | None, typer.Option(help="tiny, 130m, 370m, ...")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Repeat for several.", min=1)] = None,
    seq_len: _Length = 2048,
    recompute: _Levels = None,
    precision: _Precision = "auto",
    json: _Json = False,
    out: _Out = None,
    plot: _Plot = None,
) -> None:
    """Memory of a training step over batch sizes, laid out as Table 15 of the Mamba paper."""
    from ssmlab.bench.memory import run
    from ssmlab.bench.plots import plot_memory

    rows = run(
        device=device,
        model=model or ("tiny" if device == "cpu" else "130m"),
        batch_sizes=batch_size or ([1, 2, 4] if device == "cpu" else None),
        seq_len=seq_len,
        recompute=_levels(recompute),
        precision=precision,
    )
    if out is not None:
        write_json(out, rows)
    if plot is not None:
        plot_memory(rows, plot)
    if json:
        print_json(rows)
        return
    columns = [name for name in rows[0] if name not in ("model", "seq_len", "device")]
    print_table(
        f"memory of training {rows[0]['model']}, {rows[0]['device']}, length {seq_len}",
        columns,
        [[row[c] for c in columns] for row in rows],
    )
    console.print(
        "peak: most that torch holds in a step (not counted on a CPU). kept: what autograd keeps for "
        "the backward pass. The paper's columns: Table 15, one A100 80GB."
    )


def _levels(given: list[str] | None) -> Any:
    """The ways to recompute asked for.

    Raises:
        ConfigError: one that does not exist.
    """
    valid = typing.get_args(Recompute)
    for level in given or []:
        if level not in valid:
            raise ConfigError(f"--recompute {level}: expected one of {', '.join(valid)}")
    return given
