"""Run a whole study, or go on with one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmlab.core.errors import Interrupted, StudyError
from ssmlab.core.files import leaving_no_empty_folder
from ssmlab.studies.events import OnStudyEvent, StudyEvent
from ssmlab.studies.executor import LocalExecutor, Tally
from ssmlab.studies.preflight import check_requirements, preflight
from ssmlab.studies.reuse import open_sources, take_over
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
    reuse: Sequence[Path] = (),
    collect: bool = False,
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
        reuse: folders of other studies, or files they are packed in. A trial that one of them has
            finished, with a config that cannot but give the same result, is taken over from there
            instead of run.
        collect: run nothing: only take over what ``reuse`` has finished, on whatever kind of device
            most of it ran. So a table is made of a queue's trials on a machine without a GPU.
        on_event: told of everything.

    Returns:
        what the folder holds at the end.

    Raises:
        StudyError: the folder holds something else, ``reuse`` names a folder without a study (or
            nothing, to ``collect`` from), or trials failed (named, the others are done).
        ConfigError, DataError, StorageError: found before the first trial; nothing has run.
        Interrupted: Ctrl-C or SIGTERM; running trials were saved, and the same call goes on.
    """
    tell = (lambda event: None) if on_event is None else on_event
    executor = LocalExecutor(workers)
    if collect and not reuse:
        raise StudyError("collect: nothing to take trials over from; give --reuse DIR or FILE")
    chosen = study.scale(scale)
    changes = {**(overrides or {})}
    store = StudyStore(Path(out))
    if seeds is None:
        seeds = max(chosen.seeds, store.stored_seeds())
    trials = study.trials(scale, seeds, changes)
    check_requirements(study, chosen, changes)
    store.check_same(study, scale, changes, trials)
    with open_sources(store, reuse) as sources:
        with leaving_no_empty_folder(store.folder):
            data = preflight(store, trials, workers, tell)
            store.begin(study, scale, seeds, changes, trials)
        if sources:
            take_over(store, trials, data, sources, tell, any_device=collect)
    if collect:
        return store.results()
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
