"""A study of two rows that runs in about a second, and text for it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssmlab.studies import Axis, Claim, Point, Scale, Study
from ssmlab.studies.claims import better
from ssmlab.studies.events import StudyEvent

TINY = Study(
    name="tiny",
    title="A tiny study",
    source="ours",
    axes=(
        Axis(
            "selective",
            (
                Point("no", {"model.mamba.ssm.selective_B": False}),
                Point("yes", {"model.mamba.ssm.selective_B": True}),
            ),
        ),
    ),
    base={
        "model.d_model": 16,
        "model.n_layers": 1,
        "model.mamba.ssm.d_state": 2,
        "training.batch_size": 2,
        "training.seq_len": 16,
        "training.eval_tokens": 64,
        "training.log_every": 1,
        "training.device": "cpu",
        "training.threads": 1,
    },
    scales=(
        Scale("quick", {"training.steps": 4}, seeds=2, note="a moment"),
        Scale("long", {"training.steps": 100_000}, seeds=1),
        Scale("big", {}, seeds=1, requires={"data.tokenizer": "a tokenizer of yours"}),
    ),
    claims=(Claim("helps", "Selecting B helps.", "ours", (better("yes", "no"),)),),
)


@pytest.fixture
def tiny() -> Study:
    return TINY


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["state", "space", "model", "scan", "gate", "step", "time", "delta"]
    for number in range(20):
        (folder / f"{number:02d}.txt").write_text(" ".join(draw.choices(words, k=100)))
    return folder


@pytest.fixture
def data(text_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Overrides that give the text."""
    return {
        "data.paths": [str(text_folder)],
        "data.val_fraction": 0.3,
        "data.cache_dir": str(tmp_path / "cache"),
    }


class Watch(list[StudyEvent]):
    """Keeps every event; ``act`` is called with each."""

    act: Callable[[StudyEvent], None] | None = None

    def __call__(self, event: StudyEvent) -> None:
        self.append(event)
        if self.act is not None:
            self.act(event)

    def names(self, kind: str) -> list[str]:
        return [event.trial for event in self if event.kind == kind and event.trial]

    def messages(self, kind: str) -> str:
        return "\n".join(event.message or "" for event in self if event.kind == kind)


@pytest.fixture
def watch() -> Watch:
    return Watch()
