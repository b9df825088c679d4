"""``metrics.jsonl``: one line of JSON per logged step or evaluation, on disk at once."""

import json
from pathlib import Path
from typing import Any

from ssmlab.core.errors import StorageError
from ssmlab.core.files import storage_error, write_text

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends lines to a trial's metrics; opening it cuts off what a resume will do again.

    Args:
        folder: the trial's folder.
        step: lines beyond this step are removed, as is a half-written last line.
        total_steps: the final evaluation is always done again, so its line is removed too.
    """

    def __init__(self, folder: Path, step: int, total_steps: int) -> None:
        self.path = folder / METRICS_FILE
        lines = [
            line
            for line in read_metrics(folder)
            if line["step"] <= step and not (line["split"] == "val" and line["step"] >= total_steps)
        ]
        write_text(self.path, "".join(_dump(line) for line in lines))

    def append(self, **values: Any) -> None:
        """Add one line and hand it to the system at once, so that a kill loses nothing.

        Raises:
            StorageError: the line cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_dump(values))
        except OSError as error:
            raise storage_error(self.path, error) from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a trial's metrics, in order; empty if there are none yet.

    Reading stops at the first line that is cut off or not ours: what follows it was written by a
    process that died.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    path = folder / METRICS_FILE
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not (isinstance(line, dict) and isinstance(line.get("step"), int) and "split" in line):
            break
        lines.append(line)
    return lines


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
