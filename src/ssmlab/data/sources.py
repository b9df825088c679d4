"""Documents out of files: plain text, .jsonl, .parquet, and the first two as .gz or .xz.

A document is a file of text, a line of .jsonl or a row of .parquet. A long file of text is cut at
line ends into pieces, each a document of its own, so that one big file can be split like many.
"""

import glob
import gzip
import json
import lzma
import sysconfig
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ssmlab.core.errors import DataError

LONG_TEXT = 1 << 18
"""A file of text of more bytes than this is cut into pieces."""
PIECE = 1 << 16
"""Bytes of such a piece, up to the next end of a line."""
_LONGEST_LINE = 1 << 20
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def find_files(paths: tuple[str, ...], what: str) -> list[Path]:
    """All files that files, folders (recursive) and globs name, once each, sorted.

    Hidden files, and files in hidden folders, are left out of folders.

    Args:
        paths: as the user gave them; ``~`` is the home folder.
        what: the config key, for errors.

    Raises:
        DataError: a path names nothing.
    """
    found: set[Path] = set()
    for given in paths:
        path = Path(given).expanduser()
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and not _hidden(p, path)]
        else:
            files = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not files:
            kind = "an empty folder" if path.is_dir() else "no file, folder or glob that matches"
            raise DataError(f"{what}: '{given}' is {kind}; give text files that are there")
        found.update(file.resolve() for file in files)
    return sorted(found)


def library_files() -> list[Path]:
    """The sources of the running Python's standard library, without its tests, sorted.

    Raises:
        DataError: this Python has none on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in root.rglob("*.py")
        if not _NOT_LIBRARY & set(path.relative_to(root).parts) and path.is_file()
    ]
    if not files:
        raise DataError(
            f"the default text is the sources of Python's standard library, but {root} has none; "
            "give text of your own with --data (data.paths)"
        )
    return sorted(files)


def read_documents(path: Path, text_field: str) -> Iterator[bytes]:
    """The documents of one file, as UTF-8, in order; empty ones are left out.

    Raises:
        DataError: unreadable, damaged, not UTF-8, or without ``text_field``; names the place.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1] if suffixes and suffixes[-1] in (".gz", ".xz") else ""
    kind = suffixes[-2:-1] if packed else suffixes[-1:]
    try:
        if kind == [".parquet"]:
            documents = _parquet(path, text_field)
        elif kind in ([".jsonl"], [".ndjson"]):
            documents = _json_lines(path, packed, text_field)
        else:
            documents = _text(path, packed)
        for document in documents:
            if document:
                yield document
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged or not a {packed} file ({error}); fetch it again or leave it out"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read {path}: {reason}; mend it or leave it out") from error


def _open(path: Path, packed: str) -> IO[bytes]:
    if packed == ".gz":
        return typing.cast(IO[bytes], gzip.open(path, "rb"))
    if packed == ".xz":
        return lzma.open(path, "rb")
    return open(path, "rb")


def _text(path: Path, packed: str) -> Iterator[bytes]:
    offset = 0
    with _open(path, packed) as file:
        head = file.read(LONG_TEXT + 1)
        if len(head) <= LONG_TEXT:
            yield _utf8(head, path, 0)
            return
        for piece in _pieces(head, file):
            yield _utf8(piece, path, offset)
            offset += len(piece)


def _pieces(rest: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """``rest`` and what is left in ``file``, cut after line ends (or after a character at least)."""
    while True:
        if len(rest) < PIECE + _LONGEST_LINE:
            rest += file.read(PIECE + _LONGEST_LINE - len(rest))
        if len(rest) <= PIECE:
            if rest:
                yield rest
            return
        end = rest.find(b"\n", PIECE - 1, PIECE + _LONGEST_LINE) + 1
        if not end:
            end = min(len(rest), PIECE + _LONGEST_LINE)
            while end < len(rest) and rest[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
            # With nothing after it in hand, the last character may be incomplete.
            if end == len(rest):
                more = file.read(3)
                rest += more
                while end < len(rest) and rest[end] & 0xC0 == 0x80:
                    end += 1
        yield rest[:end]
        rest = rest[end:]


def _json_lines(path: Path, packed: str, field: str) -> Iterator[bytes]:
    with _open(path, packed) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value: Any = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                given = (
                    ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
                )
                raise DataError(
                    f"{path}, line {number}: expected an object with the text in '{field}', "
                    f"given {given}; set data.text_field"
                )
            yield _encode(value[field], f"{path}, line {number}")


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise DataError(
                    f"{path}: expected a column '{field}', there are {', '.join(names)}; "
                    "set data.text_field"
                )
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    if text is not None and not isinstance(text, str):
                        raise DataError(
                            f"{path}: column '{field}' holds {type(text).__name__}, expected text; "
                            "set data.text_field"
                        )
                    yield _encode(text or "", str(path))
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged or not a .parquet file: {error}") from error


def _utf8(text: bytes, path: Path, offset: int) -> bytes:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {offset + error.start} is "
            f"0x{text[error.start]:02x}; convert it to UTF-8 or leave it out"
        ) from error
    return text


def _encode(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: text with half a surrogate pair; mend it or leave it out"
        ) from error


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
