"""A study's folder: what it is of, the state of its trials, and their results.

    DIR/study.json              the study whole, scale, seeds, overrides, versions, names of trials
    DIR/trials/<trial name>/    one folder a trial, as ssmlab.training writes it, and:
        lock.json               while a process is at work in it
        failed.json             if the last attempt ended with an error
        origin.json             if it ran in another study and was taken over

The folder explains itself: reading it needs neither the study's source nor the same version.
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ssmlab import __version__
from ssmlab.core.errors import SsmlabError, StudyError
from ssmlab.core.files import write_json
from ssmlab.studies.locks import TrialLock, exclusive, living_holder
from ssmlab.studies.study import Row, Study, Trial

STUDY_FILE = "study.json"
FAILED_FILE = "failed.json"
ORIGIN_FILE = "origin.json"
FORMAT = 1

TrialState: TypeAlias = Literal["pending", "running", "partial", "done", "diverged", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as its folder tells.

    Attributes:
        name: the folder's name; it ends in the hash of the resolved config.
        row: the line of the table.
        seed: the trial's seed.
        steps: optimiser steps in all.
        folder: where it is, whether or not it has begun.
        state: ``pending`` (not begun), ``running`` (a living process is at it), ``partial`` (begun,
            nobody at it), ``done``, ``diverged`` (finished without a figure) or ``failed``.
        step: steps done, or safe in a checkpoint; None if not begun.
        result: what is in ``result.json``, for ``done`` and ``diverged``.
        error: why it failed or diverged.
    """

    name: str
    row: Row
    seed: int
    steps: int
    folder: Path
    state: TrialState
    step: int | None = None
    result: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it will never be run again."""
        return self.state in ("done", "diverged")

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of ``metrics.jsonl``, without one that a killed process half wrote."""
        from ssmlab.training.metrics import read_metrics

        return read_metrics(self.folder)

    def config(self) -> dict[str, Any] | None:
        """The resolved config as plain data; None if the trial has not begun."""
        return read_json(self.folder / "config.json")

    def environment(self) -> dict[str, Any] | None:
        """Versions, device and revision it ran with; None if the trial has not begun."""
        return read_json(self.folder / "environment.json")

    def origin(self) -> dict[str, Any] | None:
        """The ``study`` and ``trial`` that it ran as, if it was taken over; None if it ran here."""
        return read_json(self.folder / ORIGIN_FILE)


@dataclass(frozen=True)
class StudyResults:
    """All that a study's folder holds now.

    Attributes:
        folder: the study's folder.
        study: the study, as it was when the folder was made.
        scale: name of the scale.
        seeds: seeds of each row.
        overrides: what the user changed.
        version, revision: of ssmlab, when the folder was made.
        created: seconds since 1970.
        trials: every trial, all rows of seed 0 first.
    """

    folder: Path
    study: Study
    scale: str
    seeds: int
    overrides: Mapping[str, Any]
    version: str
    revision: str | None
    created: float
    trials: tuple[TrialRecord, ...]

    def of_row(self, row: Row) -> list[TrialRecord]:
        """A row's trials, in order of seeds."""
        return [trial for trial in self.trials if trial.row.key == row.key]

    def samples(self) -> dict[str, dict[int, float]]:
        """Log-perplexity (nats per token) by row key and seed, of the trials that have one."""
        samples: dict[str, dict[int, float]] = {row.key: {} for row in self.study.rows()}
        for trial in self.trials:
            if trial.state == "done" and trial.result is not None:
                samples[trial.row.key][trial.seed] = trial.result["val_loss"]
        return samples

    def diverged(self) -> dict[str, list[str]]:
        """Names of the trials that diverged, by row key; rows without any are not in it."""
        names: dict[str, list[str]] = {}
        for trial in self.trials:
            if trial.state == "diverged":
                names.setdefault(trial.row.key, []).append(trial.name)
        return names


class StudyStore:
    """The folder of one study, to be made, checked and written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.mutex = self.folder / ".lock"

    def trial_folder(self, name: str) -> Path:
        return self.folder / "trials" / name

    @property
    def exists(self) -> bool:
        """Whether a study was begun here."""
        return (self.folder / STUDY_FILE).exists()

    def stored_seeds(self) -> int:
        """Seeds of each row so far; 0 if no study was begun here."""
        return int(self.read()["seeds"]) if self.exists else 0

    def check_same(
        self, study: Study, scale: str, overrides: Mapping[str, Any], trials: Sequence[Trial]
    ) -> None:
        """Prove that what was begun here, if anything, is this study with these settings.

        Raises:
            StudyError: it is another; the message says what differs and what to do.
        """
        if not self.exists:
            return
        stored = self.read()
        advice = "use another folder (--out), or the settings it was begun with"
        for what, there, now in (
            ("study", stored["study"]["name"], study.name),
            ("scale", stored["scale"], scale),
        ):
            if there != now:
                raise StudyError(f"{self.folder} holds {what} {there!r}, not {now!r}; {advice}")
        old = {t["name"] for t in stored["trials"] if t["seed"] == 0}
        new = {trial.name for trial in trials if trial.seed == 0}
        if old == new:
            return
        there, now = stored["overrides"], _as_json(overrides)
        if there != now:
            keys = sorted(k for k in there.keys() | now.keys() if there.get(k) != now.get(k))
            shown = "; ".join(
                f"{key} (there {_given(there, key)}, now {_given(now, key)})" for key in keys[:3]
            )
            raise StudyError(f"{self.folder} was begun with other settings: {shown}; {advice}")
        raise StudyError(
            f"{self.folder} was begun with other configs under the same names: study {study.name} "
            f"has changed since (ssmlab {stored['ssmlab']} then, {__version__} now); "
            "use another folder (--out)"
        )

    def begin(
        self,
        study: Study,
        scale: str,
        seeds: int,
        overrides: Mapping[str, Any],
        trials: Sequence[Trial],
    ) -> None:
        """Write ``study.json``, or add seeds to it.

        Raises:
            StudyError: another process began another study here in the meantime.
            StorageError: the folder cannot be written.
        """
        with exclusive(self.mutex):
            self.check_same(study, scale, overrides, trials)
            if self.stored_seeds() >= seeds:
                return
            stored = self.read() if self.exists else {}
            write_json(
                self.folder / STUDY_FILE,
                {
                    "format": FORMAT,
                    "scale": scale,
                    "seeds": seeds,
                    "overrides": _as_json(overrides),
                    "ssmlab": __version__,
                    "revision": _revision(),
                    "created": stored.get("created", time.time()),
                    "trials": [
                        {
                            "name": trial.name,
                            "row": trial.row.key,
                            "seed": trial.seed,
                            "steps": trial.config.training.steps,
                        }
                        for trial in trials
                    ],
                    "study": study.to_dict(),
                },
            )

    def lock(self, name: str) -> TrialLock | None:
        """The right to work on a trial, or None if a living process has it."""
        return TrialLock.acquire(self.trial_folder(name), self.mutex)

    def record_failure(self, name: str, error: str, traceback: str = "") -> None:
        """Keep why a trial's attempt ended with an error."""
        with contextlib.suppress(SsmlabError):  # a full disk must not hide the first error
            write_json(
                self.trial_folder(name) / FAILED_FILE,
                {"error": error, "traceback": traceback, "time": time.time()},
            )

    def forget_failure(self, name: str) -> None:
        """A new attempt begins."""
        with contextlib.suppress(OSError):
            (self.trial_folder(name) / FAILED_FILE).unlink()

    def results(self) -> StudyResults:
        """Everything there is now.

        Raises:
            StudyError: no study was begun here, or ``study.json`` cannot be read.
        """
        stored = self.read()
        study = Study.from_dict(stored["study"])
        rows = {row.key: row for row in study.rows()}
        return StudyResults(
            folder=self.folder,
            study=study,
            scale=stored["scale"],
            seeds=stored["seeds"],
            overrides=stored["overrides"],
            version=stored["ssmlab"],
            revision=stored["revision"],
            created=stored["created"],
            trials=tuple(
                self._record(item["name"], rows[item["row"]], item["seed"], item["steps"])
                for item in stored["trials"]
            ),
        )

    def state(self, trial: Trial) -> TrialRecord:
        """One trial as its folder tells."""
        return self._record(trial.name, trial.row, trial.seed, trial.config.training.steps)

    def _record(self, name: str, row: Row, seed: int, steps: int) -> TrialRecord:
        from ssmlab.training.checkpoint import latest_step
        from ssmlab.training.metrics import read_metrics
        from ssmlab.training.result import RESULT_FILE, is_done

        folder = self.trial_folder(name)

        def record(state: TrialState, step: int | None = None, **more: Any) -> TrialRecord:
            return TrialRecord(name, row, seed, steps, folder, state, step, **more)

        if not folder.exists():
            return record("pending")
        if is_done(folder):
            result = read_json(folder / RESULT_FILE)
            if result is None or result.get("status") not in ("ok", "diverged"):
                return record(
                    "failed",
                    error=f"cannot read {folder / RESULT_FILE}; remove {folder} to run it again",
                )
            state = "done" if result["status"] == "ok" else "diverged"
            return record(state, result["steps"], result=result, error=result.get("reason"))
        if living_holder(folder) is not None:
            lines = read_metrics(folder)
            return record("running", lines[-1]["step"] if lines else latest_step(folder))
        failure = read_json(folder / FAILED_FILE)
        safe = latest_step(folder)
        if failure is not None:
            return record("failed", safe, error=str(failure.get("error")))
        if safe is not None or (folder / "config.json").exists():
            return record("partial", safe or 0)
        return record("pending")

    def read(self) -> dict[str, Any]:
        path = self.folder / STUDY_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StudyError(
                f"no study in {self.folder} (there is no {STUDY_FILE}); "
                "give the folder that 'ssmlab study run' wrote"
            ) from None
        except (OSError, ValueError) as error:
            raise StudyError(
                f"cannot read {path}: {error}; its trials are unharmed: remove that one file and run "
                "the same study again in this folder"
            ) from error
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise StudyError(
                f"{path} is not of a form that ssmlab {__version__} knows; use the version that "
                "wrote it, or another folder"
            )
        return stored


def open_store(folder: Path) -> StudyStore:
    """The store of a study that was begun in ``folder``.

    Raises:
        StudyError: there is none.
    """
    store = StudyStore(Path(folder))
    store.read()
    return store


def load_results(folder: Path) -> StudyResults:
    """Everything that a study's folder holds now, whether or not the study is finished.

    Raises:
        StudyError: there is no study in it.
    """
    return open_store(folder).results()


def study_status(folder: Path) -> list[dict[str, Any]]:
    """One JSON-able line per trial: trial, row, seed, state, step, steps, val_ppl, error.

    Raises:
        StudyError: there is no study in ``folder``.
    """
    return [
        {
            "trial": trial.name,
            "row": trial.row.label,
            "seed": trial.seed,
            "state": trial.state,
            "step": trial.step,
            "steps": trial.steps,
            "val_ppl": None if trial.result is None else trial.result.get("val_ppl"),
            "error": trial.error,
        }
        for trial in load_results(folder).trials
    ]


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _as_json(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(overrides)))


def _given(overrides: Mapping[str, Any], key: str) -> str:
    return repr(overrides[key]) if key in overrides else "not set"


def _revision() -> str | None:
    from ssmlab.training.environment import git_revision

    return git_revision()
