"""One attempt at one trial: take its lock, run it, keep what became of it."""

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssmlab.core.errors import Interrupted, SsmlabError, StorageError
from ssmlab.studies.store import StudyStore

if TYPE_CHECKING:
    from ssmlab.data.text import TextData
    from ssmlab.training.config import TrialConfig
    from ssmlab.training.events import Event

Outcome: TypeAlias = Literal["done", "diverged", "failed", "skipped", "held", "stopped", "no-room"]


@dataclass(frozen=True)
class Attempt:
    """What became of an attempt.

    Attributes:
        outcome: ``done`` and ``diverged`` are final. ``failed``: an error, kept in the trial's
            folder. ``skipped``: another process has finished it. ``held``: another process is at it.
            ``stopped``: on request, saved. ``no-room``: the folder cannot be written, so that other
            trials would fail too.
        message: what a person should read, if anything.
    """

    outcome: Outcome
    message: str | None = None


def attempt(
    store: StudyStore,
    name: str,
    config: "TrialConfig",
    *,
    data: "Callable[[], TextData]",
    on_start: Callable[[], None],
    on_event: "Callable[[Event], None]",
    should_stop: Callable[[], bool],
) -> Attempt:
    """Run one trial if no other process is at it.

    Args:
        store: the study's folder.
        name: the trial's name.
        config: the trial.
        data: gives the prepared text.
        on_start: called once the lock is ours.
        on_event: told what the trial tells.
        should_stop: asked after every step.
    """
    from ssmlab.training import run_trial
    from ssmlab.training.result import is_done

    try:
        lock = store.lock(name)
    except StorageError as error:
        return Attempt("no-room", str(error))
    if lock is None:
        return Attempt("held")

    def stop_or_lost() -> bool:
        lock.check()
        return should_stop()

    with lock:
        try:
            if is_done(store.trial_folder(name)):
                return Attempt("skipped")
            on_start()
            store.forget_failure(name)
            result = run_trial(
                config,
                store.trial_folder(name),
                on_event=on_event,
                should_stop=stop_or_lost,
                data=data(),
            )
        except Interrupted as stop:
            return Attempt("stopped", str(stop))
        except StorageError as error:
            return Attempt("no-room", str(error))
        except Exception as error:
            text = str(error) if isinstance(error, SsmlabError) else _named(error)
            if not lock.lost:
                store.record_failure(name, text, traceback.format_exc())
            return Attempt("failed", text)
    return Attempt("done" if result.status == "ok" else "diverged", result.reason)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish to stop; asked by calling it.

    A context manager. The first signal asks for a clean stop, a second Ctrl-C or SIGTERM
    interrupts at once. Outside the main thread signals cannot be caught and nothing is done.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once; the last checkpoint counts")
        self.asked = True


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Processes started in here do not get the terminal's Ctrl-C; their parent tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _named(error: Exception) -> str:
    """An error that is not the user's, with its type: its text alone may say nothing."""
    return f"{type(error).__name__}: {error}"
