"""Trials side by side: processes that are each given one trial at a time, over a pipe each.

No queue and no lock is shared between them, so that one that is killed takes nothing with it.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ssmlab.studies.attempt import Attempt, attempt, ignoring_interrupts
from ssmlab.studies.store import StudyStore
from ssmlab.studies.study import Trial

if TYPE_CHECKING:
    from ssmlab.data.config import TextDataConfig
    from ssmlab.data.text import TextData

STARTED, EVENT, ENDED = "started", "event", "ended"


class Worker:
    """A process that runs trials, seen from its parent.

    Attributes:
        trial: the trial it was given, if it is at one.
    """

    def __init__(self, store: StudyStore, slot: int, workers: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.trial: Trial | None = None
        self.process = context.Process(
            target=_work,
            args=(theirs, store.folder, slot, workers, os.getpid()),
            name=f"ssmlab-trial-{slot}",
            daemon=True,
        )
        with ignoring_interrupts():
            self.process.start()
        theirs.close()

    def give(self, trial: Trial) -> None:
        """Give it a trial to run. One that has died is found out when it is next listened to."""
        self.trial = trial
        with contextlib.suppress(OSError):
            self.connection.send((trial.name, trial.config))

    def ask_to_stop(self) -> None:
        """Ask it to save its trial and end."""
        if self.process.is_alive():
            self.process.terminate()

    def close(self) -> None:
        """Let it end if it is idle; end it if it is not."""
        self.connection.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(connection: Connection, folder: Path, slot: int, workers: int, parent: int) -> None:
    """What a worker process does: trials, until its parent says no more or is gone."""
    stop = _asked_to_stop(parent)
    _share_machine(slot, workers)
    store = StudyStore(folder)
    texts: dict[TextDataConfig, TextData] = {}

    def tell(kind: str, value: Any = None) -> None:
        with contextlib.suppress(OSError):  # the parent is gone; should_stop sees that too
            connection.send((kind, value))

    while not stop():
        try:
            # Woken now and then, so that an idle worker sees that it should end.
            if not connection.poll(1.0):
                continue
            name, config = connection.recv()
        except (EOFError, OSError):
            return

        def text(data_config: "TextDataConfig" = config.data) -> "TextData":
            from ssmlab.data.text import prepare_text

            if data_config not in texts:
                texts[data_config] = prepare_text(data_config)
            return texts[data_config]

        ended: Attempt = attempt(
            store,
            name,
            config,
            data=text,
            on_start=lambda: tell(STARTED),
            on_event=lambda event: tell(EVENT, event),
            should_stop=stop,
        )
        tell(ENDED, ended)


def _asked_to_stop(parent: int) -> Callable[[], bool]:
    """Whether the parent has sent SIGTERM, or is no more."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: asked or os.getppid() != parent


def _share_machine(slot: int, workers: int) -> None:
    """Each worker gets its share of the cores, and its own GPU as far as they go."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, (cores or 1) // workers))
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
