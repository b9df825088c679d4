"""Tasks on several threads, torch's and our own."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from ssmlab.ops._cpu import threads
from ssmlab.ops._cpu.team import find_team
from ssmlab.ops._cpu.threads import run_tasks


@pytest.fixture(params=["torch's threads", "our own"], autouse=True)
def whose_threads(request, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if request.param == "our own":
        monkeypatch.setattr(threads, "find_team", lambda: None)
    elif find_team() is None:
        pytest.skip("torch's threads cannot be had here")


def test_every_task_once() -> None:
    done: list[int] = []
    run_tasks(done.append, 20)
    assert sorted(done) == list(range(20))


def test_tasks_run_at_once() -> None:
    together = threading.Barrier(3, timeout=60)
    run_tasks(lambda _: together.wait() and None, 3)


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt])
def test_an_error_in_a_task_reaches_the_caller(kind) -> None:
    def fail(index: int) -> None:
        if index == 7:
            raise kind(index)

    with pytest.raises(kind):
        run_tasks(fail, 20)
    test_every_task_once()


def test_from_several_threads_at_once() -> None:
    sums = [0] * 4

    def work(place: int) -> None:
        for _ in range(50):
            done: list[int] = []
            run_tasks(done.append, 9)
            sums[place] += sum(done)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sums == [50 * 36] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork() -> None:
    program = """
import os, torch
from ssmlab.ops._cpu.threads import run_tasks
torch.set_num_threads(2)
done = []
run_tasks(done.append, 5)
child = os.fork()
if child == 0:
    run_tasks(done.append, 5)
    os._exit(0 if len(done) == 10 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, timeout=120, text=True
    )
    assert done.returncode == 0, done.stderr
