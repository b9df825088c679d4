"""Runs the tiny study in a process of its own: drive.py OUT TEXT STEPS SEEDS WORKERS.

Prints the names of the trials it starts. Exit code 3 is a clean stop.
"""

import sys
from pathlib import Path
from typing import Any

from ssmlab.core.errors import Interrupted
from ssmlab.studies import run_study
from ssmlab.studies.events import StudyEvent
from tests.studies.conftest import TINY


def overrides(text: Path, out: Path, steps: int) -> dict[str, Any]:
    return {
        "data.paths": [str(text)],
        "data.val_fraction": 0.3,
        "data.cache_dir": str(out.parent / "cache"),
        "training.steps": steps,
        "training.log_every": 10,
        "training.checkpoint_every_steps": 20,
    }


def show(event: StudyEvent) -> None:
    if event.kind == "trial-start":
        print(event.trial, flush=True)


def main() -> int:
    out, text = Path(sys.argv[1]), Path(sys.argv[2])
    steps, seeds, workers = (int(text) for text in sys.argv[3:6])
    try:
        run_study(
            TINY,
            out,
            seeds=seeds,
            overrides=overrides(text, out, steps),
            workers=workers,
            on_event=show,
        )
    except Interrupted:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
