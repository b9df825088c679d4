"""The paper's studies and ours beyond it, as data; how a study is found by its name or in a file."""

import importlib
import importlib.util
import sys
from pathlib import Path

from ssmlab.core.errors import StudyError
from ssmlab.studies.study import Study, nearest

__all__ = ["get_study", "study_names"]

# Name -> module and variable, imported when asked for.
_STUDIES = {
    "table6": ("ssmlab.paper.table6", "TABLE6"),
    "table7": ("ssmlab.paper.table7", "TABLE7"),
    "table8": ("ssmlab.paper.table8", "TABLE8"),
    "table9": ("ssmlab.paper.table9", "TABLE9"),
    "table10": ("ssmlab.paper.table10", "TABLE10"),
    "hybrids": ("ssmlab.paper.hybrids", "HYBRIDS"),
    "pairs": ("ssmlab.paper.beyond", "PAIRS"),
    "state": ("ssmlab.paper.beyond", "STATE"),
    "selective-a": ("ssmlab.paper.beyond", "SELECTIVE_A"),
    "spread": ("ssmlab.paper.beyond", "SPREAD"),
    "ssd": ("ssmlab.paper.ssd", "SSD"),
    "rates": ("ssmlab.paper.rates", "RATES"),
    "attention-rates": ("ssmlab.paper.rates", "ATTENTION_RATES"),
    "kernel-rates": ("ssmlab.paper.rates", "KERNEL_RATES"),
    "lengths": ("ssmlab.paper.lengths", "LENGTHS"),
    "replication": ("ssmlab.paper.replication", "REPLICATION"),
}


def study_names() -> list[str]:
    """The names of the paper's studies, in its order, then of ours, then the one of all."""
    return list(_STUDIES)


def get_study(name: str) -> Study:
    """The study called ``name``, or ``NAME`` in a file of the user's, as ``path/to/file.py:NAME``.

    Raises:
        StudyError: there is no such study or file, or the file cannot be run; the nearest is named.
    """
    path, colon, variable = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path).expanduser(), variable)
    if name.endswith(".py"):
        raise StudyError(f"which study of {name}? Give its variable too, as {name}:NAME")
    if name not in _STUDIES:
        raise StudyError(
            f"unknown study '{name}': {nearest(name, _STUDIES)} "
            "(a study of your own is path/to/file.py:NAME)"
        )
    module, variable = _STUDIES[name]
    return getattr(importlib.import_module(module), variable)


def _from_file(path: Path, variable: str) -> Study:
    if not path.is_file():
        raise StudyError(f"no such file: {path}; a study of your own is path/to/file.py:NAME")
    module_name = f"ssmlab_user_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # What the file imports from beside itself is found, as when Python runs it.
    sys.path.insert(0, str(path.parent.absolute()))
    sys.modules[module_name] = module  # dataclasses in the file look themselves up here
    try:
        spec.loader.exec_module(module)
    except StudyError:
        raise
    except Exception as error:
        del sys.modules[module_name]
        raise StudyError(f"cannot run {path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.absolute()))
    studies = {name: value for name, value in vars(module).items() if isinstance(value, Study)}
    if variable not in studies:
        if not studies:
            raise StudyError(f"{path} has no Study in it; see docs/studies.md for how to write one")
        raise StudyError(f"{path} has no Study called '{variable}': {nearest(variable, studies)}")
    return studies[variable]
