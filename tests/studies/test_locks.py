import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ssmlab.core.errors import StorageError, StudyError
from ssmlab.studies import locks
from ssmlab.studies.locks import LOCK_FILE, STALE_SECONDS, TrialLock, living_holder, this_process


@pytest.fixture
def place(tmp_path):
    return tmp_path / "trial", tmp_path / ".lock"


def leave_lock(folder, **changes):
    """A lock as another process would have written it."""
    folder.mkdir(exist_ok=True)
    holder = dataclasses.replace(this_process(), **changes)
    (folder / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)))
    return holder


def test_one_holder_at_a_time(place):
    lock = TrialLock.acquire(*place)
    assert lock is not None
    assert living_holder(place[0]) == this_process()
    assert TrialLock.acquire(*place) is None
    lock.release()
    assert living_holder(place[0]) is None
    assert not (place[0] / LOCK_FILE).exists()
    with TrialLock.acquire(*place) as again:  # type: ignore[union-attr]
        again.check()


def test_many_at_once_and_one_wins(place):
    taken, gate = [], threading.Barrier(8)

    def take():
        gate.wait()
        lock = TrialLock.acquire(*place)
        if lock is not None:
            taken.append(lock)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].release()


def test_a_dead_process_holds_nothing(place):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    leave_lock(place[0], pid=child.pid, started=1)
    child.wait()
    assert living_holder(place[0]) is None
    lock = TrialLock.acquire(*place)
    assert lock is not None
    assert living_holder(place[0]) == this_process()
    lock.release()


def test_a_zombie_holds_nothing(place):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = locks._start_ticks(child.pid)
        holder = leave_lock(place[0], pid=child.pid, started=started)
        assert living_holder(place[0]) == holder
        child.kill()
        deadline = time.monotonic() + 10
        while living_holder(place[0]) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert living_holder(place[0]) is None  # killed, but nobody has waited for it yet
    finally:
        child.kill()
        child.wait()


def test_a_process_id_used_again_is_not_the_holder(place):
    started = this_process().started
    if started is None:
        pytest.skip("this system does not tell when a process began")
    leave_lock(place[0], started=started - 1)
    assert living_holder(place[0]) is None


def test_another_machines_lock_counts_while_it_is_touched(place):
    holder = leave_lock(place[0], machine="elsewhere/boot/pid", pid=1)
    assert living_holder(place[0]) == holder
    assert str(holder) == "process 1 on elsewhere"
    assert TrialLock.acquire(*place) is None
    old = time.time() - STALE_SECONDS - 1
    os.utime(place[0] / LOCK_FILE, (old, old))
    assert living_holder(place[0]) is None
    lock = TrialLock.acquire(*place)
    assert lock is not None
    lock.release()


def test_a_holder_shows_signs_of_life(place, monkeypatch):
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.02)
    lock = TrialLock.acquire(*place)
    assert lock is not None
    path = place[0] / LOCK_FILE
    os.utime(path, (1, 1))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 2
    lock.release()


def test_a_lock_that_was_taken_over_is_noticed_and_left_alone(place, monkeypatch):
    monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.02)
    lock = TrialLock.acquire(*place)
    assert lock is not None
    other = leave_lock(place[0], machine="elsewhere/boot/pid", pid=1)
    deadline = time.monotonic() + 10
    while not lock.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(StudyError, match="taken over"):
        lock.check()
    lock.release()
    assert living_holder(place[0]) == other


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_what_is_not_a_lock_holds_nothing(place, text):
    place[0].mkdir()
    (place[0] / LOCK_FILE).write_text(text)
    assert living_holder(place[0]) is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        TrialLock.acquire(tmp_path / "file" / "trial", tmp_path / "file" / ".lock")
