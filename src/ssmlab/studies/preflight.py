"""Errors before work: models, devices, data and disk of all trials, before the first one runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssmlab.core.errors import ConfigError, DataError, SsmlabError, StudyError
from ssmlab.core.files import check_writable
from ssmlab.studies.events import OnStudyEvent, StudyEvent
from ssmlab.studies.store import StudyStore
from ssmlab.studies.study import Scale, Study, Trial

if TYPE_CHECKING:
    from ssmlab.data.config import TextDataConfig
    from ssmlab.data.text import TextData


def check_requirements(study: Study, scale: Scale, overrides: Mapping[str, Any]) -> None:
    """Prove that the user has given what only the user can give.

    Raises:
        StudyError: all that is missing, with what to do.
    """
    missing = [
        f"{key}: {wanted}" for key, wanted in scale.requires.items() if not overrides.get(key)
    ]
    if missing:
        raise StudyError(
            f"study {study.name} at scale {scale.name} needs settings of yours.\n"
            + "\n".join(f"  {line}" for line in missing)
        )


def preflight(
    store: StudyStore, trials: Sequence[Trial], workers: int, on_event: OnStudyEvent
) -> "dict[TextDataConfig, TextData]":
    """Check all trials and prepare their text.

    Returns:
        the prepared text of each data config, so that trials in this process need not do it again.

    Raises:
        StorageError: the folder cannot be written or has too little room.
        DataError: text that is missing, unreadable or too small; the trial is named.
        ConfigError: a model or device that cannot be; the trial is named.
    """
    check_writable(store.folder)
    _check_devices(trials)
    data = _prepare(trials, on_event)
    sizes = _build_models(trials, data)
    todo = [trial for trial in trials if not store.state(trial).finished]
    _check_room(store, todo, sizes, workers)
    on_event(
        StudyEvent(
            "preflight",
            total=len(trials),
            message=f"checked {len(trials)} trials: models, data, disk",
        )
    )
    return data


def _check_devices(trials: Sequence[Trial]) -> None:
    from ssmlab.training.device import select_device

    checked: set[str] = set()
    for trial in trials:
        name = trial.config.training.device
        if name in checked:
            continue
        checked.add(name)
        try:
            select_device(name)
        except ConfigError as error:
            raise _named(trial, error) from error


def _prepare(trials: Sequence[Trial], on_event: OnStudyEvent) -> "dict[TextDataConfig, TextData]":
    from ssmlab.data.text import prepare_text

    said: set[str] = set()

    def on_progress(stage: str, fraction: float) -> None:
        if stage not in said:  # one line a stage; the events of a study are not a progress bar
            said.add(stage)
            on_event(StudyEvent("prepare", total=len(trials), message=f"text: {stage}"))

    data: dict[TextDataConfig, TextData] = {}
    for trial in trials:
        config, seq_len = trial.config.data, trial.config.training.seq_len
        if config not in data:
            data[config] = prepare_text(config, on_progress)
            on_event(StudyEvent("prepare", total=len(trials), message=data[config].description))
        text = data[config]
        for split, count in (("training", text.n_train_tokens), ("validation", text.n_val_tokens)):
            if count < seq_len + 1:  # a window and the token after it
                raise DataError(
                    f"trial {trial.name}: the {split} text has {count} tokens ({text.description}), "
                    f"but training.seq_len={seq_len} needs at least {seq_len + 1}; give more text or "
                    "a smaller training.seq_len"
                )
    return data


def _build_models(
    trials: Sequence[Trial], data: "Mapping[TextDataConfig, TextData]"
) -> dict[str, int]:
    """Parameters of each trial's model, by trial name; built without memory."""
    from ssmlab.models.count import count_parameters
    from ssmlab.training.run import resolve

    counted: dict[Any, int] = {}
    sizes = {}
    for trial in trials:
        try:
            model = resolve(trial.config, data[trial.config.data].vocab_size).model
            if model not in counted:
                counted[model] = count_parameters(model)["total"]
        except (ConfigError, ValueError) as error:
            raise _named(trial, error) from error
        sizes[trial.name] = counted[model]
    return sizes


def _check_room(
    store: StudyStore, todo: Sequence[Trial], sizes: Mapping[str, int], workers: int
) -> None:
    from ssmlab.training.estimate import finished_disk_bytes, trial_disk_bytes

    kept = running = 0
    for trial in todo:
        save, size = trial.config.training.save_model, sizes[trial.name]
        kept += finished_disk_bytes(size, save)
        running = max(running, trial_disk_bytes(size, save))
    check_writable(store.folder, kept + workers * running)


def _named(trial: Trial, error: Exception) -> Exception:
    """The same error, saying which trial it is of."""
    kind = type(error) if isinstance(error, SsmlabError) else ConfigError
    return kind(f"trial {trial.name}: {error}")
