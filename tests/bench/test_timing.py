"""Timing with a clock of our own: what counts, what does not, and when a case is left alone."""

import gc

import pytest
import torch

from ssmlab.bench.timing import time_in_turn


class Clock:
    """Seconds that pass only when a case says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def case(self, *seconds: float):
        """A call that takes each of ``seconds`` in turn, then the last one for ever."""
        left = list(seconds)

        def call() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_medians_and_quartiles_without_the_first_call() -> None:
    clock = Clock()
    cases = {"a": clock.case(9.0, 1.0, 2.0, 3.0, 4.0, 5.0), "b": clock.case(1.0)}
    times = time_in_turn(cases, repeats=5, budget_s=100, round_s=0.5, clock=clock)
    assert times["a"].runs == 5
    assert (times["a"].low_ms, times["a"].median_ms, times["a"].high_ms) == (2e3, 3e3, 4e3)
    assert (times["b"].low_ms, times["b"].median_ms, times["b"].high_ms) == (1e3, 1e3, 1e3)


def test_cases_take_turns() -> None:
    clock, order = Clock(), []

    def case(name: str):
        def call() -> None:
            order.append(name)
            clock.now += 1

        return call

    time_in_turn({n: case(n) for n in "abc"}, repeats=2, round_s=0.5, clock=clock)
    assert "".join(order) == "abc" * 3


def test_a_quick_case_runs_many_times_a_round() -> None:
    clock = Clock()
    times = time_in_turn(
        {"quick": clock.case(0.0625), "slow": clock.case(1.0)},
        repeats=3,
        round_s=0.25,
        clock=clock,
    )
    assert (times["quick"].runs, times["slow"].runs) == (3 * 4, 3)


def test_a_slow_case_stops_at_its_budget() -> None:
    clock = Clock()
    cases = {"slow": clock.case(4.0), "very slow": clock.case(11.0), "quick": clock.case(1.0)}
    times = time_in_turn(cases, repeats=5, budget_s=10, round_s=0.5, clock=clock)
    assert {key: time.runs for key, time in times.items()} == {
        "slow": 2,
        "very slow": 1,  # its first call: no second one is made
        "quick": 5,
    }
    assert times["very slow"].median_ms == 11e3
    assert clock.now == 3 * 4 + 11 + 6


def test_a_gpu_is_waited_for_before_and_after_each_call(monkeypatch) -> None:
    clock, order = Clock(), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(str(device)))
    cases = {"a": lambda: order.append("a")}
    time_in_turn(cases, repeats=1, round_s=0, clock=clock, device=torch.device("cuda", 1))
    assert order == ["cuda:1", "a", "cuda:1"] * 2
    time_in_turn(cases, repeats=1, round_s=0, clock=clock, device=torch.device("cpu"))
    assert order[6:] == ["a"] * 2


def test_rounds_are_told_and_garbage_is_collected_again() -> None:
    clock, told = Clock(), []
    time_in_turn({1: clock.case(1.0)}, repeats=3, clock=clock, on_round=told.append)
    assert told == [1, 2, 3]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_in_turn({1: lambda: 1 / 0}, repeats=1, clock=clock)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="repeats is 0"):
        time_in_turn({1: clock.case(1.0)}, repeats=0, clock=clock)
