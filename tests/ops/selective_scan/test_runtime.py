"""How the compiled backend runs: same bits always, outputs written in full, threads, forks."""

import multiprocessing
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan.cpu import launch
from tests.ops.selective_scan.samples import Case, make, run

CASES = [
    Case(2, 70, 130, 3, dtype=torch.float32),
    Case(2, 70, 130, 3, dtype=torch.float32, is_complex=True, B="constant"),
    Case(1, 90, 130, 6, dtype=torch.float32, C="groups", bounds=(0, 40, 40, 90)),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", CASES, ids=["real", "complex", "packed"])
@pytest.mark.usefixtures("threads")
def test_the_same_bits_over_runs_and_threads(case: Case) -> None:
    arguments = make(case)
    torch.set_num_threads(1)
    first = run(arguments, "cpu")
    for i in range(20):
        torch.set_num_threads(1 + i % 4)
        assert same_bits(run(arguments, "cpu"), first)


@pytest.mark.parametrize("case", CASES, ids=["real", "complex", "packed"])
def test_all_outputs_are_written(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(case)
    expected = run(arguments, "cpu")
    poisoned: list[int] = []
    empty, np_empty = torch.empty, launch.np.empty

    def poison(*args: Any, **kwargs: Any) -> Any:
        poisoned.append(1)
        return empty(*args, **kwargs).fill_(float("nan"))

    def np_poison(*args: Any, **kwargs: Any) -> Any:
        out = np_empty(*args, **kwargs)
        out.fill(float("nan"))
        return out

    with monkeypatch.context() as patch:
        patch.setattr(launch.torch, "empty", poison)
        patch.setattr(launch.np, "empty", np_poison)
        got = run(arguments, "cpu")
    assert len(poisoned) >= 3
    assert same_bits(got, expected)


@pytest.mark.usefixtures("threads")
def test_several_threads_at_once() -> None:
    torch.set_num_threads(2)
    arguments = make(CASES[0])
    expected = run(arguments, "cpu")
    results: list[bool] = []

    def work() -> None:
        results.extend(same_bits(run(arguments, "cpu"), expected) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [True] * 20


def _in_child(arguments: dict[str, Any], queue: Any) -> None:
    # Only the scan: torch's own threads do not survive a fork.
    queue.put(selective_scan(**arguments, backend="cpu").numpy().tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("threads")
def test_a_forked_child_can_scan() -> None:
    torch.set_num_threads(2)
    arguments = make(CASES[0])
    expected = selective_scan(**arguments, backend="cpu").numpy().tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(arguments, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.join(5)
        child.kill()
    assert child.exitcode == 0
