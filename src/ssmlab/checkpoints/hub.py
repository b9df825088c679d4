"""A checkpoint's folder: a local path, or a repository of the Hugging Face hub."""

import logging
import re
from pathlib import Path

from ssmlab.core.errors import CheckpointError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SMALL = ["*.json", "merges.txt", "vocab.json"]
_SAFE = [*_SMALL, "*.safetensors"]
_PICKLED = [*_SMALL, "pytorch_model*.bin"]


def checkpoint_folder(
    path_or_repo_id: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """The folder that holds a checkpoint; one of the hub is fetched into the hub's own cache.

    Args:
        path_or_repo_id: a folder, or a name such as ``state-spaces/mamba-130m``. A folder that
            exists always wins.
        revision: branch, tag or commit of the hub's repository.
        weights: fetch the weights too, not only the small files.

    Raises:
        CheckpointError: there is no such folder or repository, or no network.
    """
    text = str(path_or_repo_id)
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"{path} is a file; give the folder that holds it and its config.json"
        )
    if isinstance(path_or_repo_id, Path) or not _REPO.fullmatch(text):
        raise CheckpointError(
            f"there is no folder {path}; give a checkpoint's folder or a hub name"
        )
    if not weights:
        return _fetch(text, revision, _SMALL)
    # A repository often holds the weights twice: pickles are fetched only where there is no other.
    folder = _fetch(text, revision, _SAFE)
    return folder if any(folder.glob("*.safetensors")) else _fetch(text, revision, _PICKLED)


def _fetch(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # its retries are of no use to a reader of the error below
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"'{repo_id}' is only for users who accepted its terms; log in to the hub first"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder '{repo_id}' here and no such repository on the hub"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"'{repo_id}' has no revision '{revision}'") from error
    except Exception as error:  # no network shows as errors of several libraries
        raise CheckpointError(
            f"there is no folder '{repo_id}' here, it is not in the hub's cache, and the hub could "
            f"not be reached ({type(error).__name__}); give a local folder, or connect to the network"
        ) from error
    finally:
        log.setLevel(level)
