"""Run a study's trials on this machine, one after another or several side by side."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from ssmlab.core.errors import StorageError, StudyError
from ssmlab.studies.attempt import Attempt, StopRequest, attempt
from ssmlab.studies.events import OnStudyEvent, StudyEvent, StudyEventKind
from ssmlab.studies.store import StudyStore
from ssmlab.studies.study import Trial
from ssmlab.studies.workers import ENDED, EVENT, STARTED, Worker

if TYPE_CHECKING:
    from ssmlab.data.config import TextDataConfig
    from ssmlab.data.text import TextData
    from ssmlab.training.events import Event


@dataclass
class Tally:
    """How a run over the trials went, by trial names.

    Attributes:
        finished: done or diverged, before or now.
        failed: with the error of each.
        elsewhere: held by other processes.
        stopped: whether it was asked to stop.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    stopped: bool = False


class LocalExecutor:
    """Runs trials in order: in this process, or in ``workers`` processes side by side.

    Args:
        workers: 1 for this process alone.

    Raises:
        StudyError: workers below 1.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise StudyError(f"workers: expected at least 1, got {workers}")
        self.workers = workers

    def run(
        self,
        store: StudyStore,
        trials: Sequence[Trial],
        data: "Mapping[TextDataConfig, TextData]",
        on_event: OnStudyEvent,
    ) -> Tally:
        """Run what is not finished. A trial that fails is recorded and the others go on.

        Ctrl-C or SIGTERM stops cleanly: each running trial is saved first.

        Raises:
            StorageError: the folder cannot be written any more.
        """
        run = _Run(store, trials, on_event)
        run.skip_finished()
        with StopRequest() as stop:
            run.should_stop = stop
            if self.workers == 1 or len(run.todo) <= 1:
                run.here(data)
            else:
                run.side_by_side(min(self.workers, len(run.todo)))
        return run.tally


class _Run:
    """One run over the trials."""

    def __init__(self, store: StudyStore, trials: Sequence[Trial], on_event: OnStudyEvent) -> None:
        self.store, self.trials, self.on_event = store, trials, on_event
        self.index = {trial.name: i for i, trial in enumerate(trials, start=1)}
        self.todo: deque[Trial] = deque()
        self.held: list[Trial] = []
        self.tally = Tally()
        self.should_stop: Callable[[], bool] = lambda: False
        self.said_stopping = False

    def skip_finished(self) -> None:
        for trial in self.trials:
            if self.store.state(trial).finished:
                self.tally.finished.append(trial.name)
                self.tell("trial-skipped", trial)
            else:
                self.todo.append(trial)

    def here(self, data: "Mapping[TextDataConfig, TextData]") -> None:
        """All trials in this process; those held by others are tried once more at the end."""
        for last in (False, True):
            while self.todo and not self._stopping():
                trial = self.todo.popleft()
                config = trial.config
                ended = attempt(
                    self.store,
                    trial.name,
                    config,
                    data=lambda config=config: data[config.data],
                    on_start=lambda trial=trial: self.tell("trial-start", trial),
                    on_event=lambda event, trial=trial: self.tell("trial-event", trial, event),
                    should_stop=self._stopping,
                )
                self.note(trial, ended)
            if not last:
                self.todo.extend(self.held)
                self.held.clear()
        self._end()

    def side_by_side(self, count: int) -> None:
        """The trials in ``count`` processes; one that dies is replaced, its trial has failed."""
        workers: dict[Connection, Worker] = {}
        slots = list(range(count))
        told_to_stop = retried = False
        try:
            while True:
                stopping = self._stopping()
                if stopping and not told_to_stop:
                    told_to_stop = True
                    for worker in workers.values():
                        worker.ask_to_stop()
                busy = any(worker.trial for worker in workers.values())
                if not self.todo and not busy and self.held and not retried:
                    retried = True
                    self.todo.extend(self.held)
                    self.held.clear()
                if not busy and (stopping or not self.todo):
                    break
                if not stopping:
                    while slots and len(self.todo) > sum(not w.trial for w in workers.values()):
                        worker = Worker(self.store, slots.pop(0), count)
                        workers[worker.connection] = worker
                    for worker in workers.values():
                        if worker.trial is None and self.todo:
                            worker.give(self.todo.popleft())
                for ready in wait(list(workers), timeout=0.2):
                    assert isinstance(ready, Connection)
                    worker = workers[ready]
                    if not self._hear(worker):
                        del workers[ready]
                        slots.append(int(worker.process.name.rpartition("-")[2]))
        except BaseException:
            for worker in workers.values():
                worker.process.kill()
            raise
        finally:
            for worker in workers.values():
                worker.close()
        self._end()

    def _hear(self, worker: Worker) -> bool:
        """Take what a worker says; False if it has died."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            worker.close()
            trial, worker.trial = worker.trial, None
            if trial is not None:
                self._mourn(trial, worker.process.exitcode)
            return False
        trial = worker.trial
        assert trial is not None
        if kind == STARTED:
            self.tell("trial-start", trial)
        elif kind == EVENT:
            self.tell("trial-event", trial, value)
        elif kind == ENDED:
            worker.trial = None
            self.note(trial, value)
        return True

    def _mourn(self, trial: Trial, code: int | None) -> None:
        if self.should_stop():
            self.note(trial, Attempt("stopped"))
            return
        how = (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"ended ({code})"
        )
        hint = "; it may have been short of memory: try fewer --workers" if code == -9 else ""
        error = f"its process {how}{hint}"
        self.store.record_failure(trial.name, error)
        self.note(trial, Attempt("failed", error))

    def note(self, trial: Trial, ended: Attempt) -> None:
        """Keep and tell what became of an attempt.

        Raises:
            StorageError: the folder cannot be written, which other trials would meet too.
        """
        if ended.outcome == "held":
            self.held.append(trial)
        elif ended.outcome == "skipped":
            self.tally.finished.append(trial.name)
            self.tell("trial-skipped", trial, message="another process has finished it")
        elif ended.outcome == "stopped":
            self.tally.stopped = True
        elif ended.outcome == "no-room":
            raise StorageError(
                f"trial {trial.name}: {ended.message}. Finished trials are safe; run the same "
                "command again to go on"
            )
        elif ended.outcome == "failed":
            self.tally.failed[trial.name] = ended.message or "failed"
            self.tell("warning", trial, message=f"failed: {ended.message}")
            self.tell("trial-done", trial)
        else:
            self.tally.finished.append(trial.name)
            if ended.outcome == "diverged":
                self.tell("warning", trial, message=f"diverged: {ended.message}")
            self.tell("trial-done", trial)

    def tell(
        self,
        kind: StudyEventKind,
        trial: Trial,
        event: "Event | None" = None,
        message: str | None = None,
    ) -> None:
        index = self.index[trial.name]
        self.on_event(StudyEvent(kind, trial.name, index, len(self.trials), event, message))

    def _stopping(self) -> bool:
        if not self.should_stop():
            return False
        if not self.said_stopping:
            self.said_stopping = True
            self.on_event(
                StudyEvent(
                    "warning", total=len(self.trials), message="stopping: saving what is running"
                )
            )
        return True

    def _end(self) -> None:
        self.tally.stopped = self.tally.stopped or self.should_stop()
        self.tally.elsewhere = [trial.name for trial in self.held]
        if not self.tally.stopped:
            for trial in self.held:
                message = "another process is at it"
                self.tell("trial-skipped", trial, message=message)
