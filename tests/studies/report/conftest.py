"""A study's folder as the store writes it, with made-up results: no training."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ssmlab.core.config import to_dict
from ssmlab.core.files import write_json
from ssmlab.studies.claims import Claim, better
from ssmlab.studies.store import StudyStore
from ssmlab.studies.study import Axis, Figure, Point, Scale, Study, Trial
from ssmlab.training.result import TrialResult, write_result

# Perplexity by row and seed; None has not begun, a text is why the trial diverged.
Outcomes = Mapping[str, tuple[float | str | None, ...]]
Build = Callable[..., Path]


def widths(**changes: Any) -> Study:
    """Three rows of one axis, with the paper's figures in the order of the rows."""
    points = tuple(Point(str(n), {"model.d_model": n}, f"w{n}") for n in (8, 16, 32))
    keys = {
        "name": "widths",
        "title": "Width <of> the model",
        "source": "The paper, Table 0",
        "axes": (Axis("width", points),),
        "base": {"training.steps": 20, "training.batch_size": 2, "training.seq_len": 8},
        "scales": (Scale("quick", {}, seeds=2, note="seconds"), Scale("paper", {})),
        "figures": {
            ("8",): Figure(9.0, 1.1),
            ("16",): Figure(8.0, 1.2),
            ("32",): Figure(7.0, 1.3),
        },
        "claims": (
            Claim("wide", "Width 32 is better than width 8.", "Table 0", (better("w32", "w8"),)),
            Claim("turn", "Width 8 is better than width 32.", "Table 0", (better("w8", "w32"),)),
        ),
        "plot": "width",
    }
    return Study(**{**keys, **changes})


FULL: Outcomes = {"w8": (3.0, 3.02, 3.01), "w16": (2.8, 2.81, 2.82), "w32": (2.5, 2.52, 2.51)}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a study's folder: ``build(outcomes, study=..., scale=..., overrides=...)``."""

    def make(
        outcomes: Outcomes = FULL,
        study: Study | None = None,
        scale: str = "quick",
        overrides: Mapping[str, Any] | None = None,
        name: str = "study",
    ) -> Path:
        study, overrides = study or widths(), overrides or {}
        seeds = len(next(iter(outcomes.values())))
        trials = study.trials(scale, seeds, overrides)
        store = StudyStore(tmp_path / name)
        store.begin(study, scale, seeds, overrides, trials)
        for trial in trials:
            outcome = outcomes[trial.row.key][trial.seed]
            if outcome is not None:
                write_trial(store.trial_folder(trial.name), trial, outcome)
        return store.folder

    return make


def write_trial(folder: Path, trial: Trial, outcome: float | str) -> None:
    """What a finished trial leaves behind."""
    folder.mkdir(parents=True)
    steps = trial.config.training.steps
    write_json(folder / "config.json", to_dict(trial.config))
    environment = {
        "ssmlab": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "packages": {"numpy": "2.3"},
        "platform": "Linux", "device": "cpu", "device_name": "A CPU", "threads": 2,
        "git_revision": "abc123", "argv": ["ssmlab", "study", "run", "widths"],
        "data": {"key": "k", "description": "Some text, 3 files, 1.0 MB, bytes"},
    }  # fmt: skip
    write_json(folder / "environment.json", environment)
    loss = math.log(outcome) if isinstance(outcome, float) else None
    lines = []
    for step in range(1, steps + 1):
        value = (loss or 1.0) + 2 / step
        lines.append({"step": step, "tokens": 16 * step, "split": "train", "loss": value})
        if step % 5 == 0:
            lines.append({"step": step, "tokens": 16 * step, "split": "val", "loss": value})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    result = TrialResult(
        status="ok" if loss is not None else "diverged",
        reason=None if loss is not None else str(outcome),
        val_loss=loss,
        val_ppl=None if loss is None else math.exp(loss),
        val_bits_per_byte=None if loss is None else loss / math.log(2),
        train_loss=loss,
        steps=steps,
        tokens=16 * steps,
        seconds=12.5,
        tokens_per_second=100.0,
        n_params=12_345,
        seed=trial.seed,
        device="cpu",
        peak_memory_bytes=2_000_000,
    )
    write_result(folder, result)
