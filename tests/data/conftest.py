"""Small texts on disk and a way to prepare them in a cache of their own."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmlab.data.config import TextDataConfig
from ssmlab.data.shards import TokenArray
from ssmlab.data.text import TextData, prepare_text

Prepare = Callable[..., TextData]
WORDS = ["state", "space", "naïve", "scan", "日本", "step", "time", "delta", "select", "copy"]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """``prepare(*paths, **config keys)`` with a cache below the test's folder."""

    def call(*paths: Path | str, **keys: Any) -> TextData:
        keys = {"cache_dir": str(tmp_path / "cache"), **keys}
        return prepare_text(TextDataConfig(paths=tuple(map(str, paths)), **keys))

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty different documents in ``texts/``, the longest of about 1 kB."""
    made = tmp_path / "texts"
    write_documents(made, 40)
    return made


def sentence(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return f"{seed}: " + " ".join(draw.choices(WORDS, k=words)) + ".\n"


def write_documents(folder: Path, count: int, first: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [sentence(seed, 20 + seed % 120) for seed in range(first, first + count)]
    for number, text in enumerate(texts, start=first):
        (folder / f"{number:03d}.txt").write_bytes(text.encode())
    return texts


def documents_of(tokens: TokenArray) -> list[str]:
    """The documents of a split that was tokenised as bytes."""
    parts = np.asarray(tokens[:]).astype(np.uint8).tobytes().split(b"\xff")
    assert parts.pop() == b"", "the last document has no end token"
    return [part.decode() for part in parts]


def all_documents(data: TextData) -> list[str]:
    return sorted(documents_of(data.train) + documents_of(data.val))
