"""Text as tokens: prepared once, then read as training batches and validation windows.

Shapes: B windows, L tokens.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmlab.core.errors import DataError, StorageError
from ssmlab.core.files import write_json, write_text
from ssmlab.data import shards
from ssmlab.data.config import TextDataConfig, bpe_vocabulary
from ssmlab.data.documents import Document, Documents
from ssmlab.data.shards import TokenArray
from ssmlab.data.tokenize import (
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_digest,
    tokenizer_file,
    train_bpe,
)

OnProgress: TypeAlias = Callable[[str, float], None]
_AT_ONCE = 1 << 22  # bytes given to the tokenizer together
_REMEMBERED = 1 << 25  # smaller texts are read and hashed at every opening
_CHANGED_JUST_NOW = 2.0  # seconds; a clock of files may be as coarse
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TextData:
    """A tokenised text with a fixed split.

    Attributes:
        vocab_size: ids are below it.
        train, val: the tokens of the two splits.
        key: digest of text, split and tokenizer; equal keys are equal tokens.
        description: one line for people.
        bytes_per_token: bytes of text a token, of the validation split (end tokens hold no text).
        end: the token after each document, or None.
        tokenizer_path: the tokenizer.json kept with the tokens; None if tokens are bytes.
    """

    vocab_size: int
    train: TokenArray
    val: TokenArray
    key: str
    description: str
    bytes_per_token: float
    end: int | None = None
    tokenizer_path: Path | None = None

    @property
    def n_train_tokens(self) -> int:
        """Training tokens."""
        return len(self.train)

    @property
    def n_val_tokens(self) -> int:
        """Held-out tokens."""
        return len(self.val)

    def decode(self, ids: Tensor | NDArray[Any]) -> str:
        """The text of tokens (1-d), without the end tokens."""
        tokenizer: Tokenizer = ByteTokenizer()
        if self.tokenizer_path is not None:
            tokenizer = load_tokenizer(self.tokenizer_path, self.tokenizer_path.name)
        return tokenizer.decode(np.asarray(ids))

    def batch(
        self, split: str, step: int, batch_size: int, seq_len: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Windows at random places: a pure function of its arguments.

        Args:
            split: "train" or "val".
            step, seed: name the draw; step 0 is the first.
            batch_size, seq_len: B, L.

        Returns:
            inputs and targets (the token after each), both (B, L) int64.

        Raises:
            DataError: the split is shorter than a window.
            ValueError: an unknown split, or a number out of range.
        """
        if split not in ("train", "val"):
            raise ValueError(f"split is {split!r}, expected 'train' or 'val'")
        if min(step, seed) < 0 or min(batch_size, seq_len) < 1:
            raise ValueError(
                f"step {step} and seed {seed} must be 0 or more, batch_size {batch_size} and "
                f"seq_len {seq_len} 1 or more"
            )
        tokens = self.train if split == "train" else self.val
        places = len(tokens) - seq_len
        if places < 1:
            raise _too_small(split, len(tokens), seq_len + 1, self.description)
        # Philox is keyed, so any step can be drawn without drawing those before it.
        key = np.array([seed, step], dtype=np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key))
        starts = draw.integers(0, places, size=batch_size)
        return _windows(tokens, starts, seq_len)

    def val_batches(
        self, batch_size: int, seq_len: int, max_tokens: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Held-out windows that do not overlap, the same every time, spread evenly over the split.

        Args:
            batch_size, seq_len: B (the last batch may have fewer), L.
            max_tokens: at most so many targets.

        Yields:
            inputs and targets, both (B, L) int64.
        """
        if min(batch_size, seq_len) < 1:
            raise ValueError(f"batch_size {batch_size} and seq_len {seq_len} must be 1 or more")
        there = (len(self.val) - 1) // seq_len
        count = max(0, min(there, max_tokens // seq_len))
        chosen = np.arange(count) * there // max(count, 1) * seq_len
        for first in range(0, count, batch_size):
            yield _windows(self.val, chosen[first : first + batch_size], seq_len)


def prepare_text(config: TextDataConfig, on_progress: OnProgress | None = None) -> TextData:
    """Read, split and tokenise a text once; later calls open what the first one made.

    Args:
        config: what to read, and how.
        on_progress: told the stage ("reading", "training the tokenizer", "tokenising") and the share
            of it that is done, 0 to 1.

    Raises:
        DataError: text that is missing, unreadable, empty or damaged, or a damaged cache.
        StorageError: the cache folder cannot be written.
    """
    tell = on_progress or (lambda stage, share: None)
    identity = _tokenizer_identity(config)
    started = time.time()
    documents = Documents.find(config)
    cache = _cache_folder(config)
    # Reading a large text only to learn that it is known takes long: identity, sizes and times of
    # its files stand for it, unless one changed so lately that it could change again unseen.
    listing: Path | None = None
    if documents.total_size >= _REMEMBERED and started - documents.newest > _CHANGED_JUST_NOW:
        listing = cache / "index" / f"{documents.listing(identity)}.json"
    key = _known_key(listing)
    if key is None or not (cache / key).exists():
        chosen = documents.scan(lambda share: tell("reading", share))
        key = chosen.key(identity)
        if not (cache / key).exists():
            room = 2 * sum(document.size + 1 for document in chosen.documents)
            with shards.building(cache / key, room) as folder:
                if folder is not None:
                    _build(config, documents, chosen.documents, folder, tell)
        if listing is not None:
            with contextlib.suppress(StorageError):  # a cache that can only be read
                write_json(listing, {"key": key})
    return _open(cache / key, key, documents.name)


def check_text(config: TextDataConfig, min_train_tokens: int, min_val_tokens: int) -> TextData:
    """Prepare a text and prove that each split is large enough.

    Raises:
        DataError, StorageError: as ``prepare_text``, or too few tokens.
    """
    text = prepare_text(config)
    for split, tokens, wanted in (
        ("train", text.n_train_tokens, min_train_tokens),
        ("val", text.n_val_tokens, min_val_tokens),
    ):
        if tokens < wanted:
            raise _too_small(split, tokens, wanted, text.description)
    return text


def _build(
    config: TextDataConfig,
    documents: Documents,
    chosen: list[Document],
    folder: Path,
    tell: OnProgress,
) -> None:
    tokenizer = _tokenizer(config, documents, chosen, folder, tell)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    writers = {split: shards.ShardWriter(folder, split, dtype) for split in ("train", "val")}
    end = np.array([] if tokenizer.end is None else [tokenizer.end], np.int64)
    last: dict[str, Document] = {}
    with contextlib.ExitStack() as stack:
        for writer in writers.values():
            stack.callback(writer.close)
        done, total = 0, max(1, sum(document.size for document in chosen))
        for batch in _batches(documents.read(chosen)):
            ids = tokenizer.encode([text for _, text in batch])
            for (document, text), tokens in zip(batch, ids, strict=True):
                writer = writers[document.split]
                if document.split in last and not _goes_on(last[document.split], document):
                    writer.append(end, 0)
                writer.append(tokens, len(text))
                last[document.split] = document
                done += len(text)
            tell("tokenising", done / total)
        for split in last:
            writers[split].append(end, 0)
        files = [_TOKENIZER] if (folder / _TOKENIZER).exists() else []
        about = {
            "vocab_size": tokenizer.vocab_size,
            "end": tokenizer.end,
            "tokenizer": tokenizer.name,
            "n_files": len({document.file for document in chosen}),
            "n_documents": len(chosen),
        }
        shards.write_manifest(folder, list(writers.values()), files, about)


def _goes_on(last: Document, document: Document) -> bool:
    """Whether ``document`` is the next piece of the same long text: no end token between them."""
    return last.is_piece and (document.file, document.index) == (last.file, last.index + 1)


def _tokenizer(
    config: TextDataConfig,
    documents: Documents,
    chosen: list[Document],
    folder: Path,
    tell: OnProgress,
) -> Tokenizer:
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    size = bpe_vocabulary(config.tokenizer)
    if size is None:
        loaded = load_tokenizer(tokenizer_file(config.tokenizer), Path(config.tokenizer).name)
        _keep(loaded, folder)
        return loaded
    tell("training the tokenizer", 0.0)
    training = [document for document in chosen if document.split == "train"]
    trained = train_bpe((text for _, text in documents.read(training)), size, config.tokenizer)
    _keep(trained, folder)
    tell("training the tokenizer", 1.0)
    return trained


def _keep(tokenizer: FileTokenizer, folder: Path) -> None:
    write_text(folder / _TOKENIZER, tokenizer.tokenizer.to_str())


def _tokenizer_identity(config: TextDataConfig) -> str:
    if config.tokenizer == "bytes" or bpe_vocabulary(config.tokenizer) is not None:
        return config.tokenizer
    return tokenizer_digest(tokenizer_file(config.tokenizer))


def _open(folder: Path, key: str, name: str) -> TextData:
    splits, manifest = shards.open_shards(folder)
    held_out = manifest["splits"]["val"]
    size = sum(part["text_bytes"] for part in manifest["splits"].values())
    files = manifest["n_files"]
    text = TextData(
        vocab_size=manifest["vocab_size"],
        train=splits["train"],
        val=splits["val"],
        key=key,
        description=f"{name}, {files:,} file{'s' if files > 1 else ''}, {_megabytes(size)}, "
        f"{manifest['tokenizer']}",
        bytes_per_token=held_out["text_bytes"] / max(1, held_out["tokens"]),
        end=manifest["end"],
        tokenizer_path=folder / _TOKENIZER if _TOKENIZER in manifest["files"] else None,
    )
    for split, tokens in (("train", text.n_train_tokens), ("val", text.n_val_tokens)):
        if tokens == 0:
            raise _too_small(split, 0, 2, text.description)
    return text


def _too_small(split: str, tokens: int, wanted: int, description: str) -> DataError:
    name = {"train": "training", "val": "validation"}[split]
    remedy = (
        "give more text, a larger data.val_fraction, or data.val_paths"
        if split == "val"
        else "give more text, or a smaller data.val_fraction or training.seq_len"
    )
    return DataError(
        f"the {name} text has {tokens} tokens ({description}), but at least {wanted} are needed; "
        + remedy
    )


def _cache_folder(config: TextDataConfig) -> Path:
    given = config.cache_dir or os.environ.get("SSMLAB_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "ssmlab"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _known_key(listing: Path | None) -> str | None:
    if listing is None:
        return None
    try:
        return str(json.loads(listing.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not known: read the text


def _batches(
    items: Iterator[tuple[Document, bytes]],
) -> Iterator[list[tuple[Document, bytes]]]:
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += len(item[1])
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _windows(tokens: TokenArray, starts: NDArray[Any], seq_len: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([tokens.read(int(start), seq_len + 1) for start in starts])
    windows = torch.from_numpy(rows)
    return windows[:, :-1], windows[:, 1:]
