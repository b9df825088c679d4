"""How the compiled backend runs: same bits always, outputs written in full, threads, forks, cache."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan.cpu import kernels, launch
from tests.ops.selective_scan.samples import Case, make, run

CASES = [
    Case(2, 70, 130, 3, dtype=torch.float32),
    Case(2, 70, 130, 3, dtype=torch.float32, is_complex=True, B="constant"),
    Case(1, 90, 130, 3, dtype=torch.float32, C="groups", bounds=(0, 40, 40, 90)),
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


def test_an_error_in_a_task_reaches_the_caller() -> None:
    def fail(index: int) -> None:
        if index == 7:
            raise KeyError(index)

    with pytest.raises(KeyError):
        launch.run_tasks(fail, 20)


def test_stored_code_depends_on_all_sources(tmp_path: Path) -> None:
    """Changing what a kernel calls must not leave the code compiled before in use."""
    files = {Path(source).name for source in kernels._SOURCES}
    assert files >= {
        "kernels.py", "chunk.py", "maths.py", "tile.py", "recurrence_real.py",
        "recurrence_complex.py",
    }  # fmt: skip
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("a = 1\n")
    other.write_text("a = 2\n")
    assert kernels._digest(str(one)) != kernels._digest(str(other))
    closure = dict(
        zip(kernels.forward.py_func.__code__.co_freevars, kernels.forward.py_func.__closure__,
            strict=True)
    )  # fmt: skip
    assert closure["sources"].cell_contents == kernels._digest(*kernels._SOURCES) + kernels.CHUNK


MODULE = """
from ssmlab.ops.selective_scan.cpu.kernels import _compiled

@_compiled
def triple(x):
    return 3 * x

print(triple(7.0))
"""


def _start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(folder / "small_kernel.py")],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_starting_at_once(tmp_path: Path) -> None:
    """All compile into one empty folder; another then finds the code there.

    With a small kernel, compiled and stored as the large ones are.
    """
    (tmp_path / "small_kernel.py").write_text(MODULE)
    together = [_start(tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=200) for process in together]
    assert outputs == [("21.0\n", "")] * 3
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert stored
    assert _start(tmp_path).communicate(timeout=200) == ("21.0\n", "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == stored


@pytest.mark.parametrize("error", [PermissionError("read-only"), OSError(28, "No space left")])
def test_a_cache_that_cannot_be_written(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs all the same, and from then on without the cache."""
    forward, backward = kernels._make(12345)
    arguments = make(Case(1, 5, 2, 1, dtype=torch.float32, extras=frozenset()))
    expected = selective_scan(**arguments, backend="cpu")
    compiled = kernels.forward
    calls: list[int] = []

    def broken(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise error
        compiled(*args)

    forgotten: list[int] = []
    monkeypatch.setattr(kernels, "forward", broken)
    monkeypatch.setattr(kernels, "forget_cache", lambda: forgotten.append(1))
    assert torch.equal(selective_scan(**arguments, backend="cpu"), expected)
    assert forgotten == [1]
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "forward", forward)
    monkeypatch.setattr(kernels, "backward", backward)
    kernels.forget_cache()
    assert type(forward._cache).__name__ == type(backward._cache).__name__ == "NullCache"


def test_no_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(*args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return "compiled without a cache"

    monkeypatch.setattr(kernels, "njit", lambda **options: lambda f: nowhere(f, **options))
    assert kernels._compiled(len) == "compiled without a cache"
