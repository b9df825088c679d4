"""A trial's folder: whose it is, and what a killed process left in it."""

import contextlib
import json
from pathlib import Path

from ssmlab.core.config import flatten, to_dict
from ssmlab.core.errors import CheckpointError
from ssmlab.training.config import TrialConfig

CONFIG_FILE = "config.json"


def remove_leftovers(folder: Path) -> None:
    """Half-written files of a process that was killed; a trial has one process at a time."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def check_same_config(folder: Path, config: TrialConfig) -> None:
    """Prove that the trial begun in ``folder``, if any, is this one.

    Raises:
        CheckpointError: it is another; the message names the keys that differ.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; use another folder") from error
    old, new = flatten(stored), flatten(to_dict(config))
    if config.model.vocab_size == 0:  # not yet filled in
        new["model.vocab_size"] = old.get("model.vocab_size")
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        shown = ", ".join(
            f"{key} (there {old.get(key)!r}, now {new.get(key)!r})" for key in different[:3]
        )
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            f"{folder} holds a trial with another config: {shown}{more}; use another folder, or "
            "remove this one"
        )
