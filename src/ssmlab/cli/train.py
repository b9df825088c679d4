"""``ssmlab train``: one training run, from scratch or from a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.models import trial_default
from ssmlab.cli.output import console, print_json
from ssmlab.core.errors import ConfigError

# From scratch the recipe's own rate is used; weights that are good already need gentler steps.
_FINE_TUNING = {"training.lr": 2e-4}


def train(
    data: Annotated[
        list[str] | None,
        typer.Option(help="Text files, folders or globs [default: Python's standard library]."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            help="Go on from this checkpoint (any format, or a hub name) with its tokenizer; the "
            "peak rate is then 2e-4 unless set."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder [default: runs/train]. If it exists, goes on."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="bytes, bpe:SIZE, tokenizer.json or vocab.json [default: the checkpoint's; bytes]."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a config key.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a language model on your text, from scratch or from a checkpoint.

    The folder is a checkpoint itself when it is done: generate, eval and convert take it.
    """
    import signal

    from ssmlab.training import run_trial
    from ssmlab.training.progress import TrialProgress

    out = out or trial_default("train")
    config = build_config(data, init_from, tokenizer, steps, seed, set_ or [])
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if stopped:  # asked twice: at once
            raise KeyboardInterrupt
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with TrialProgress(quiet=json) as progress:
            result = run_trial(config, out, on_event=progress, should_stop=lambda: bool(stopped))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if json:
        print_json({"folder": str(out), **result.to_dict()})
        return
    if result.status != "ok":
        console.print(f"[yellow]diverged:[/yellow] {result.reason}", soft_wrap=True)
        return
    console.print(
        f"validation perplexity {result.val_ppl:.3f}, {result.val_bits_per_byte:.3f} bits per byte",
        soft_wrap=True,
    )
    console.print(
        f"Try it: [cyan]ssmlab generate --model {out} --prompt '...'[/cyan]", soft_wrap=True
    )


def build_config(
    data: list[str] | None,
    init_from: str | None,
    tokenizer: str | None,
    steps: int | None,
    seed: int,
    assignments: list[str],
) -> Any:
    """The trial that the options describe.

    Raises:
        ConfigError: two options say the same thing, or a key or value is wrong.
        CheckpointError: the checkpoint cannot be read.
    """
    from ssmlab.core.config import override, parse_assignments, to_dict
    from ssmlab.training import TrialConfig

    changes: dict[str, Any] = {"training.save_model": True}
    if init_from is not None:
        from ssmlab.checkpoints import read_config

        if Path(init_from).expanduser().exists():
            init_from = str(Path(init_from).expanduser().absolute())
        changes |= {"init_from": init_from, "model": to_dict(read_config(init_from))}
        changes |= _FINE_TUNING
        changes["data.tokenizer"] = _tokenizer_of(init_from, tokenizer)
    given = parse_assignments(assignments)
    for key, value, option in (
        ("data.paths", data and [str(Path(p).expanduser().absolute()) for p in data], "--data"),
        ("data.tokenizer", tokenizer, "--tokenizer"),
        ("training.steps", steps, "--steps"),
        ("seed", seed or None, "--seed"),
    ):
        if value is None or not value:
            continue
        if key in given:
            raise ConfigError(f"{option} and --set {key} were both given; keep one of them")
        changes[key] = value
    if init_from is not None:
        fixed = [key for key in given if key == "model" or key.startswith("model.")]
        if fixed:
            raise ConfigError(
                f"--set {fixed[0]} with --init-from: the model is the checkpoint's; leave it out"
            )
    return override(TrialConfig(), {**changes, **given})


def _tokenizer_of(init_from: str, tokenizer: str | None) -> str:
    """The tokenizer option as the data's config has it, the checkpoint's own by default."""
    if tokenizer is not None:
        return tokenizer
    from ssmlab.checkpoints.tokenizer import tokenizer_place

    return tokenizer_place(init_from)
