"""What the commands that take a model share: loading it and its tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmlab.core.errors import CheckpointError

if TYPE_CHECKING:
    from ssmlab.checkpoints.tokenizer import TokenizerLike
    from ssmlab.models import LanguageModel

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint's folder (ssmlab, mamba_ssm or transformers format), a trial's folder, "
        "or a name on the hub.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help="tokenizer.json, vocab.json, a folder, a hub name or bytes [default: the model's own]."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto (as stored).")]
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load_model(model: str, device: str = "auto", dtype: str = "float32") -> "LanguageModel":
    """The model that ``--model``, ``--device`` and ``--dtype`` name."""
    import torch

    from ssmlab.checkpoints import from_pretrained
    from ssmlab.training.device import select_device

    if dtype not in (*_DTYPES, "auto"):
        raise CheckpointError(f"--dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}, auto")
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    return from_pretrained(model, dtype=kind, device=select_device(device))


def load_tokenizer_for(model: str, tokenizer: str | None) -> "TokenizerLike":
    """The tokenizer that ``--tokenizer`` names, or else the model's own."""
    from ssmlab.checkpoints import load_tokenizer

    return load_tokenizer(tokenizer or model)


def trial_default(name: str) -> Path:
    """Where a command writes unless told."""
    return Path("runs") / name
