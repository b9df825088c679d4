"""The documents of a text: found, told apart by content, and split for good.

A document's split follows from a hash of its content alone: neither its path, nor the order of files,
nor other documents can move it, and two copies of one document are never on both sides. One exception
keeps tiny texts usable: if a side would be empty, the document whose hash is nearest to it crosses.

Files are taken in the order of their content's hash, so that names and places change nothing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ssmlab.core.config import config_hash
from ssmlab.core.errors import DataError
from ssmlab.data.config import TextDataConfig
from ssmlab.data.sources import LONG_TEXT, find_files, has_rows, library_files, read_documents

FORMAT = 2
"""Raised when the same text would give other tokens."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it was met: the ``index``-th of its file, with its content's digest.

    ``is_piece`` says that the next document of the file goes on where this one ends.
    """

    file: Path
    index: int
    size: int
    digest: bytes
    split: Literal["train", "val"]
    is_piece: bool


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
            digest.update(b"+" if document.is_piece else b".")
        return digest.hexdigest()[:24]


class Documents:
    """The files of a config.

    Attributes:
        name: what the text is, for people.
        newest: the latest time of change of a file, seconds since 1970.
        total_size: bytes of all files as they lie on the disk.
    """

    def __init__(
        self, config: TextDataConfig, name: str, files: list[Path], held: list[Path]
    ) -> None:
        self.config, self.name = config, name
        self.files, self.held_out = files, held
        self.is_library = not config.paths
        self.long_text = LONG_TEXT
        try:
            self.stats = [file.stat() for file in (*files, *held)]
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}; mend it or leave it out"
            ) from error
        self.newest = max(max(stat.st_mtime, stat.st_ctime) for stat in self.stats)
        self.total_size = sum(stat.st_size for stat in self.stats)

    @classmethod
    def find(cls, config: TextDataConfig) -> "Documents":
        """Find the files.

        Raises:
            DataError: a path names nothing, or a file is both training and validation text.
        """
        held = find_files(config.val_paths, "data.val_paths") if config.val_paths else []
        files = find_files(config.paths, "data.paths") if config.paths else library_files()
        both = sorted({file.resolve() for file in files} & set(held))
        if both:
            raise DataError(
                f"{both[0]} is in data.paths and in data.val_paths; validation text must not be "
                "trained on: leave it out of one of them"
            )
        if not config.paths:
            return cls(config, "Python standard library", files, held)
        given = ", ".join(Path(path).name or path for path in config.paths[:3])
        more = f" and {len(config.paths) - 3} more" if len(config.paths) > 3 else ""
        return cls(config, given + more, files, held)

    def listing(self, tokenizer: str) -> str:
        """Digest of config, tokenizer, and every file's path, identity, size and times of change."""
        digest = hashlib.sha256(f"{FORMAT} {config_hash(self.config, 64)} {tokenizer}\n".encode())
        for file, stat in zip((*self.files, *self.held_out), self.stats, strict=True):
            times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
            # A file name may be bytes that are no text; they must not stop us here.
            digest.update(os.fsencode(file))
            digest.update(f"\0{stat.st_dev} {stat.st_ino} {stat.st_size} {times}\n".encode())
        return digest.hexdigest()[:24]

    def scan(self, on_progress: Callable[[float], None]) -> Chosen:
        """Read everything once: which documents there are, and on which side each one is.

        Raises:
            DataError: text that cannot be read, none at all, or too little to split.
        """
        done, total = 0, max(1, self.total_size)
        by_file: list[list[Document]] = []
        for number, file in enumerate((*self.files, *self.held_out)):
            fixed = "val" if number >= len(self.files) else ("train" if self.held_out else None)
            by_file.append(self._documents(file, fixed))
            done += self.stats[number].st_size
            on_progress(done / total)
        lone = [group for group in by_file if group]
        if not self.held_out and len(lone) == 1 and len(lone[0]) == 1:
            # One short text is cut whatever its length, so that some of it can be held out.
            self.long_text = 0
            by_file = [self._documents(lone[0][0].file, None)]
        by_file.sort(key=lambda group: hashlib.sha256(b"".join(d.digest for d in group)).digest())
        found = [document for group in by_file for document in group]
        if self.held_out:
            found = self._without_held_out(found)
        if not found:
            raise DataError(f"no text in {self.name}: all files are empty; give files with text")
        chosen = self._limited(found)
        return Chosen(self.config, chosen if self.held_out else self._on_both_sides(chosen))

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
            yield from read_documents(file, self.config.text_field, self.long_text)
        except DataError as error:
            # A library may hold a source in another encoding; the user cannot mend that.
            if not (self.is_library and isinstance(error.__cause__, UnicodeDecodeError)):
                raise

    def _documents(self, file: Path, fixed: Literal["train", "val"] | None) -> list[Document]:
        """The documents of a file; without ``fixed`` their content decides the split."""
        found: list[Document] = []
        pieces = not has_rows(file)
        for index, text in enumerate(self._texts(file)):
            digest = _digest(text)
            held = _share(digest, self.config.split_seed) < self.config.val_fraction
            split = fixed or ("val" if held else "train")
            found.append(Document(file, index, len(text), digest, split, pieces))
        if found and pieces:
            found[-1] = replace(found[-1], is_piece=False)
        return found

    def _without_held_out(self, found: list[Document]) -> list[Document]:
        """Without the training documents that data.val_paths hold too."""
        held = {document.digest for document in found if document.split == "val"}
        kept = [d for d in found if d.split == "val" or d.digest not in held]
        for side, key in (("train", "data.paths"), ("val", "data.val_paths")):
            if not any(document.split == side for document in kept):
                raise DataError(
                    f"no text in {key} (empty, or the same as in the other of data.paths and "
                    "data.val_paths); give each text of its own"
                )
        return kept

    def _on_both_sides(self, found: list[Document]) -> list[Document]:
        """If all are on one side, the nearest to the other (and its copies) cross."""
        if len({document.split for document in found}) == 2:
            return found
        seed = self.config.split_seed
        order = sorted({document.digest for document in found}, key=lambda d: _share(d, seed))
        if len(order) < 2:
            raise DataError(
                f"the text of {self.name} is too short to split: it is a single document of "
                f"{found[0].size} bytes; give more text, or a validation file in data.val_paths"
            )
        other: Literal["train", "val"] = "val" if found[0].split == "train" else "train"
        moved = order[0] if other == "val" else order[-1]
        return [replace(d, split=other) if d.digest == moved else d for d in found]

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
                f"data.max_bytes={limit} has room for no document, and they are taken whole: the "
                f"smallest has {smallest} bytes; raise it"
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
