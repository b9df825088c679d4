"""Run a whole study, or go on with one."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmlab.core.errors import Interrupted, StudyError
from ssmlab.studies.events import OnStudyEvent, StudyEvent
from ssmlab.studies.executor import LocalExecutor, Tally
from ssmlab.studies.preflight import check_requirements, preflight
from ssmlab.studies.store import StudyResults, StudyStore
from ssmlab.studies.study import Study


def run_study(
    study: Study,
    out: Path,
    *,
    scale: str = "quick",
    seeds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    workers: int = 1,
    on_event: OnStudyEvent | None = None,
) -> StudyResults:
    """Run all trials of a study in folder ``out``, going on from whatever is there.

    Everything is checked before the first trial. Finished trials are never run again, half-done ones
    go on from their last checkpoint, failed ones are tried again. All rows of one seed run before the
    next seed, so that every row has a figure early.

    Args:
        study: what to run.
        out: the study's folder, made if it is not there.
        scale: one of the study's scales.
        seeds: seeds of each row; None for the scale's own number, or what the folder already has
            if that is more.
        overrides: dotted keys of ``TrialConfig`` that win over the study's own.
        workers: trials side by side, each in a process of its own.
        on_event: told of everything.

    Returns:
        what the folder holds at the end.

    Raises:
        StudyError: the folder holds something else, or trials failed (named, the others are done).
        ConfigError, DataError, StorageError: found before the first trial; nothing has run.
        Interrupted: Ctrl-C or SIGTERM; running trials were saved, and the same call goes on.
    """
    tell = (lambda event: None) if on_event is None else on_event
    executor = LocalExecutor(workers)
    chosen = study.scale(scale)
    changes = {**(overrides or {})}
    store = StudyStore(Path(out))
    if seeds is None:
        seeds = max(chosen.seeds, store.stored_seeds())
    trials = study.trials(scale, seeds, changes)
    check_requirements(study, chosen, changes)
    store.check_same(study, scale, changes, trials)
    with _leaving_no_empty_folder(store.folder):
        data = preflight(store, trials, workers, tell)
        store.begin(study, scale, seeds, changes, trials)
    tell(
        StudyEvent(
            "start",
            total=len(trials),
            message=f"{study.title}: {len(trials)} trials ({len(study.rows())} rows x {seeds} seeds) "
            f"at scale {scale} in {store.folder}",
        )
    )
    tally = executor.run(store, trials, data, tell)
    _conclude(store, tally, len(trials))
    message = f"{len(tally.finished)} of {len(trials)} trials are done"
    if tally.elsewhere:
        message += f"; other processes are at {len(tally.elsewhere)}"
    tell(StudyEvent("done", total=len(trials), message=message))
    return store.results()


def _conclude(store: StudyStore, tally: Tally, total: int) -> None:
    if tally.stopped:
        raise Interrupted(
            f"{len(tally.finished)} of {total} trials are done, running ones were saved in "
            f"{store.folder}; run the same command again to go on"
        )
    if tally.failed:
        shown = list(tally.failed.items())[:3]
        lines = "".join(f"\n  {name}: {error}" for name, error in shown)
        more = f"\n  and {len(tally.failed) - 3} more" if len(tally.failed) > 3 else ""
        raise StudyError(
            f"{len(tally.failed)} of {total} trials failed:{lines}{more}\n"
            f"Tracebacks are in their folders (failed.json). {len(tally.finished)} are done: "
            f"'ssmlab study report {store.folder}' reports on those; run the same command again to "
            "try the others again"
        )


class _leaving_no_empty_folder(contextlib.AbstractContextManager):
    """On an error, remove ``folder`` and its parents that were made for nothing."""

    def __init__(self, folder: Path) -> None:
        self.made = [path for path in (folder, *folder.parents) if not path.exists()]

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            return
        for path in self.made:
            with contextlib.suppress(OSError):
                path.rmdir()
