"""Wall-clock times of several things that are to be compared, taken in turn in one process."""

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)

METHOD = (
    "Medians and quartiles of the wall-clock times of one process, in which everything compared "
    "runs in turn, round after round; the first call of each is not counted."
)

_MOST_CALLS = 50  # of one case in a round


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median and quartiles of ``runs`` calls."""

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


def time_in_turn(
    cases: Mapping[Key, Callable[[], object]],
    *,
    repeats: int,
    budget_s: float = 10.0,
    round_s: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], None] = lambda done: None,
    device: torch.device | None = None,
) -> dict[Key, Timing]:
    """Time every case in each of ``repeats`` rounds, so that a slow spell of the machine hits all.

    Args:
        cases: what to call, under any key.
        repeats: rounds, at least 1.
        budget_s: seconds after which a case is called no more, its first call included. A case
            whose first call alone takes as long has that one as its only run.
        round_s: seconds that a quick case is called for, again and again, in each round; 0 for one
            call.
        clock: seconds, growing.
        on_round: told the number of rounds done, after each.
        device: where the cases run; a GPU is waited for before and after each call.

    Raises:
        ValueError: repeats is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, expected at least 1")

    def wait() -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    def seconds(call: Callable[[], object]) -> float:
        wait()
        start = clock()
        result = call()
        wait()
        taken = clock() - start
        del result  # to give its memory back is no part of the call
        return taken

    collecting = gc.isenabled()
    gc.disable()
    try:
        first = {key: seconds(call) for key, call in cases.items()}
        spent = dict(first)
        runs: dict[Key, list[float]] = {
            key: [taken] if taken >= budget_s else [] for key, taken in first.items()
        }
        for done in range(repeats):
            for key, call in cases.items():
                calls = 0
                until = spent[key] + round_s
                while (
                    calls < _MOST_CALLS
                    and (calls == 0 or spent[key] < until)
                    and (not runs[key] or spent[key] < budget_s)
                ):
                    runs[key].append(seconds(call))
                    spent[key] += runs[key][-1]
                    calls += 1
            on_round(done + 1)
    finally:
        if collecting:
            gc.enable()
    return {key: _summary(times) for key, times in runs.items()}


def _summary(seconds: list[float]) -> Timing:
    milliseconds = [1e3 * value for value in seconds]
    low = high = milliseconds[0]
    if len(milliseconds) > 1:
        low, _, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Timing(statistics.median(milliseconds), low, high, len(milliseconds))
