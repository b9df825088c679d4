"""Documents out of files: plain text, .jsonl, .parquet, and the first two as .gz or .xz.

A document is a line of .jsonl, a row of .parquet, or any other file as a whole. A long file of text
is cut after line ends into pieces, each a document of its own for the split, so that a corpus of one
big file has documents to hold out. The cuts depend on the file's content alone. Empty documents,
nulls and a byte order mark at the start of a file are left out.
"""

import glob
import gzip
import json
import lzma
import os
import sysconfig
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ssmlab.core.errors import DataError

LONG_TEXT = 1 << 18
"""A file of text of more bytes than this is cut into pieces."""
PIECE = 1 << 14
"""Bytes of such a piece, up to the next end of a line."""
_LONGEST_LINE = 3 << 14  # a piece ends after so many more bytes if no line does
_HEAD = 1 << 13  # a zero byte this early marks a binary file
_BOM = b"\xef\xbb\xbf"
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_OF_THE_BUILD = ("config-", "_sysconfigdata")  # written by the build of this one Python


def find_files(paths: tuple[str, ...], what: str) -> list[Path]:
    """All files that files, folders (recursive) and globs name, once each, sorted.

    Of folders, hidden files and folders, ``__pycache__`` and binary files are left out.

    Args:
        paths: as the user gave them; ``~`` is the home folder.
        what: the config key, for errors.

    Raises:
        DataError: a path names nothing, or a folder cannot be listed.
    """
    found: set[Path] = set()
    for given in paths:
        path = Path(given).expanduser()
        if os.path.lexists(path):  # before globbing: a name may hold [ or *
            matches = [path]
        else:
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        if not matches:
            kind = "no file matches" if glob.has_magic(given) else "there is no file or folder"
            raise DataError(
                f"{what}: {kind} '{given}' (looked in {Path.cwd()}); give the path of a text "
                "file, a folder, or a glob such as 'books/*.txt'"
            )
        files = [file for match in matches for file in _expand(match, what)]
        if not files:
            raise DataError(f"{what}: '{given}' holds no text file; put text there or leave it out")
        found.update(file.resolve() for file in files)
    return sorted(found)


def _expand(path: Path, what: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{what}: '{path}' is neither a file nor a folder (a broken link, a pipe or a device); "
            "give text files"
        )

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{what}: cannot list the folder {error.filename}: {error.strerror}; make it readable "
            "or leave it out"
        ) from error

    files: list[Path] = []
    for here, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        files += [Path(here, name) for name in names if not name.startswith(".")]
    return [file for file in files if file.is_file() and not _is_binary(file)]


def library_files() -> list[Path]:
    """The sources of the running Python's standard library, without its tests, sorted.

    Raises:
        DataError: this Python has none on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files: list[Path] = []
    for here, folders, names in os.walk(root):
        folders[:] = [
            f for f in folders if f not in _NOT_LIBRARY and not f.startswith((".", *_OF_THE_BUILD))
        ]
        files += [
            Path(here, name)
            for name in names
            if name.endswith(".py") and not name.startswith((".", *_OF_THE_BUILD))
        ]
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(
            f"the default text is the sources of Python's standard library, but {root} has none; "
            "give text of your own with --data (data.paths)"
        )
    return sorted(files)


def has_rows(path: Path) -> bool:
    """Whether the file's documents are rows or lines with a text field, not pieces of one text."""
    return _kind(path)[0] in (".parquet", ".jsonl", ".ndjson")


def read_documents(path: Path, text_field: str, long_text: int = LONG_TEXT) -> Iterator[bytes]:
    """The documents of one file, as UTF-8, in order; empty ones are left out.

    Args:
        path: the file; the endings of its name say how it is read.
        text_field: field of .jsonl and column of .parquet that holds the text.
        long_text: a plain text of more bytes is cut into pieces.

    Raises:
        DataError: unreadable, damaged, not UTF-8, or without ``text_field``; names the place.
    """
    kind, packed = _kind(path)
    try:
        if kind == ".parquet":
            documents = _parquet(path, text_field)
        elif kind in (".jsonl", ".ndjson"):
            documents = _json_lines(path, packed, text_field)
        else:
            documents = _text(path, packed, long_text)
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


def _kind(path: Path) -> tuple[str, str]:
    """The ending that tells the format, and .gz, .xz or nothing."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in (".gz", ".xz") else ""
    kind = endings[-1] if endings else ""
    # Parquet is compressed inside; a packed one is read as the bytes that it is, and refused.
    return ("" if packed and kind == ".parquet" else kind), packed


def _is_binary(path: Path) -> bool:
    if has_rows(path):
        return False
    try:
        with _open(path, _kind(path)[1]) as file:
            return b"\0" in file.read(_HEAD)
    except (EOFError, lzma.LZMAError, zlib.error, OSError):
        return False  # reading it tells why


def _open(path: Path, packed: str) -> IO[bytes]:
    if packed == ".gz":
        return typing.cast(IO[bytes], gzip.open(path, "rb"))
    if packed == ".xz":
        return lzma.open(path, "rb")
    return open(path, "rb")


def _text(path: Path, packed: str, long_text: int) -> Iterator[bytes]:
    with _open(path, packed) as file:
        head = file.read(max(long_text + 1, _HEAD))
        zero = head.find(b"\0", 0, _HEAD)
        if zero >= 0:
            raise DataError(
                f"{path} is not text: byte {zero} is zero; give UTF-8 text (unpack archives and "
                "turn documents into text first)"
            )
        offset = len(_BOM) if head.startswith(_BOM) else 0
        if len(head) <= long_text:
            yield _utf8(head[offset:], path, offset)
            return
        for piece in _pieces(head[offset:], file):
            yield _utf8(piece, path, offset)
            offset += len(piece)


def _pieces(rest: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """``rest`` and what is left in ``file``, cut after line ends (or after a character at least)."""
    longest = PIECE + _LONGEST_LINE
    start = 0
    while True:
        if len(rest) - start <= longest:
            rest = rest[start:] + file.read(LONG_TEXT)
            start = 0
        if len(rest) - start <= PIECE:  # the file has ended
            if len(rest) > start:
                yield rest[start:]
            return
        end = rest.find(b"\n", start + PIECE - 1, start + longest) + 1
        if not end:
            end = min(start + longest, len(rest))
            # Not inside a character; more than three bytes of this form are not UTF-8 anyway.
            back = 0
            while end - back < len(rest) and rest[end - back] & 0xC0 == 0x80 and back < 3:
                back += 1
            end -= back
        yield rest[start:end]
        start = end


def _json_lines(path: Path, packed: str, field: str) -> Iterator[bytes]:
    with _open(path, packed) as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            skip = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            text = _utf8(line[skip:], path, offset + skip, number).decode("utf-8")
            offset += len(line)
            if not text.strip():
                continue
            try:
                value: Any = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error}); give one JSON object a line"
                ) from error
            if not isinstance(value, dict) or field not in value:
                given = _names(list(value)) if isinstance(value, dict) else type(value).__name__
                raise DataError(
                    f"{path}, line {number}: expected an object with the text in '{field}', "
                    f"given {given}; set data.text_field"
                )
            if value[field] is not None:
                yield _encode(value[field], f"{path}, line {number}", field)


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise DataError(
                    f"{path}: expected a column '{field}', given {_names(names)}; "
                    "set data.text_field"
                )
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if text is not None:
                        yield _encode(text, f"{path}, row {number}", field)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged or not a .parquet file ({error}); fetch it again or leave it out"
        ) from error


def _utf8(text: bytes, path: Path, offset: int, line: int = 0) -> bytes:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start}" + (f" (line {line})" if line else "")
        raise DataError(
            f"{path} is not UTF-8 text: {where} is 0x{text[error.start]:02x}; convert it to UTF-8 "
            "(for example with iconv) or leave it out"
        ) from error
    return text


def _encode(text: Any, where: str, field: str) -> bytes:
    if not isinstance(text, str):
        raise DataError(
            f"{where}: '{field}' is of type {type(text).__name__}, expected text; set "
            "data.text_field"
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: text with half a surrogate pair; mend it or leave it out"
        ) from error


def _names(names: list[Any]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:8]) or "no fields"
    return shown + (", ..." if len(names) > 8 else "")
