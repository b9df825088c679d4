"""Packed sequences: the same as each on its own."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops import selective_scan
from tests.ops.selective_scan.samples import TENSORS, Case, assert_same, make, relative_error, run


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_packed_equals_separate(is_complex: bool, backend: str) -> None:
    bounds = (0, 0, 1, 34, 34, 100)
    packed = make(Case(1, 100, 6, 3, is_complex=is_complex, B="groups", bounds=bounds))
    got = run(packed, backend)
    ys, states = [], []
    for s, (start, end) in enumerate(itertools.pairwise(bounds)):
        own = {n: packed[n][:, start:end] for n in ("u", "delta", "z", "B", "C")}
        state = packed["initial_state"][s : s + 1]
        if end == start:
            states.append(state)
            continue
        rest = {n: packed[n] for n in ("A", "D", "delta_bias", "delta_softplus")}
        y, last = selective_scan(
            **own, **rest, initial_state=state, return_last_state=True, backend=backend
        )
        ys.append(y)
        states.append(last)
    assert relative_error(got["y"], torch.cat(ys, 1)) < 1e-14
    assert relative_error(got["last"], torch.cat(states)) < 1e-14


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=40), st.booleans(), st.integers(0, 99))
def test_any_lengths(lengths: list[int], is_complex: bool, seed: int) -> None:
    lengths = [*lengths, 1]
    bounds = (0, *torch.tensor(lengths).cumsum(0).tolist())
    case = Case(1, bounds[-1], 3, 2, is_complex=is_complex, bounds=bounds, seed=seed)
    arguments = make(case)
    assert_same(run(arguments, "cpu"), run(arguments, "reference"), 1e-11)


def test_int64_offsets_and_one_sequence() -> None:
    arguments = make(Case(1, 50, 3, 2))
    plain = run(arguments, "cpu")
    arguments["cu_seqlens"] = torch.tensor([0, 50])
    assert_same(run(arguments, "cpu"), plain, 1e-15)


def test_nothing_leaks_over_a_boundary() -> None:
    arguments = make(Case(1, 60, 4, 2, bounds=(0, 25, 60)))
    arguments["u"][:, :25] = float("nan")
    y, last = selective_scan(**arguments, return_last_state=True, backend="cpu")
    assert y[:, :25].isnan().all()
    assert not y[:, 25:].isnan().any()
    assert last[0].isnan().all()
    assert not last[1].isnan().any()


def test_gradients_reach_all_tensors() -> None:
    arguments = make(Case(1, 60, 4, 2, bounds=(0, 25, 60)))
    got = run(arguments, "cpu")
    assert all(bool((got[name] != 0).any()) for name in TENSORS)
