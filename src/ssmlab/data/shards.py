"""Token ids in memory-mapped files, with a manifest that proves them whole.

A folder holds ``train-00000.bin``, ..., ``val-00000.bin``, ... and, written last, ``manifest.json``.
It is built under another name and moved into place whole.
"""

import bisect
import contextlib
import itertools
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssmlab.core.errors import DataError
from ssmlab.core.files import storage_error, write_json

MANIFEST = "manifest.json"
FORMAT = 1
SHARD_TOKENS = 1 << 28
CHECKED_BYTES = 1 << 30
"""Checksums of folders up to this size are verified at every opening; of larger ones, sizes alone."""


class TokenArray:
    """One sequence of token ids over several memory-mapped shards."""

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self.shards = shards
        self.starts = [0, *itertools.accumulate(len(shard) for shard in shards)]

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Tokens start ... start + count - 1, which must be there, as int64."""
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        parts, index = [], bisect.bisect_right(self.starts, start) - 1
        while count > 0:
            inside = start - self.starts[index]
            part = self.shards[index][inside : inside + count]
            parts.append(part)
            start, count, index = start + len(part), count - len(part), index + 1
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


class ShardWriter:
    """Appends tokens of one split to shards in ``folder``."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        self.shards: list[dict[str, Any]] = []
        self.file: IO[bytes] | None = None
        self.tokens = self.text_bytes = 0

    def append(self, ids: NDArray[np.int64], text_bytes: int) -> None:
        """Add the ids of a document of so many bytes of text.

        Raises:
            StorageError: the folder cannot be written.
        """
        self.tokens += len(ids)
        self.text_bytes += text_bytes
        while len(ids):
            file = self.file or self._next()
            shard = self.shards[-1]
            part, ids = np.split(ids, [SHARD_TOKENS - shard["tokens"]])
            data = part.astype(self.dtype).tobytes()
            try:
                file.write(data)
            except OSError as error:
                raise storage_error(file.name, error) from error
            shard["tokens"] += len(part)
            shard["crc32"] = zlib.crc32(data, shard["crc32"])
            if shard["tokens"] == SHARD_TOKENS:
                self.close()

    def close(self) -> None:
        """Flush the shard at hand."""
        if self.file is not None:
            name = self.file.name
            try:
                self.file.close()
            except OSError as error:
                raise storage_error(name, error) from error
            self.file = None

    def _next(self) -> IO[bytes]:
        name = f"{self.split}-{len(self.shards):05d}.bin"
        try:
            self.file = open(self.folder / name, "wb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise storage_error(self.folder / name, error) from error
        self.shards.append({"file": name, "tokens": 0, "crc32": 0})
        return self.file


def write_manifest(
    folder: Path, writers: list[ShardWriter], vocab_size: int, about: dict[str, Any]
) -> None:
    """Close the writers and record what they wrote."""
    for writer in writers:
        writer.close()
    splits = {
        writer.split: {
            "tokens": writer.tokens,
            "text_bytes": writer.text_bytes,
            "shards": writer.shards,
        }
        for writer in writers
    }
    dtype = writers[0].dtype.name
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, "dtype": dtype, "vocab_size": vocab_size, "splits": splits, **about},
    )


def open_shards(folder: Path) -> tuple[dict[str, TokenArray], dict[str, Any]]:
    """The splits of a folder, and its manifest.

    Raises:
        DataError: a file is missing or not what was written; says how to build it again.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise _corrupt(folder / MANIFEST, "it is of another version of ssmlab")
        dtype = np.dtype(manifest["dtype"])
        splits = {
            split: list(_open(folder, part["shards"], dtype))
            for split, part in manifest["splits"].items()
        }
        total = sum(len(shard) * dtype.itemsize for part in splits.values() for shard in part)
        if total <= CHECKED_BYTES:
            for split, part in manifest["splits"].items():
                for shard, tokens in zip(part["shards"], splits[split], strict=True):
                    if zlib.crc32(tokens) != shard["crc32"]:
                        raise _corrupt(folder / shard["file"], "its checksum is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise _corrupt(folder / MANIFEST, str(error)) from error
    return {split: TokenArray(shards) for split, shards in splits.items()}, manifest


def _open(folder: Path, shards: list[dict[str, Any]], dtype: np.dtype[Any]) -> Iterator[Any]:
    for shard in shards:
        path, expected = folder / shard["file"], shard["tokens"] * dtype.itemsize
        size = path.stat().st_size if path.exists() else None
        if size != expected:
            found = "is missing" if size is None else f"has {size} bytes"
            raise _corrupt(path, f"it {found}, expected {expected} bytes")
        yield np.memmap(path, dtype=dtype, mode="r")


def _corrupt(path: Path, why: str) -> DataError:
    return DataError(
        f"the tokenised text is damaged: {path}: {why}. Delete the folder {path.parent}; the next "
        "run builds it again from the text"
    )


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path | None]:
    """A temporary folder that becomes ``folder`` at the end, or None if another process made it.

    One process builds at a time; the others wait. A build that was killed leaves a temporary folder
    that the next build removes.

    Raises:
        StorageError: the cache cannot be written.
    """
    temporary = folder.parent / f".build-{folder.name}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.parent / f".lock-{folder.name}", "w")  # noqa: SIM115 (with, below)
    except OSError as error:
        raise storage_error(folder.parent, error) from error
    with lock:
        _wait_for(lock)
        if folder.exists():
            yield None
            return
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except OSError as error:
            raise storage_error(temporary, error) from error
        try:
            yield temporary
            try:
                temporary.rename(folder)
            except OSError as error:
                raise storage_error(folder, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _wait_for(lock: Any) -> None:
    """Hold ``lock`` until it is closed; the system lets go of it if the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, two processes may both build, the second rename fails
        return
    fcntl.flock(lock, fcntl.LOCK_EX)
