"""From text to token ids: bytes, a byte-level BPE trained here, or a tokenizer.json."""

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

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """The ids of each text, its end token (if there is one) included."""
        ...


class ByteTokenizer:
    """A token a byte; after each document byte 0, which no text has."""

    vocab_size = 256
    name = "bytes"

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """UTF-8 bytes and a final 0."""
        return [np.frombuffer(text + b"\0", dtype=np.uint8).astype(np.int64) for text in texts]


class FileTokenizer:
    """A tokenizer of the ``tokenizers`` library. Each document ends in its end-of-text token."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=-1) + 1
        self.end = next((ids[token] for token in _ENDS if token in ids), None)

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Ids without the special tokens a template would add, then the end-of-text token."""
        encodings = self.tokenizer.encode_batch(
            [text.decode("utf-8") for text in texts], add_special_tokens=False
        )
        tail = [] if self.end is None else [self.end]
        return [np.array(encoding.ids + tail, dtype=np.int64) for encoding in encodings]


def tokenizer_file(given: str) -> Path:
    """The tokenizer.json that the path of a file or folder names.

    Raises:
        DataError: there is none.
    """
    path = Path(given).expanduser()
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        what = f"the folder has no {_FILE}" if path.is_dir() else "there is no such file"
        raise DataError(
            f"data.tokenizer '{given}': {what}; give bytes, bpe:4096, or the path of a "
            f"{_FILE} or of its folder"
        )
    return file


def load_tokenizer(file: Path, name: str) -> FileTokenizer:
    """Read a tokenizer.json.

    Raises:
        DataError: it is not one.
    """
    import tokenizers

    try:
        return FileTokenizer(tokenizers.Tokenizer.from_file(str(file)), name)
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{file} is not a tokenizer that can be read: {error}") from error


def tokenizer_digest(file: Path) -> str:
    """What tells one tokenizer.json from another."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
