"""Tasks on several threads."""

import pytest

from ssmlab.ops._cpu.threads import run_tasks


def test_every_task_once() -> None:
    done: list[int] = []
    run_tasks(done.append, 20)
    assert sorted(done) == list(range(20))


def test_an_error_in_a_task_reaches_the_caller() -> None:
    def fail(index: int) -> None:
        if index == 7:
            raise KeyError(index)

    with pytest.raises(KeyError):
        run_tasks(fail, 20)
