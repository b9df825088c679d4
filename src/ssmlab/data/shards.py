"""Token ids in memory-mapped files, with a manifest that proves them whole.

A folder holds ``train-00000.bin``, ..., ``val-00000.bin``, ..., ``tokenizer.json`` unless tokens are
bytes and, written last, ``manifest.json``. It is built under another name and moved into place whole.
Sizes and checksums are verified at every opening.
"""

import bisect
import contextlib
import itertools
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssmlab.core.errors import DataError
from ssmlab.core.files import check_writable, storage_error, write_json

MANIFEST = "manifest.json"
FORMAT = 2
SHARD_TOKENS = 1 << 28
_CHUNK = 1 << 24


class TokenArray:
    """One sequence of token ids over several memory-mapped shards."""

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self.shards = shards
        self.starts = [0, *itertools.accumulate(len(shard) for shard in shards)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, place: int | slice) -> Any:
        """One token as an int, or a run of tokens (slice without a step) as int64."""
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                raise ValueError(f"a step of {step} is not possible; take the run, then [::{step}]")
            return self.read(start, max(0, stop - start))
        if not -len(self) <= place < len(self):
            raise IndexError(f"token {place} of {len(self)}")
        return int(self.read(place % len(self), 1)[0])

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
        """Add ids that stand for so many bytes of text.

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
        file, self.file = self.file, None
        if file is not None:
            try:
                with file:
                    file.flush()
                    os.fsync(file.fileno())  # before the manifest says that it is whole
            except OSError as error:
                raise storage_error(file.name, error) from error

    def _next(self) -> IO[bytes]:
        name = f"{self.split}-{len(self.shards):05d}.bin"
        try:
            self.file = open(self.folder / name, "wb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise storage_error(self.folder / name, error) from error
        self.shards.append({"file": name, "tokens": 0, "crc32": 0})
        return self.file


def write_manifest(
    folder: Path, writers: list[ShardWriter], files: list[str], about: dict[str, Any]
) -> None:
    """Close the writers and record what they wrote, the other ``files`` there, and ``about``."""
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
    extra = {name: zlib.crc32((folder / name).read_bytes()) for name in files}
    manifest = {"format": FORMAT, "dtype": writers[0].dtype.str, "splits": splits, "files": extra}
    write_json(folder / MANIFEST, {**manifest, **about})


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
        for name, expected in manifest["files"].items():
            if zlib.crc32((folder / name).read_bytes()) != expected:
                raise _corrupt(folder / name, "its checksum is wrong")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _corrupt(folder / MANIFEST, f"it cannot be read ({error})") from error
    return {split: TokenArray(shards) for split, shards in splits.items()}, manifest


def _open(folder: Path, shards: list[dict[str, Any]], dtype: np.dtype[Any]) -> Iterator[Any]:
    for shard in shards:
        path, expected = folder / shard["file"], shard["tokens"] * dtype.itemsize
        size = path.stat().st_size if path.exists() else None
        if size != expected:
            found = "is missing" if size is None else f"has {size} bytes"
            raise _corrupt(path, f"it {found}, expected {expected} bytes")
        checksum = 0
        with open(
            path, "rb"
        ) as file:  # read, not mapped: pages of a map would count as memory used
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
        if checksum != shard["crc32"]:
            raise _corrupt(path, "its checksum is wrong")
        yield np.memmap(path, dtype=dtype, mode="r")


def _corrupt(path: Path, why: str) -> DataError:
    return DataError(
        f"the tokenised text is damaged: {path}: {why}. Delete the folder {path.parent}; the next "
        "run builds it again from the text"
    )


@contextlib.contextmanager
def building(folder: Path, free_bytes: int = 0) -> Iterator[Path | None]:
    """A temporary folder that becomes ``folder`` at the end, or None if another process made it.

    One process builds at a time; the others wait. Where files cannot be locked each builds its own,
    and the first to end wins. What a killed build left is removed by the next one.

    Args:
        folder: where the result goes.
        free_bytes: room that the result needs.

    Raises:
        StorageError: the cache cannot be written, or has too little room.
    """
    cache = folder.parent
    check_writable(cache, free_bytes)
    try:
        lock = open(cache / f".lock-{folder.name}", "w")  # noqa: SIM115 (with, below)
    except OSError as error:
        raise storage_error(cache, error) from error
    with lock:
        locked = _wait_for(lock)
        if folder.exists():
            yield None
            return
        if locked:  # nobody else builds this, so these are of the dead
            for stale in cache.glob(f".build-{folder.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
        temporary = cache / f".build-{folder.name}-{uuid.uuid4().hex}"
        try:
            try:
                temporary.mkdir()
            except OSError as error:
                raise storage_error(temporary, error) from error
            yield temporary
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError as error:
        if not (folder / MANIFEST).is_file():  # else another process has built the same
            raise storage_error(folder, error) from error


def _wait_for(lock: IO[str]) -> bool:
    """Hold ``lock`` until it is closed or the process dies. False where there are no locks."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows; some network file systems
        return False
    return True
