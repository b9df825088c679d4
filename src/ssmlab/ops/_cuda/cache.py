"""Compiled kernels on disk: one file each, safe with many processes, and only ever a cache.

A file holds a checksum, the kernel's symbol and the cubin. It is written beside its place and moved
there, so that a reader sees all of it or nothing; whatever does not check out is compiled again.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

from ssmlab.ops._cuda.compile import OPTIONS, Compiled
from ssmlab.ops._cuda.source import KernelSource

VARIABLE = "SSMLAB_CACHE"
_MAGIC = b"ssmlab-cubin-1\n"
_warned: set[str] = set()


def cache_dir() -> Path:
    """``$SSMLAB_CACHE``, else the platform's folder for caches, each with ``cuda`` below."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser() / "cuda"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ssmlab" / "cuda"


def cache_key(source: KernelSource, arch: str, compiler: str) -> str:
    """A hash of all that the machine code depends on."""
    digest = hashlib.sha256()
    options = repr((source.max_registers, sorted(OPTIONS.items())))
    for part in (source.text(), source.name, options, arch, compiler):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def read(key: str) -> Compiled | None:
    """The kernel stored under ``key``; None if there is none, or none that is whole."""
    try:
        data = (cache_dir() / f"{key}.cubin").read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    head = len(_MAGIC)
    if (
        not data.startswith(_MAGIC)
        or hashlib.sha256(data[head + 32 :]).digest() != (data[head : head + 32])
    ):
        return None
    symbol, _, code = data[head + 32 :].partition(b"\n")
    return Compiled(code, symbol.decode())


def write(key: str, compiled: Compiled) -> bool:
    """Store a kernel; False, after one warning a folder, if the folder cannot be written."""
    payload = compiled.symbol.encode() + b"\n" + compiled.code
    temporary: str | None = None
    folder: Path | str = f"the folder of ${VARIABLE}"
    try:
        folder = cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{key[:16]}.", suffix=".tmp", dir=folder)
        with open(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, folder / f"{key}.cubin")
        return True
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if str(folder) not in _warned:
            _warned.add(str(folder))
            warnings.warn(
                f"ssmlab: compiled CUDA kernels cannot be kept in {folder} ({error}), so every "
                f"process compiles them anew; set ${VARIABLE} to a folder that can be written",
                RuntimeWarning,
                stacklevel=2,
            )
        return False
