"""The weight files of a folder, read tensor by tensor so that no second copy of a model is needed.

Safetensors first. A ``.bin`` file is a pickle: it is read with torch's weights-only loader, which
makes tensors and runs nothing else, and memory-mapped where the file allows it.
"""

import contextlib
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssmlab.checkpoints.formats import read_json, shown_names
from ssmlab.core.errors import CheckpointError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"


class WeightFiles:
    """The tensors of one or several weight files, by name; a context manager.

    Attributes:
        shapes: shape of every tensor, by name.
        file_of: the file that holds each.

    Args:
        files: safetensors files, or files of torch.

    Raises:
        CheckpointError: a file is missing, cut off, unreadable or holds more than tensors.
    """

    def __init__(self, files: list[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.file_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._stack = contextlib.ExitStack()
        try:
            for path in files:
                self._add(path)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "WeightFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._open.clear()

    def read(self, name: str) -> Tensor:
        """One tensor; it may be a view of the file, so copy it.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self.file_of[name]
        try:
            source = self._open[path]
            return source[name] if isinstance(source, dict) else source.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise _damaged(path, error) from error

    def _add(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"the weight file {path} is missing; the checkpoint is not whole")
        shapes = self._open_safe(path) if path.suffix == ".safetensors" else self._open_torch(path)
        twice = self.shapes.keys() & shapes.keys()
        if twice:
            raise CheckpointError(f"{path} and another file both hold {shown_names(twice)}")
        self.shapes |= shapes
        self.file_of |= dict.fromkeys(shapes, path)

    def _open_safe(self, path: Path) -> dict[str, tuple[int, ...]]:
        try:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._open[path] = file
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(path, error) from error

    def _open_torch(self, path: Path) -> dict[str, tuple[int, ...]]:
        loaded = _load_torch(path)
        if not isinstance(loaded, dict):
            raise CheckpointError(
                f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors"
            )
        others = {str(name) for name, value in loaded.items() if not isinstance(value, Tensor)}
        if others:
            raise CheckpointError(
                f"{path}: not tensors: {shown_names(others)}; save the model's state_dict() alone"
            )
        self._open[path] = loaded
        return {name: tuple(value.shape) for name, value in loaded.items()}


def _load_torch(path: Path) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        # torch warns of pickle protocols that it may then refuse; what it does is what we report.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, mmap=True, **options)
            except RuntimeError as error:
                # Files of torch before 1.6 are no zip archives and cannot be mapped.
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(path, **options)
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CheckpointError(
            f"{path} was refused: it is cut off, or holds Python objects beyond tensors, which could "
            f"run code ({first[:160]}); nothing of it was run. Convert it to safetensors where you "
            "trust it"
        ) from error
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from error


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors before .bin, whole files before sharded ones.

    Raises:
        CheckpointError: there are none, or an index names a file outside the folder.
    """
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / (name + _INDEX)
        if index.is_file():
            return [folder / shard for shard in _shards(index)]
    raise CheckpointError(
        f"{folder} has no weights: expected {SAFETENSORS}, {BIN}, or an index of shards of either"
    )


def _shards(index: Path) -> Iterator[str]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no 'weight_map'; the checkpoint is not whole")
    for shard in sorted({str(name) for name in placed.values()}):
        if Path(shard).name != shard or shard in (".", ".."):
            raise CheckpointError(f"{index} names {shard!r}: expected a file of the same folder")
        yield shard


def _damaged(path: Path, error: Exception) -> CheckpointError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(
        f"{path} is cut off or damaged ({text}); fetch or export the checkpoint again"
    )
