"""Writing files so that a reader, even after a crash, sees the old content or the new."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssmlab.core.errors import StorageError


def write_atomic(path: Path | str, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path in the same folder, then move it to ``path``.

    The data is flushed to the disk before the move, so that a power cut cannot leave a
    renamed but empty file. On any failure the temporary file is removed and ``path`` is as before.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private to the user; give what a plain open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON atomically. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """The user's wording of an operating-system error met while writing ``path``."""
    if error.errno == errno.ENOSPC:
        reason = "the disk is full; free some space or choose another folder"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "no permission to write there; choose a folder that you can write"
    elif error.errno == errno.ENOTDIR:
        reason = "a part of that path is a file, not a folder; choose another path"
    else:
        reason = error.strerror or str(error)
    return StorageError(f"cannot write {path}: {reason}")


def check_writable(folder: Path | str, free_bytes: int = 0) -> None:
    """Make ``folder`` and prove that a file can be written there with ``free_bytes`` to spare.

    Raises:
        StorageError: it cannot, with the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
        available = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(folder, error) from error
    if available < free_bytes:
        raise StorageError(
            f"not enough room in {folder}: {free_bytes / 1e6:.0f} MB needed, "
            f"{available / 1e6:.0f} MB free; free some space or choose another folder"
        )


class leaving_no_empty_folder(contextlib.AbstractContextManager):
    """On an error, remove ``folder`` and its parents that were made for nothing."""

    def __init__(self, folder: Path) -> None:
        self.made = [path for path in (folder, *folder.parents) if not path.exists()]

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            return
        for path in self.made:
            with contextlib.suppress(OSError):
                path.rmdir()
