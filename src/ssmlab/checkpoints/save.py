"""Write a model as a folder of any of the three formats: the whole folder or nothing."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ssmlab.checkpoints import mamba_ssm, transformers
from ssmlab.checkpoints.formats import (
    CONFIG_FILE,
    FORMATS,
    Format,
    check_exportable,
    own_config,
    public_name,
)
from ssmlab.checkpoints.tokenizer import TokenizerLike, write_tokenizer
from ssmlab.checkpoints.weights import BIN, SAFETENSORS
from ssmlab.core.errors import CheckpointError, StorageError
from ssmlab.core.files import storage_error
from ssmlab.models.language_model import LanguageModel


def save_pretrained(
    model: LanguageModel,
    path: str | Path,
    format: Format = "ssmlab",
    *,
    tokenizer: TokenizerLike | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> Path:
    """Write a model, and its tokenizer if given, as a checkpoint's folder.

    ``ssmlab`` and ``transformers`` folders hold safetensors; a ``mamba_ssm`` folder holds the
    ``pytorch_model.bin`` that the package of that name reads. The folder appears when it is whole.

    Args:
        path: the folder to make.
        format: "ssmlab", "mamba_ssm" or "transformers" (loads with ``AutoModelForCausalLM``).
        tokenizer: what ``load_tokenizer`` returns, to be kept beside the weights.
        max_shard_size: largest safetensors file; larger models are cut, with an index.
        overwrite: replace a folder that is there and holds a checkpoint.

    Returns:
        The folder.

    Raises:
        CheckpointError: the format cannot hold this model, or ``path`` is taken.
        StorageError: it cannot be written; nothing is left behind.
    """
    if format not in FORMATS:
        raise CheckpointError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if format != "ssmlab":
        check_exportable(model, format)
    path = Path(path).expanduser()
    _check_free(path, overwrite)
    tensors = _tensors(model, format)
    with _new_folder(path) as folder:
        if format == "mamba_ssm":
            torch.save(tensors, folder / BIN)
        else:
            _save_safetensors(tensors, folder, max_shard_size)
        kept = write_tokenizer(tokenizer, folder, format) if tokenizer is not None else None
        config = _config(model, format, tokenizer, kept)
        (folder / CONFIG_FILE).write_text(
            json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    return path


def _config(
    model: LanguageModel, format: Format, tokenizer: TokenizerLike | None, kept: str | None
) -> dict[str, Any]:
    if format == "mamba_ssm":
        return mamba_ssm.write_config(model.config)
    if format == "transformers":
        dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
        end = None if tokenizer is None else tokenizer.end
        return transformers.write_config(model.config, dtype, end)
    return own_config(model.config) | ({} if kept is None else {"tokenizer": kept})


def _tensors(model: LanguageModel, format: Format) -> dict[str, Tensor]:
    """Tensors by the format's names, on the CPU; a tied head once, but for mamba_ssm."""
    named: dict[str, Tensor] = {n: p.detach() for n, p in model.named_parameters()}
    if format == "ssmlab":
        kept = model.state_dict(keep_vars=True)
        named |= {name: b.detach() for name, b in model.named_buffers() if name in kept}
        return {name: tensor.cpu().contiguous() for name, tensor in named.items()}
    embedding = "embedding" if format == "mamba_ssm" else "embeddings"
    tensors = {
        public_name(name, embedding): tensor.cpu().contiguous() for name, tensor in named.items()
    }
    if format == "mamba_ssm" and model.config.tie_embeddings:
        # That package loads strictly; torch.save stores what two names share once.
        tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    return tensors


def _save_safetensors(
    tensors: Mapping[str, Tensor], folder: Path, max_shard_size: int | str
) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    for file, names in plan.filename_to_tensors.items():
        try:
            save_file({n: tensors[n] for n in names}, folder / file, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / f"{SAFETENSORS}.index.json").write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


def _check_free(path: Path, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; give a folder to make")
    if not overwrite:
        raise CheckpointError(
            f"{path} is there already and not empty; give another folder, or overwrite=True "
            "(--overwrite) if it holds a checkpoint to replace"
        )
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{path} holds no checkpoint (no {CONFIG_FILE}) and is not replaced; give another folder"
        )


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` at the end, or vanishes on an error."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        for file in temporary.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if path.exists():
            # The old folder steps aside first, so that a failed move can bring it back.
            aside = temporary.with_suffix(".old")
            os.replace(path, aside)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(aside, path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(temporary, path)
        temporary = None
    except StorageError:
        raise
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError.
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise storage_error(path, reason) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
