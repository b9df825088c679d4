"""A study packed into one small file: all that its folder says, without weights and checkpoints.

The file is JSON lines under xz. The first line says what it is and holds ``study.json``; then comes a
line for each trial, in the study's order, with its config, environment, result, origin, failure and
metrics, as far as there are some. The same folder gives the same bytes.

What tells of the machine's owner stays behind: host name, operating system (its version may name who
built it), command line, traceback and the folders of absolute paths, of which the last part alone
is kept.
"""

import contextlib
import json
import lzma
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from ssmlab.core.errors import StorageError, StudyError
from ssmlab.core.files import (
    leaving_no_empty_folder,
    storage_error,
    write_atomic,
    write_json,
    write_text,
)
from ssmlab.studies.store import (
    FAILED_FILE,
    FORMAT,
    ORIGIN_FILE,
    STUDY_FILE,
    StudyStore,
    TrialRecord,
    load_results,
    read_json,
)

_FORMAT, _VERSION = "ssmlab packed study", 1
_OWNERS = ("host", "platform", "argv")  # of environment.json, what stays behind
# In study.json, keys whose values are settings; all else there is text for people.
_SETTINGS = ("base", "changes", "overrides", "sizes")
# The folders of an absolute path amid text, blanks in their names included; a URL is none.
_FOLDERS = re.compile(r"(?<![\w.~/:])/(?:[^/\n'\":;,()]+/)+")


def pack_study(folder: Path, file: Path, *, force: bool = False) -> None:
    """Write all that a study's folder says into one file.

    Args:
        folder: the study's folder, finished or not.
        file: the file to write, by custom named ``*.jsonl.xz``.
        force: overwrite ``file`` if it is there.

    Raises:
        StudyError: no study in ``folder``, a result in it cannot be read, or ``file`` is there.
        StorageError: ``file`` cannot be written; one that was there is as it was.
    """
    store = StudyStore(Path(folder))
    stored, results = store.read(), store.results()
    if Path(file).exists() and not force:
        raise StudyError(f"{file} is there already; give another name, or --force to overwrite it")
    lines = [
        {"format": _FORMAT, "version": _VERSION, "study": _settings_without_folders(stored)},
        *map(_trial_line, results.trials),
    ]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    packed = lzma.compress(text.encode(), preset=9)

    def write(temporary: Path) -> None:
        temporary.write_bytes(packed)

    write_atomic(file, write)


def unpack_study(file: Path, folder: Path) -> None:
    """Make a study's folder out of a packed file; the folder appears whole or not at all.

    Raises:
        StudyError: ``file`` is missing, damaged, cut off, of another version or none of ours; or
            there is something in ``folder``.
        StorageError: ``folder`` cannot be written.
    """
    file, folder = Path(file), Path(folder)
    study, trials = _read(file)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StudyError(
            f"{folder} is there and not empty; give a new folder to unpack {file} into"
        )
    with leaving_no_empty_folder(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent
            ) as staged:
                # One level down, where a folder has the rights that the user's own would have.
                made = Path(staged) / "study"
                _write(file, made, study, trials)
                os.replace(made, folder)
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(folder, error) from error


@contextlib.contextmanager
def study_folder(path: Path) -> Iterator[Path]:
    """The folder of a study: ``path`` itself, or what is packed in file ``path``, while in use.

    Raises:
        StudyError: the file cannot be unpacked; see ``unpack_study``.
    """
    if not Path(path).is_file():
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="ssmlab-study-") as temporary:
        folder = Path(temporary) / "study"
        unpack_study(path, folder)
        yield folder


def archive_stem(file: Path) -> str:
    """The name of a packed file without its suffixes: ``table7`` of ``table7.jsonl.xz``."""
    return file.name.removesuffix(".xz").removesuffix(".jsonl")


def _trial_line(record: TrialRecord) -> dict[str, Any]:
    from ssmlab.training.result import is_done

    if is_done(record.folder) and not record.finished:
        raise StudyError(f"trial {record.name}: {record.error}")
    environment, failure = record.environment(), read_json(record.folder / FAILED_FILE)
    told = {
        "config": _every_text(record.config(), _last_part),
        "environment": None if environment is None else _anonymous(environment),
        "result": _every_text(record.result, _without_folders),
        "origin": record.origin(),
        "failure": _every_text(failure and {**failure, "traceback": ""}, _without_folders),
        "metrics": record.metrics(),
    }
    return {"name": record.name, **{key: value for key, value in told.items() if value}}


def _write_trial(folder: Path, trial: Mapping[str, Any]) -> None:
    from ssmlab.training.folder import CONFIG_FILE
    from ssmlab.training.metrics import METRICS_FILE
    from ssmlab.training.result import DONE_FILE, RESULT_FILE
    from ssmlab.training.run import ENVIRONMENT_FILE

    files = {
        "config": CONFIG_FILE,
        "environment": ENVIRONMENT_FILE,
        "result": RESULT_FILE,
        "origin": ORIGIN_FILE,
        "failure": FAILED_FILE,
    }
    for key, name in files.items():
        if key in trial:
            write_json(folder / name, trial[key])
    if "metrics" in trial:
        text = "".join(json.dumps(line) + "\n" for line in trial["metrics"])
        write_text(folder / METRICS_FILE, text)
    if "result" in trial:  # that of a finished trial; no other is packed
        write_text(folder / DONE_FILE, "")


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """study.json and the trials' lines of a packed file, as far as its lines tell without a study."""
    try:
        with lzma.open(file, "rt", encoding="utf-8") as opened:
            head, *trials = map(json.loads, opened)
    except FileNotFoundError:
        raise StudyError(f"no file {file}; give one that 'ssmlab study pack' wrote") from None
    except EOFError as error:
        raise StudyError(f"{file} is cut off; get it again from where it came from") from error
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise StudyError(
            f"{file} cannot be read as a packed study: {error}; it is damaged, or was not written by "
            "'ssmlab study pack'"
        ) from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise StudyError(f"{file} is no packed study; give a file that 'ssmlab study pack' wrote")
    try:
        versions = [head["version"], head["study"]["format"]]
        if versions != [_VERSION, FORMAT]:
            raise StudyError(
                f"{file} is a packed study of version {versions}, and this ssmlab reads "
                f"{[_VERSION, FORMAT]}; use the ssmlab that wrote it, or a newer one"
            )
        names = [trial["name"] for trial in head["study"]["trials"]]
        found = [trial["name"] for trial in trials]
    except (KeyError, TypeError, AttributeError) as error:
        raise _altered(file, f"{type(error).__name__}: {error}") from error
    if names != found:
        raise _altered(file, f"of the {len(names)} trials that it should hold it has {len(found)}")
    for name in names:
        if not isinstance(name, str) or name in (".", "..") or re.search(r"[/\\\0]", name or "/"):
            raise _altered(file, f"{name!r} cannot be a trial's name")
    return head["study"], trials


def _write(file: Path, folder: Path, study: Any, trials: list[dict[str, Any]]) -> None:
    """Write the folder, and prove that it reads back as a study with these results and metrics."""
    try:
        write_json(folder / STUDY_FILE, study)
        for trial in trials:
            _write_trial(folder / "trials" / trial["name"], trial)
        for record, trial in zip(load_results(folder).trials, trials, strict=True):
            if record.finished != ("result" in trial):
                raise _altered(file, f"the result of trial {record.name} is none")
            if record.metrics() != trial.get("metrics", []):
                raise _altered(file, f"the metrics of trial {record.name} are none")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _altered(file, f"{type(error).__name__}: {error}") from error


def _altered(file: Path, why: str) -> StudyError:
    return StudyError(f"{file} was altered since it was packed: {why}; get it again")


def _anonymous(environment: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in environment.items() if key not in _OWNERS}
    # A study of the user's own is named by its file, which the report's command needs.
    named = [arg for arg in environment.get("argv") or () if ".py:" in str(arg)][:1]
    return _every_text({**kept, "argv": named} if named else kept, _without_folders)


def _settings_without_folders(stored: Any) -> Any:
    """study.json with the absolute paths among its settings cut down to their last parts."""
    if isinstance(stored, Mapping):
        return {
            key: _every_text(value, _last_part)
            if key in _SETTINGS
            else _settings_without_folders(value)
            for key, value in stored.items()
        }
    if isinstance(stored, list):
        return [_settings_without_folders(value) for value in stored]
    return stored


def _every_text(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed."""
    if isinstance(value, Mapping):
        return {key: _every_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_every_text(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def _last_part(setting: str) -> str:
    """The last part of an absolute path; any other setting as it is."""
    kinds: tuple[type[PurePath], ...] = (PurePosixPath, PureWindowsPath)
    for kind in kinds:
        if kind(setting).is_absolute():
            return kind(setting).name
    return setting


def _without_folders(text: str) -> str:
    """Words for people, with the absolute paths among them cut down to their last parts."""
    return _FOLDERS.sub("", text)
