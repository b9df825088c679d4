"""Progress for people: bars on a terminal, a few plain lines elsewhere.

All of it goes to the standard error stream, so that a command's output stays its own.
"""

import math
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ssmlab.training.events import Event


class StudyEventLike(Protocol):
    """What is read of a study's event; the study's own class is not known here."""

    @property
    def kind(self) -> str: ...
    @property
    def trial(self) -> str | None: ...
    @property
    def index(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def event(self) -> Event | None: ...
    @property
    def message(self) -> str | None: ...


class _Display:
    """A rich progress display, or plain lines if the console is not a terminal."""

    def __init__(self, quiet: bool, console: Console | None) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self.bars: Progress | None = None
        if self.console.is_terminal and not quiet:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )

    def start(self) -> None:
        if self.bars:
            self.bars.start()

    def stop(self) -> None:
        if self.bars:
            self.bars.stop()

    def say(self, text: str, style: str | None = None, always: bool = False) -> None:
        """One line above the bars; warnings are said even when quiet."""
        if not self.quiet or always:
            self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def add(self, name: str, total: int) -> TaskID | None:
        return self.bars.add_task(escape(name), total=total, note="") if self.bars else None

    def update(self, task: TaskID | None, **values: Any) -> None:
        if self.bars and task is not None:
            self.bars.update(task, **values)

    def remove(self, task: TaskID | None) -> None:
        if self.bars and task is not None:
            self.bars.refresh()  # a trial shorter than the refresh interval is seen once, too
            self.bars.remove_task(task)


class _TrialBar:
    """One trial's bar: steps, loss, tokens per second; time left comes from the display."""

    def __init__(self, display: _Display, name: str) -> None:
        self.display, self.name = display, name
        self.task: TaskID | None = None
        self.loss: float | None = None
        self.speed: float | None = None
        self.val_loss: float | None = None

    def __call__(self, event: Event) -> None:
        if self.task is None:
            self.task = self.display.add(self.name, event.total_steps)
        if event.kind == "train":
            self.loss, self.speed = event.loss, event.tokens_per_second
        elif event.kind == "val":
            self.val_loss = event.loss
        elif event.kind in ("warning", "resume") and event.message:
            warning = event.kind == "warning"
            style = "yellow" if warning else "dim"
            text = f"{self.name}: {event.message}"
            self.display.say(text, style=style, always=warning)
        self.display.update(self.task, completed=event.step, note=escape(self.note()))

    def note(self) -> str:
        parts = []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.val_loss is not None:
            parts.append(f"val {self.val_loss:.3f}")
        if self.speed is not None:
            parts.append(f"{_short(self.speed)} tok/s")
        return "  ".join(parts)

    def close(self) -> None:
        self.display.remove(self.task)


class TrialProgress:
    """Shows one trial; pass it to ``run_trial`` as ``on_event`` inside a ``with`` block."""

    def __init__(
        self, name: str = "training", quiet: bool = False, console: Console | None = None
    ) -> None:
        self._display = _Display(quiet, console)
        self._bar = _TrialBar(self._display, name)
        self._name = name
        self._started = False

    def __enter__(self) -> "TrialProgress":
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()

    def __call__(self, event: Event) -> None:
        if not self._started and not self._display.bars:
            self._display.say(f"{self._name}: {event.total_steps} steps")
        self._started = True
        self._bar(event)
        if event.kind == "done":
            self._display.say(f"{self._name}: {_outcome(event)}")


class StudyProgress:
    """Shows a study: a bar over its trials and one for each trial that is running.

    A context manager, called with every study event.

    Args:
        quiet: say nothing but warnings.
        console: where to draw; the standard error stream by default.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._display = _Display(quiet, console)
        self._overall: TaskID | None = None
        self._trials: dict[str, _TrialBar] = {}
        self._ended = 0

    def __enter__(self) -> "StudyProgress":
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()

    def __call__(self, event: StudyEventLike) -> None:
        name = event.trial or "study"
        if event.kind in ("prepare", "preflight", "reuse", "start", "done"):
            if event.message:
                self._display.say(event.message, style="dim")
        elif event.kind == "warning":
            if event.message:
                text = f"{event.trial}: {event.message}" if event.trial else event.message
                self._display.say(text, style="yellow", always=True)
        elif event.kind == "trial-start":
            self._count(event)
            self._trials[name] = _TrialBar(self._display, f"  {name}")
            if not self._display.bars:
                self._display.say(f"trial {event.index}/{event.total} · {name}")
        elif event.kind == "trial-event" and event.event is not None:
            bar = self._trials.setdefault(name, _TrialBar(self._display, f"  {name}"))
            bar(event.event)
            if event.event.kind == "done":
                self._display.say(
                    f"trial {event.index}/{event.total} · {name}: {_outcome(event.event)}"
                )
        elif event.kind in ("trial-done", "trial-skipped"):
            self._ended += 1
            self._count(event)
            bar = self._trials.pop(name, None)
            if bar:
                bar.close()

    def _count(self, event: StudyEventLike) -> None:
        if self._overall is None:
            self._overall = self._display.add("study", event.total)
        label = f"trial {event.index}/{event.total}"
        if event.trial:
            label += f" · {event.trial}"
        self._display.update(
            self._overall, total=event.total, completed=self._ended, description=escape(label)
        )


def _outcome(event: Event) -> str:
    if event.loss is None:
        return event.message or "done"
    text = f"validation perplexity {math.exp(event.loss):.3f} after {event.step} steps"
    if event.tokens_per_second:
        text += f", {_short(event.tokens_per_second)} tokens/s"
    return text


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
