"""Checkpoints: one safetensors file each, whole or absent, checked on reading, the newest two kept.

A file ``checkpoint-<step>.safetensors`` holds every tensor of the run; its header holds the plain
state (step, times) as JSON and a checksum over both, so that tensors and state cannot part ways.
"""

import contextlib
import errno
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssmlab.core.errors import CheckpointError
from ssmlab.core.files import write_atomic

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run at a step: named tensors (on the CPU) and plain JSON state."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint; once it is whole, remove all but the newest two.

    Raises:
        StorageError: it cannot be written. Earlier checkpoints are untouched.
    """
    path = folder / f"checkpoint-{checkpoint.step:09d}.safetensors"
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    state = json.dumps({**checkpoint.state, "step": checkpoint.step}, allow_nan=False)
    metadata = {"state": state, "checksum": _checksum(tensors, state)}
    write_atomic(path, lambda temporary: write_tensors(temporary, tensors, metadata))
    for _, old in list_checkpoints(folder)[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def load_latest(folder: Path, on_warning: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None.

    A damaged one is reported through ``on_warning`` and removed, or it would outlive good ones.
    """
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            on_warning(f"{error}; removed it, going on from an earlier one if there is one")
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and prove that it is what was written.

    Raises:
        CheckpointError: unreadable, cut off or altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = json.loads(metadata["state"])
        if metadata["checksum"] != _checksum(tensors, metadata["state"]):
            raise CheckpointError(f"the checkpoint {path} is damaged: its checksum does not match")
        return Checkpoint(state.pop("step"), tensors, state)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged: {error}") from error


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of a folder's checkpoints by their names, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*.safetensors"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def latest_step(folder: Path) -> int | None:
    """The step a stopped trial would go on from, read from names alone; None without any."""
    found = list_checkpoints(folder)
    return found[-1][0] if found else None


def remove_checkpoints(folder: Path) -> None:
    """Remove a finished trial's checkpoints; one that cannot be removed does no harm."""
    for _, path in list_checkpoints(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """``save_file`` whose failures are OSErrors with their number, as other writers' are."""
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """CRC-32 over the state and every tensor's name, type, shape and bytes."""
    value = zlib.crc32(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            value = zlib.crc32(content, value)
    return f"{value:08x}"
