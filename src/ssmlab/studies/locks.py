"""One process at a time in a trial's folder, and no trial lost to a process that died.

A lock is a file that names its holder and that the holder touches now and then. On the same machine
a holder is asked for by its process id and start time, so a lock is free the moment its holder
dies; a holder on another machine counts as dead once it has not touched its lock for a while.
Locks change hands under an ``flock``, which the system itself drops when a process dies.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ssmlab.core.errors import StudyError
from ssmlab.core.files import storage_error, write_json

LOCK_FILE = "lock.json"
TOUCH_SECONDS = 20.0
# Long against TOUCH_SECONDS: compiling a kernel may keep the touching thread waiting.
STALE_SECONDS = 300.0


@dataclass(frozen=True)
class Holder:
    """A process, so described that no later one can be taken for it.

    Attributes:
        machine: host name, boot and process-id space: where ``pid`` has a meaning.
        pid: process id.
        started: the process's start in clock ticks since boot; None where the system does not tell.
    """

    machine: str
    pid: int
    started: int | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split('/')[0]}"


def this_process() -> Holder:
    """The calling process."""
    return Holder(_machine(), os.getpid(), _start_ticks(os.getpid()))


def living_holder(folder: Path, now: float | None = None) -> Holder | None:
    """Who is at work in a trial's folder; None if nobody, or one that has died.

    Args:
        folder: the trial's folder.
        now: the time by the clock of the folder's file system; the local time if None.
    """
    path = folder / LOCK_FILE
    try:
        holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return None  # locks are written whole, so this was none of ours
    if holder.machine == _machine():
        return holder if _alive(holder) else None
    age = (time.time() if now is None else now) - touched
    return holder if age < STALE_SECONDS else None


class TrialLock:
    """The right to work in one trial's folder; a context manager that gives it up at the end."""

    def __init__(self, folder: Path) -> None:
        """Use ``acquire``."""
        self.path = folder / LOCK_FILE
        self.holder = this_process()
        self.lost = False
        self._ended = threading.Event()
        self._toucher = threading.Thread(target=self._touch, name="trial-lock", daemon=True)

    @classmethod
    def acquire(cls, folder: Path, mutex: Path) -> "TrialLock | None":
        """Take the lock of a trial's folder, also from a holder that died.

        Args:
            folder: the trial's folder, made if it is not there.
            mutex: a file of the study, under whose ``flock`` its locks change hands.

        Returns:
            the lock, or None if a living process (this one included) has it.

        Raises:
            StorageError: the folder cannot be written.
        """
        with exclusive(mutex) as now:
            if living_holder(folder, now) is not None:
                return None
            lock = cls(folder)
            write_json(lock.path, asdict(lock.holder))
        lock._toucher.start()
        return lock

    def check(self) -> None:
        """Prove that the lock is still ours.

        Raises:
            StudyError: another process took it, having seen no sign of life of ours for long.
        """
        if self.lost:
            raise StudyError(
                f"{self.path.parent} was taken over by another process while this one slept; "
                "it goes on there"
            )

    def release(self) -> None:
        """Give the lock up."""
        self._ended.set()
        self._toucher.join()
        if not self.lost and self._ours():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> "TrialLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _ours(self) -> bool:
        try:
            return json.loads(self.path.read_text(encoding="utf-8")) == asdict(self.holder)
        except (OSError, ValueError):
            return False

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_SECONDS):
            if not self._ours():
                self.lost = True
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


@contextlib.contextmanager
def exclusive(mutex: Path) -> Iterator[float]:
    """Hold the ``flock`` of file ``mutex``; gives the time by the clock of its file system.

    Raises:
        StorageError: the file cannot be made.
    """
    try:
        mutex.parent.mkdir(parents=True, exist_ok=True)
        file = open(mutex, "a")  # noqa: SIM115
    except OSError as error:
        raise storage_error(mutex, error) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass  # no flock here: two processes that start at the very same moment are not told apart
        with contextlib.suppress(OSError):
            os.utime(mutex)
        yield mutex.stat().st_mtime


def _alive(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there and is another user's
    return holder.started is None or _start_ticks(holder.pid) == holder.started


def _machine() -> str:
    boot, space = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{boot}/{space}"


def _start_ticks(pid: int) -> int | None:
    """When a process began, from /proc; None if it has ended (a zombie has) or is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
