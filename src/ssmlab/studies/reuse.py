"""Trials that several studies have in common run once: finished ones are taken over from elsewhere.

Whether two trials are the same is decided by what decides a result: the effective config (seed
included), the tokens by their digest, and the kind of device. Names and paths do not matter.
"""

import contextlib
import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlab.core.errors import ConfigError, StorageError, StudyError
from ssmlab.core.files import storage_error, write_atomic, write_json
from ssmlab.studies.archive import study_folder
from ssmlab.studies.events import OnStudyEvent, StudyEvent
from ssmlab.studies.locks import exclusive, living_holder
from ssmlab.studies.store import ORIGIN_FILE, StudyResults, StudyStore, TrialRecord, load_results
from ssmlab.studies.study import Trial

if TYPE_CHECKING:
    from ssmlab.data.config import TextDataConfig
    from ssmlab.data.text import TextData
    from ssmlab.training.config import TrialConfig

_STAGED, _REPLACED = ".taking-over", ".replaced"


@contextlib.contextmanager
def open_sources(store: StudyStore, paths: Sequence[Path]) -> Iterator[list[StudyResults]]:
    """What other studies hold, in folders or packed files; the study's own folder is passed over.

    Raises:
        StudyError: a folder without a study, or a file that is none.
    """
    own = store.folder.resolve()
    with contextlib.ExitStack() as stack:
        sources = []
        for path in map(Path, paths):
            if path.resolve() == own:
                continue
            try:
                sources.append(load_results(stack.enter_context(study_folder(path))))
            except StudyError as error:
                raise StudyError(f"nothing to take over: {error}") from error
        yield sources


def take_over(
    store: StudyStore,
    trials: Sequence[Trial],
    data: "Mapping[TextDataConfig, TextData]",
    sources: Sequence[StudyResults],
    on_event: OnStudyEvent,
    *,
    any_device: bool = False,
) -> None:
    """Copy what ``sources`` have finished of ``trials`` into the folder, and tell how many.

    Each trial appears in the folder whole or not at all. Trials that are finished here, or that a
    living process is at, are left alone. With ``any_device`` it is not this machine's kind of device
    that counts, but the one that most of the trials there ran on.

    Raises:
        StorageError: the folder cannot be written.
    """
    from ssmlab.training.device import select_device
    from ssmlab.training.run import resolve

    found: dict[tuple[str, str], list[tuple[StudyResults, TrialRecord]]] = {}
    for source in sources:
        for record in source.trials:
            if record.finished and (key := _key_of_record(record)) is not None:
                found.setdefault(key, []).append((source, record))
    taken, elsewhere = Counter[str](), Counter[str]()
    kinds = Counter(_device(record) for pairs in found.values() for _, record in pairs)
    there = kinds.most_common(1)[0][0] if kinds else ""
    for trial in trials:
        if store.state(trial).finished:
            continue
        text = data[trial.config.data]
        config = resolve(trial.config, text.vocab_size)
        same = found.get(_key(config, text.key), [])
        kind = there if any_device else select_device(config.training.device).type
        fitting = [pair for pair in same if _device(pair[1]) == kind and _has_all(pair[1], config)]
        if fitting:
            source, record = fitting[0]
            taken[source.study.name] += _copy(store, trial, config, source, record)
        elif same and _device(same[0][1]) != kind:
            elsewhere[_device(same[0][1])] += 1
    message = f"{taken.total()} of {len(trials)} trials taken over"
    if taken.total():
        names = ", ".join(f"{name} ({count})" for name, count in taken.items() if count)
        message += f" from other studies: {names}"
    if elsewhere:
        where = ", ".join(f"{count} on {kind}" for kind, count in elsewhere.items())
        message += f"; not those that ran on another kind of device ({where})"
    on_event(StudyEvent("reuse", total=len(trials), message=message))


def _key(config: "TrialConfig", data_key: str) -> tuple[str, str]:
    """Digests of all that decides the result, device aside: the text counts by its tokens."""
    from ssmlab.core.config import config_hash
    from ssmlab.data.config import TextDataConfig

    without_text = dataclasses.replace(config.effective(), data=TextDataConfig())
    return config_hash(without_text, length=64), data_key


def _key_of_record(record: TrialRecord) -> tuple[str, str] | None:
    """The same of a finished trial; None if its folder does not tell, or tells of another version."""
    from ssmlab.core.config import from_dict
    from ssmlab.training.config import TrialConfig

    stored, environment = record.config(), record.environment() or {}
    data_key = (environment.get("data") or {}).get("key")
    if stored is None or not isinstance(data_key, str):
        return None
    try:
        config = from_dict(TrialConfig, stored)
        # What is in the checkpoint that it started from is not recorded.
        return None if config.init_from is not None else _key(config, data_key)
    except ConfigError:
        return None


def _device(record: TrialRecord) -> str:
    return str((record.result or {}).get("device")).partition(":")[0]


def _has_all(record: TrialRecord, config: "TrialConfig") -> bool:
    """Whether the weights are there, if they are wanted."""
    from ssmlab.training.run import MODEL_FILE

    wanted = config.training.save_model and record.state == "done"
    return not wanted or (record.folder / MODEL_FILE).exists()


def _copy(
    store: StudyStore,
    trial: Trial,
    config: "TrialConfig",
    source: StudyResults,
    record: TrialRecord,
) -> bool:
    """Put a finished trial in this one's place; False if another process is at it or was first.

    What is half done is made out of the trials' folder, where nobody looks, under the mutex that
    locks change hands under: whatever lies there was left by a process that was killed.
    """
    from ssmlab.core.config import to_dict
    from ssmlab.training.folder import CONFIG_FILE
    from ssmlab.training.metrics import METRICS_FILE
    from ssmlab.training.result import DONE_FILE, RESULT_FILE
    from ssmlab.training.run import ENVIRONMENT_FILE, MODEL_FILE, TOKENIZER_FILE

    folder = store.trial_folder(trial.name)
    staged, replaced = store.folder / _STAGED, store.folder / _REPLACED
    files = (ENVIRONMENT_FILE, METRICS_FILE, RESULT_FILE, MODEL_FILE, TOKENIZER_FILE, DONE_FILE)
    origin: dict[str, Any] = record.origin() or {"study": source.study.name, "trial": record.name}
    with exclusive(store.mutex) as now:
        if store.state(trial).finished or living_holder(folder, now) is not None:
            return False
        try:
            for left in (staged, replaced):
                if left.exists():
                    shutil.rmtree(left)
            staged.mkdir()
            for name in files:
                if (record.folder / name).exists():
                    write_atomic(staged / name, partial(_copy_file, record.folder / name))
            write_json(staged / CONFIG_FILE, to_dict(config))
            write_json(staged / ORIGIN_FILE, origin)
            folder.parent.mkdir(exist_ok=True)
            if folder.exists():  # begun or failed here: nothing in it is worth the finished one
                folder.rename(replaced)
            staged.rename(folder)
            if replaced.exists():
                shutil.rmtree(replaced)
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(folder, error) from error
    return True


def _copy_file(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
