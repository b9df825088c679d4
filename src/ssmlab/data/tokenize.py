"""From text to token ids: bytes, a byte-level BPE trained here, or a tokenizer.json.

After each document comes one end token: for bytes the value 255, which UTF-8 never uses, so that
documents can be told apart without doubt; for a BPE trained here ``<|endoftext|>``; for a loaded
tokenizer its own end-of-text token, if it has one. Text that spells out a special token stays text.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmlab.core.errors import DataError

END_OF_TEXT = "<|endoftext|>"
_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")
_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """What the shards need of a tokenizer: ids below ``vocab_size``, an end token after a text."""

    vocab_size: int
    name: str
    end: int | None

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """The ids of each text, without its end token."""
        ...

    def decode(self, ids: NDArray[Any]) -> str:
        """The text of ids; end tokens are left out, a character cut in two becomes U+FFFD."""
        ...


class ByteTokenizer:
    """A token a byte; after each document byte 255, which no UTF-8 text has."""

    vocab_size = 256
    name = "bytes"
    end: int | None = 255

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """UTF-8 bytes."""
        return [np.frombuffer(text, dtype=np.uint8).astype(np.int64) for text in texts]

    def decode(self, ids: NDArray[Any]) -> str:
        """The text of the bytes."""
        return ids[ids != self.end].astype(np.uint8).tobytes().decode("utf-8", "replace")


class FileTokenizer:
    """A tokenizer of the ``tokenizers`` library, with nothing added to or cut off the text."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # one that the text spells out is text
        self.tokenizer = tokenizer
        self.name = name
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=-1) + 1
        self.end = next((ids[token] for token in _ENDS if token in ids), None)

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Ids without the special tokens that a template would add."""
        encodings = self.tokenizer.encode_batch_fast(
            [text.decode("utf-8") for text in texts], add_special_tokens=False
        )
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: NDArray[Any]) -> str:
        """The text of ids, special tokens left out."""
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)


def tokenizer_file(given: str) -> Path:
    """The tokenizer.json (or vocab.json beside a merges.txt) that a file's or folder's path names.

    Raises:
        DataError: there is none.
    """
    path = Path(given).expanduser()
    file = path / _FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / "vocab.json").is_file():
        file = path / "vocab.json"
    if not file.is_file():
        what = f"the folder has no {_FILE}" if path.is_dir() else "there is no such file"
        near = difflib.get_close_matches(given, ["bytes", "bpe:4096"], n=1, cutoff=0.5)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise DataError(
            f"data.tokenizer '{given}': {what}{hint}; give bytes, bpe:4096, or the path of a "
            f"{_FILE} or of its folder"
        )
    return file


def load_tokenizer_path(path: Path) -> FileTokenizer:
    """Read the tokenizer of a file: a tokenizer.json, or GPT-2's vocab.json with its merges.txt.

    Raises:
        DataError: it is not one.
    """
    return load_tokenizer(path, path.name)


def load_tokenizer(file: Path, name: str) -> FileTokenizer:
    """Read a tokenizer.json, or a ``*vocab.json`` that has its ``*merges.txt`` beside it.

    Raises:
        DataError: it is not one.
    """
    import tokenizers

    if merges_file(file) is not None:
        return _load_gpt2(file, name)
    text = _read(file)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text.decode("utf-8"))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"{file} is not a tokenizer.json that can be read ({error}); give another"
        ) from error
    loaded = FileTokenizer(tokenizer, name)
    if loaded.vocab_size < 1:
        raise DataError(f"{file} has an empty vocabulary; give another tokenizer")
    return loaded


def merges_file(file: Path) -> Path | None:
    """The merges.txt that belongs to a vocab.json by its name; None for any other file."""
    if not file.name.endswith("vocab.json"):
        return None
    return file.with_name(file.name.removesuffix("vocab.json") + "merges.txt")


def _load_gpt2(file: Path, name: str) -> FileTokenizer:
    """GPT-2's byte-level BPE from its two files."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Engine

    merges = merges_file(file)
    assert merges is not None
    for path in (file, merges):
        _read(path)  # missing or unreadable: a clear error
    try:
        engine: Any = Engine(models.BPE.from_file(str(file), str(merges)))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"{file} and {merges.name} are not a vocabulary and merges that can be read ({error}); "
            "give others"
        ) from error
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    if engine.token_to_id(END_OF_TEXT) is not None:
        engine.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return FileTokenizer(engine, name)


def tokenizer_digest(file: Path) -> str:
    """What tells one tokenizer from another.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256(_read(file))
    merges = merges_file(file)
    if merges is not None:
        digest.update(_read(merges))
    return digest.hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer {file}: {error.strerror or error}; make it readable"
        ) from error


def train_bpe(documents: Iterable[bytes], vocab_size: int, name: str) -> FileTokenizer:
    """Train a byte-level BPE of at most ``vocab_size`` tokens; the same text gives the same one."""
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine: Any = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(_decoded(documents), trainer=trainer)
    return FileTokenizer(engine, name)


def _decoded(documents: Iterable[bytes]) -> Iterator[str]:
    for document in documents:
        yield document.decode("utf-8")
