"""Read a checkpoint of any of the three formats into a model, one tensor at a time."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssmlab.checkpoints.formats import Format, public_name, read_folder_config, shown_names
from ssmlab.checkpoints.hub import checkpoint_folder
from ssmlab.checkpoints.weights import WeightFiles, find_weight_files
from ssmlab.core.errors import CheckpointError
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel

_HEAD, _EMBEDDING = "lm_head.weight", "embedding.weight"
_MOST_SHOWN = 6


def from_pretrained(
    path_or_repo_id: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> LanguageModel:
    """The model of a checkpoint, in evaluation mode.

    Besides the model itself no more is held than the tensor being copied, and the file's pages that
    the system keeps.

    Args:
        path_or_repo_id: a folder of any of the three formats, the folder of a trial that kept its
            model, or a name on the Hugging Face hub such as ``state-spaces/mamba-130m``.
        dtype: of the model's parameters; "auto" keeps the type that the embedding is stored in.
        device: where they are put.
        revision: branch, tag or commit, for a hub name.

    Raises:
        CheckpointError: there is no such checkpoint; it is cut off, damaged or holds code; its
            config and its weights disagree; a weight is not finite.
    """
    folder = checkpoint_folder(path_or_repo_id, revision)
    config = read_folder_config(folder)
    with WeightFiles(find_weight_files(folder)) as files:
        names = _names(config.format, config.model, files, folder)
        stored = files.read(names[_EMBEDDING]).dtype
        model = empty_model(config.model, stored if dtype == "auto" else dtype, device)
        copy_weights(model, names, files)
    return model.eval()


def read_config(path_or_repo_id: str | Path, revision: str | None = None) -> LanguageModelConfig:
    """The config of a checkpoint's model, without its weights.

    Raises:
        CheckpointError: as ``from_pretrained``.
    """
    return read_folder_config(checkpoint_folder(path_or_repo_id, revision, weights=False)).model


def empty_model(
    config: LanguageModelConfig, dtype: torch.dtype, device: torch.device | str
) -> LanguageModel:
    """A model whose parameters have memory but no values yet. Marks and ties are as built."""
    with torch.device("meta"):
        model = LanguageModel(config)
    if any(True for _ in model.buffers()):
        # Buffers hold values that only the constructor knows.
        return LanguageModel(config).to(device=device, dtype=dtype)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                memory = torch.empty(parameter.shape, dtype=dtype, device=device)
                new = nn.Parameter(memory, parameter.requires_grad)
                vars(new).update(vars(parameter))
                made[id(parameter)] = new
            module._parameters[name] = made[id(parameter)]
    return model


def copy_weights(model: LanguageModel, names: dict[str, str], files: WeightFiles) -> None:
    """Fill a model from files; ``names`` gives the files' name of each parameter.

    Raises:
        CheckpointError: a tensor is not of numbers, not finite, or cannot be read.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for ours, theirs in names.items():
            tensor = files.read(theirs)
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"{files.file_of[theirs]}: {theirs} is {tensor.dtype}, expected floating-point "
                    "numbers; quantised checkpoints are not read"
                )
            if ours == _HEAD and ours not in parameters:
                _check_tied(parameters[_EMBEDDING], tensor, theirs, files)
                continue
            target = parameters[ours]
            target.copy_(tensor)
            if not all_finite(target):
                raise CheckpointError(_not_finite(tensor, theirs, files, target.dtype))


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite, without a mask as large as the tensor."""
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _not_finite(tensor: Tensor, name: str, files: WeightFiles, dtype: torch.dtype) -> str:
    count = int((~torch.isfinite(tensor)).sum())
    if count == 0:
        return f"{name} has numbers too large for {dtype}; load it with dtype=torch.float32"
    return (
        f"{files.file_of[name]}: {count} of {tensor.numel()} numbers of {name} are NaN or infinite; "
        "the checkpoint is of a run that diverged, or is damaged"
    )


def _check_tied(embedding: Tensor, head: Tensor, name: str, files: WeightFiles) -> None:
    if head.shape != embedding.shape or not torch.equal(
        head.to(embedding.dtype), embedding.cpu().to(embedding.dtype)
    ):
        raise CheckpointError(
            f"{files.file_of[name]}: the config ties the head to the embedding, but {name} holds "
            "other numbers than the embedding; correct the config, or remove the tensor"
        )


def _names(
    format: Format, config: LanguageModelConfig, files: WeightFiles, folder: Path
) -> dict[str, str]:
    """The files' name of each of our parameters; a stored copy of a tied head is among them.

    Raises:
        CheckpointError: names or shapes differ from those of the config's model.
    """
    with torch.device("meta"):
        wanted = {name: tuple(p.shape) for name, p in LanguageModel(config).named_parameters()}
    names = {ours: _stored_name(ours, format, files) for ours in wanted}
    if config.tie_embeddings and _HEAD in files.shapes:
        names[_HEAD] = _HEAD
        wanted = {**wanted, _HEAD: wanted[_EMBEDDING]}
    missing = sorted(set(names.values()) - files.shapes.keys())
    unexpected = sorted(files.shapes.keys() - set(names.values()))
    if missing or unexpected:
        raise CheckpointError(
            f"the weights in {folder} are not those of its config: missing {shown_names(missing)}; "
            f"unexpected {shown_names(unexpected)}"
        )
    wrong = [
        f"{theirs} is {files.shapes[theirs]}, the config needs {wanted[ours]}"
        for ours, theirs in names.items()
        if files.shapes[theirs] != wanted[ours]
    ]
    if wrong:
        more = f"; and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise CheckpointError(
            f"the weights in {folder} do not fit its config: {'; '.join(wrong[:_MOST_SHOWN])}{more}"
            + _vocabulary_hint(config, files.shapes[names[_EMBEDDING]])
        )
    return names


def _stored_name(ours: str, format: Format, files: WeightFiles) -> str:
    if format == "ssmlab":
        return ours
    spelt = ("embeddings", "embedding") if format == "transformers" else ("embedding", "embeddings")
    either = [public_name(ours, embedding) for embedding in spelt]
    return next((name for name in either if name in files.shapes), either[0])


def _vocabulary_hint(config: LanguageModelConfig, shape: tuple[int, ...]) -> str:
    if not shape or shape[0] == config.padded_vocab_size:
        return ""
    return (
        f". The embedding has {shape[0]} rows; a vocabulary of {config.vocab_size} padded to a "
        f"multiple of {config.pad_vocab_size_multiple} has {config.padded_vocab_size}"
    )
