"""``ssmlab convert``: a checkpoint of any format to a folder of another."""

from pathlib import Path
from typing import Annotated

import typer

from ssmlab.cli.models import DtypeOption, ModelOption, TokenizerOption, load_model
from ssmlab.cli.output import console
from ssmlab.core.errors import CheckpointError


def convert(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    to: Annotated[str, typer.Option("--to", help="ssmlab, mamba_ssm or transformers.")],
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace a checkpoint that is there.")] = False,
) -> None:
    """Write a checkpoint in another format, with its tokenizer if it has one."""
    from ssmlab.checkpoints import load_tokenizer, save_pretrained
    from ssmlab.checkpoints.formats import FORMATS

    if to not in FORMATS:
        raise CheckpointError(f"--to is {to!r}, expected one of {', '.join(FORMATS)}")
    words = None
    if tokenizer is not None:
        words = load_tokenizer(tokenizer)
    else:
        try:
            words = load_tokenizer(model)
        except CheckpointError:
            console.print("no tokenizer was found, none is written", style="yellow")
    loaded = load_model(model, "cpu", dtype)
    save_pretrained(loaded, out, to, tokenizer=words, overwrite=overwrite)
    console.print(f"Written: {out}", soft_wrap=True)
