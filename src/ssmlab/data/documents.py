"""The documents of a text: found, told apart by content, and split for good.

A document's split follows from a hash of its content alone: neither its path, nor the order of files,
nor other documents can move it, and two copies of one document are never on both sides.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssmlab.core.config import config_hash
from ssmlab.core.errors import DataError
from ssmlab.data.config import TextDataConfig
from ssmlab.data.sources import find_files, library_files, read_documents

FORMAT = 1
"""Raised when the same text would give other tokens."""


@dataclass(frozen=True)
class Document:
    """One document as it was met: the ``index``-th of its file, with its content's digest."""

    file: Path
    index: int
    size: int
    digest: bytes
    split: Literal["train", "val"]


@dataclass(frozen=True)
class Chosen:
    """The documents in use, in order of reading."""

    config: TextDataConfig
    documents: list[Document]

    def key(self, tokenizer: str) -> str:
        """Digest of contents, split and tokenizer."""
        digest = hashlib.sha256(f"{FORMAT} {tokenizer}\n".encode())
        for document in self.documents:
            digest.update(document.digest + document.split.encode())
        return digest.hexdigest()[:24]


class Documents:
    """The files of a config.

    Attributes:
        name: what the text is, for people.
        newest: the latest time of change of a file, seconds since 1970.
    """

    def __init__(
        self, config: TextDataConfig, name: str, files: list[Path], held: list[Path]
    ) -> None:
        self.config, self.name = config, name
        self.files, self.held_out = files, held
        self.is_library = not config.paths
        try:
            self.stats = [file.stat() for file in (*files, *held)]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        self.newest = max(stat.st_mtime for stat in self.stats)

    @classmethod
    def find(cls, config: TextDataConfig) -> "Documents":
        """Find the files.

        Raises:
            DataError: a path names nothing, or a file is both training and validation text.
        """
        held = find_files(config.val_paths, "data.val_paths") if config.val_paths else []
        if not config.paths:
            return cls(config, "Python standard library", library_files(), held)
        files = find_files(config.paths, "data.paths")
        both = sorted(set(files) & set(held))
        if both:
            raise DataError(
                f"{both[0]} is in data.paths and in data.val_paths; validation text must not be "
                "trained on: leave it out of one of them"
            )
        given = ", ".join(Path(path).name or path for path in config.paths[:3])
        more = f" and {len(config.paths) - 3} more" if len(config.paths) > 3 else ""
        return cls(config, given + more, files, held)

    def listing(self) -> str:
        """Digest of the config and of every file's path, size and time of change."""
        digest = hashlib.sha256(f"{FORMAT} {config_hash(self.config, 64)}\n".encode())
        for file, stat in zip((*self.files, *self.held_out), self.stats, strict=True):
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        tokenizer = Path(self.config.tokenizer).expanduser()
        for path in (tokenizer, tokenizer / "tokenizer.json"):
            if path.is_file():
                stat = os.stat(path)
                digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}".encode())
        return digest.hexdigest()[:24]

    def scan(self, on_progress: Callable[[float], None]) -> Chosen:
        """Read everything once: which documents there are, and on which side each one is.

        Raises:
            DataError: text that cannot be read, or none at all.
        """
        found: list[Document] = []
        done, total = 0, max(1, sum(stat.st_size for stat in self.stats))
        for number, file in enumerate((*self.files, *self.held_out)):
            fixed = "val" if number >= len(self.files) else ("train" if self.held_out else None)
            for index, text in enumerate(self._texts(file)):
                found.append(self._document(file, index, text, fixed))
            done += self.stats[number].st_size
            on_progress(done / total)
        if not found:
            raise DataError(f"no text in {self.name}: all files are empty; give files with text")
        return Chosen(self.config, self._limited(found))

    def read(self, chosen: list[Document]) -> Iterator[tuple[Document, bytes]]:
        """The chosen documents with their text, file by file.

        Raises:
            DataError: a file has changed since it was scanned.
        """
        position = 0
        while position < len(chosen):
            file = chosen[position].file
            for index, text in enumerate(self._texts(file)):
                if position == len(chosen) or chosen[position].file != file:
                    break
                document = chosen[position]
                if document.index != index:
                    continue  # left out by max_bytes
                if _digest(text) != document.digest:
                    raise _changed(file)
                position += 1
                yield document, text
            else:
                if position < len(chosen) and chosen[position].file == file:
                    raise _changed(file)

    def _texts(self, file: Path) -> Iterator[bytes]:
        try:
            yield from read_documents(file, self.config.text_field)
        except DataError as error:
            # A library may hold a source in another encoding; the user cannot mend that.
            if not (self.is_library and isinstance(error.__cause__, UnicodeDecodeError)):
                raise

    def _document(
        self, file: Path, index: int, text: bytes, fixed: Literal["train", "val"] | None
    ) -> Document:
        digest = _digest(text)
        split = fixed or (
            "val" if _share(digest, self.config.split_seed) < self.config.val_fraction else "train"
        )
        return Document(file, index, len(text), digest, split)

    def _limited(self, found: list[Document]) -> list[Document]:
        """Within max_bytes: explicit validation text whole, of the rest the first in hash order."""
        limit = self.config.max_bytes
        if limit is None:
            return found
        keep, used = set(), 0
        explicit = bool(self.held_out)
        candidates = [d for d in found if not (explicit and d.split == "val")]
        for document in sorted(candidates, key=lambda d: (_share(d.digest, -1), d.file, d.index)):
            if used + document.size > limit:
                continue
            used += document.size
            keep.add((document.file, document.index))
        if not keep:
            smallest = min(document.size for document in candidates)
            raise DataError(
                f"data.max_bytes={limit} has room for no document; the smallest has {smallest} bytes"
            )
        return [d for d in found if (d.file, d.index) in keep or (explicit and d.split == "val")]


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _share(digest: bytes, seed: int) -> float:
    """A number in [0, 1) that content and seed decide."""
    mixed = hashlib.blake2b(digest, key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") / 2**64


def _changed(file: Path) -> DataError:
    return DataError(f"{file} changed while it was being read; run again once it is still")
