"""A finished trial's figures: ``result.json`` and the DONE mark that says it is final."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssmlab.core.errors import CheckpointError
from ssmlab.core.files import write_json, write_text

RESULT_FILE = "result.json"
DONE_FILE = "DONE"


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to.

    Attributes:
        status: ``ok``, or ``diverged`` if a loss or gradient was not finite.
        reason: why it diverged, with the step and the value.
        val_loss: nats per held-out token after the last step; None if diverged.
        val_ppl: exp(val_loss).
        val_bits_per_byte: the same per byte of text, comparable between tokenizers.
        train_loss: nats per token, mean over the last logged steps.
        steps: optimiser steps done.
        tokens: training tokens seen.
        seconds: wall time of training, evaluation and checkpoints, summed over resumes.
        tokens_per_second: training alone: no evaluation, no checkpoint, and not the first step
            of each start, which compiles.
        n_params: parameters, tied ones once.
        seed: the trial's seed.
        device: where the trial ended.
        peak_memory_bytes: of the CUDA device's tensors, else of the whole process.
    """

    status: Literal["ok", "diverged"]
    reason: str | None
    val_loss: float | None
    val_ppl: float | None
    val_bits_per_byte: float | None
    train_loss: float | None
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    n_params: int
    seed: int
    device: str
    peak_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in ``result.json``."""
        return dataclasses.asdict(self)


def write_result(folder: Path, result: TrialResult) -> None:
    """Write ``result.json``, then DONE: whoever sees DONE sees a whole result."""
    write_json(folder / RESULT_FILE, result.to_dict())
    write_text(folder / DONE_FILE, "")


def is_done(folder: Path) -> bool:
    """Whether the trial in ``folder`` is finished."""
    return (folder / DONE_FILE).exists()


def read_result(folder: Path) -> TrialResult:
    """The result of a finished trial.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = folder / RESULT_FILE
    try:
        return TrialResult(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; remove the folder to run the trial again"
        ) from error
