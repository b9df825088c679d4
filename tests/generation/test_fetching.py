"""Weights asked for ahead of time or not: the same numbers, the faster way chosen."""

import pytest
import torch

from ssmlab.generation.cpu import fetching
from ssmlab.generation.cpu.decoder import CpuDecoder
from ssmlab.generation.cpu.fetching import FAR, Trial, find_trial

from .conftest import build, ids


class _Always(Trial):
    def __init__(self, way: int) -> None:
        super().__init__()
        self.fixed, self.added = way, 0

    def way(self) -> int:
        return self.fixed

    def add(self, way: int, seconds: float) -> None:
        assert way == self.fixed
        assert seconds > 0
        self.added += 1


# Rows of the head's 64 numbers, four of them and a part of them ahead.
@pytest.mark.parametrize("way", [1, 100, 64 * 4, FAR])
def test_both_ways_give_the_same_bits(way: int, monkeypatch) -> None:
    model = build(d_model=64)
    results, trials = [], (_Always(0), _Always(way))
    for trial in trials:
        monkeypatch.setattr(fetching, "find_trial", lambda *_, trial=trial: trial)
        decoder = CpuDecoder(model, model.init_state(2))
        results.append(torch.stack([decoder.step(ids(2, seed=i)) for i in range(3)]))
    assert torch.equal(*results)
    assert [trial.added for trial in trials] == [3, 3]


@pytest.mark.parametrize(("near", "far", "better"), [(3.0, 2.0, FAR), (2.0, 3.0, 0)])
def test_the_faster_way_is_chosen(near: float, far: float, better: int) -> None:
    trial, ways = Trial(), []
    for step in range(40):
        way = trial.way()
        ways.append(way)
        disturbed = 50 if step % 4 < 2 else 0  # and both ways alike
        trial.add(way, (far if way else near) + disturbed)
    assert ways[:10].count(FAR) == 5
    assert set(ways[10:]) == {better}


def test_who_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(fetching, "_trials", {})
    large = 1 << 29
    assert find_trial(1 << 20, 1, 2) is None  # its weights stay in the caches
    assert find_trial(large, 4, 2) is None  # always told
    trial = find_trial(large, 1, 2)
    assert trial is find_trial(large, 1, 2)
    for other in ((large, 2, 2), (large, 1, 1), (2 * large, 1, 2)):
        assert find_trial(*other) is not trial
