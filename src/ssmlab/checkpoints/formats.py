"""The three formats: how a folder's config.json is told apart, and the names of the tensors.

Our own format holds the model's parameters under the model's own names. The two public ones name
the same tensors alike, but for the embedding: ``backbone.embedding.weight`` in folders made with
the mamba_ssm package, ``backbone.embeddings.weight`` in those of transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssmlab.core.config import from_dict, to_dict
from ssmlab.core.errors import CheckpointError, ConfigError
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel
from ssmlab.models.plain import not_plain_mamba

Format = Literal["ssmlab", "mamba_ssm", "transformers"]
FORMATS: tuple[Format, ...] = ("ssmlab", "mamba_ssm", "transformers")
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class FolderConfig:
    """What a folder's config.json says.

    Attributes:
        format: which of the three.
        model: the model that the weights are for.
        raw: the file's content.
    """

    format: Format
    model: LanguageModelConfig
    raw: Mapping[str, Any]


def read_folder_config(folder: Path) -> FolderConfig:
    """Read ``folder/config.json``, whichever format it is of.

    Raises:
        CheckpointError: it is missing, unreadable, of no known format, or describes a model that
            ssmlab does not have.
    """
    # Here, because each of them knows this file's names.
    from ssmlab.checkpoints import mamba_ssm, transformers

    path = folder / CONFIG_FILE
    raw = read_json(path)
    try:
        if "model_type" in raw:
            return FolderConfig("transformers", _typed(transformers.read_config(raw, path)), raw)
        if isinstance(raw.get("model"), dict):
            return FolderConfig("ssmlab", _read_own(raw, path), raw)
        if "d_model" in raw and "n_layer" in raw:
            return FolderConfig("mamba_ssm", _typed(mamba_ssm.read_config(raw, path)), raw)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    raise CheckpointError(
        f"{path} is of no format known here: expected 'model_type' (transformers), 'd_model' and "
        f"'n_layer' (mamba_ssm) or 'model' (ssmlab), got the keys {shown_names(raw)}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it is missing, unreadable or not such a file.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no {path.name} in {path.parent}; give the folder of a checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


def _read_own(raw: Mapping[str, Any], path: Path) -> LanguageModelConfig:
    version = raw.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format version {version!r}, this ssmlab reads version {FORMAT_VERSION}; "
            "use the ssmlab that wrote it to export it"
        )
    return from_dict(LanguageModelConfig, raw["model"], "model")


def _typed(config: LanguageModelConfig) -> LanguageModelConfig:
    """``config`` with every value proven to be of its key's type."""
    return from_dict(LanguageModelConfig, to_dict(config), "model")


def own_config(config: LanguageModelConfig) -> dict[str, Any]:
    """config.json of our own format."""
    return {"format": "ssmlab", "format_version": FORMAT_VERSION, "model": to_dict(config)}


def public_name(name: str, embedding: str = "embedding") -> str:
    """The public formats' name of one of our parameters.

    Args:
        name: ours, for example ``layers.0.mixer.ssm.A_log``.
        embedding: ``embedding`` (mamba_ssm) or ``embeddings`` (transformers).
    """
    if name == "lm_head.weight":
        return name
    if name == "embedding.weight":
        return f"backbone.{embedding}.weight"
    return "backbone." + name.replace(".mixer.ssm.", ".mixer.")


def shown_names(names: Any, most: int = 6) -> str:
    """The first few of some names, for a message."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(repr(name) for name in listed[:most]) or "none") + more


def check_exportable(model: LanguageModel, target: Format) -> None:
    """Prove that a public format can hold ``model``.

    Raises:
        CheckpointError: it cannot, with the reason.
    """
    reason = not_plain_mamba(model)
    eps = model.config.norm_eps
    if reason is None and target == "mamba_ssm" and eps != 1e-5:
        reason = f"its norm_eps is {eps}, which that format fixes at 1e-5"
    if reason is not None:
        raise CheckpointError(
            f"the model cannot be written in the {target} format: {reason}; use format='ssmlab'"
        )
