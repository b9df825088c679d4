"""A tiny text on disk and a tiny trial on it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssmlab.core.config import override
from ssmlab.data.config import TextDataConfig
from ssmlab.data.text import TextData, prepare_text
from ssmlab.training import TrialConfig

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small documents of words drawn from a short list: learnable, not trivial."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["state", "space", "model", "scan", "gate", "step", "time", "delta", "select", "copy"]
    for number in range(60):
        text = " ".join(draw.choices(words, k=400)) + ".\n"
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def text_config(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TextDataConfig:
    cache = tmp_path_factory.mktemp("cache")
    return TextDataConfig(paths=(str(text_folder),), val_fraction=0.2, cache_dir=str(cache))


@pytest.fixture(scope="session")
def text(text_config: TextDataConfig) -> TextData:
    return prepare_text(text_config)


@pytest.fixture(scope="session")
def make_config(text_config: TextDataConfig) -> MakeConfig:
    """A trial of a second or less; keyword arguments are training keys, ``changes`` any others."""

    def make(changes: dict[str, Any] | None = None, **training: Any) -> TrialConfig:
        tiny = {
            "model.d_model": 16,
            "model.n_layers": 2,
            "training.steps": 12,
            "training.batch_size": 4,
            "training.seq_len": 16,
            "training.eval_tokens": 512,
            "training.log_every": 5,
            "training.device": "cpu",
            "training.threads": 1,
            "training.checkpoint_every_seconds": 0,
        }
        keys = {f"training.{key}": value for key, value in training.items()}
        return override(TrialConfig(data=text_config), {**tiny, **keys, **(changes or {})})

    return make
