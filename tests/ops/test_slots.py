"""Decoding steps in place and with states in slots of a pool, on the CPU."""

import pytest
import torch
from torch import Tensor

from ssmlab.ops import (
    causal_conv1d_update,
    selective_scan_update,
    selective_state_update,
)

SLOTS = torch.tensor([4, 0, -1, 2])


def scan_inputs(rows: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    batch, channels, n = 4, 6, 3

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g).to(dtype)

    return [
        *(draw(rows, channels, n), draw(batch, channels), draw(batch, channels)),
        *(-draw(channels, n).exp(), draw(batch, n), draw(batch, n), draw(channels)),
        *(draw(batch, channels), draw(channels)),
    ]


def conv_inputs(rows: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*size, generator=g) for size in ((4, 6), (rows, 3, 6), (6, 4), (6,))]


def test_scan_in_place_is_the_functional_step() -> None:
    state, *rest = scan_inputs(4)
    y, after = selective_scan_update(state, *rest, True)
    mine = state.clone()
    other, same = selective_scan_update(mine, *rest, True, in_place=True)
    assert same is mine
    assert torch.equal(other, y)
    assert torch.equal(mine, after)
    again = state.clone()
    assert torch.equal(selective_state_update(again, *rest, True), y)
    assert torch.equal(again, after)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_scan_with_slots(index: torch.dtype) -> None:
    pool, *rest = scan_inputs(5)
    gathered = pool[SLOTS.clamp(min=0)]
    expected, after = selective_scan_update(gathered, *rest, True)
    y, new = selective_scan_update(pool, *rest, True, state_indices=SLOTS.to(index))
    live = SLOTS >= 0
    assert torch.equal(y[live], expected[live])
    assert torch.equal(new[live], after[live])
    assert not y[~live].any()
    assert not new[~live].any()
    mine = pool.clone()
    assert torch.equal(selective_state_update(mine, *rest, True, SLOTS.to(index)), y)
    assert torch.equal(mine[SLOTS[live]], after[live])
    assert torch.equal(mine[[1, 3]], pool[[1, 3]]), "slots that no row names stay"


def test_conv_in_place_and_with_slots() -> None:
    x, pool, weight, bias = conv_inputs(5)
    live = SLOTS >= 0
    expected, after = causal_conv1d_update(x, pool[SLOTS.clamp(min=0)], weight, bias, "silu")
    y, new = causal_conv1d_update(x, pool, weight, bias, "silu", state_indices=SLOTS)
    assert torch.equal(y[live], expected[live])
    assert torch.equal(new[live], after[live])
    assert not y[~live].any()
    mine = pool.clone()
    other, same = causal_conv1d_update(
        x, mine, weight, bias, "silu", in_place=True, state_indices=SLOTS
    )
    assert same is mine
    assert torch.equal(other, y)
    assert torch.equal(mine[SLOTS[live]], after[live])
    assert torch.equal(mine[[1, 3]], pool[[1, 3]])


def test_a_narrow_state_keeps_its_dtype_in_place() -> None:
    state, *rest = scan_inputs(4, torch.bfloat16)
    expected, after = selective_scan_update(state, *rest, True)
    y = selective_state_update(state, *rest, True)
    assert state.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    assert torch.equal(state, after.bfloat16())


def test_slots_are_differentiable_out_of_place() -> None:
    pool, *rest = (t.double().requires_grad_() for t in scan_inputs(5))

    def run(pool: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan_update(pool, *rest, True, state_indices=SLOTS)

    assert torch.autograd.gradcheck(run, (pool, *rest), fast_mode=True)


@pytest.mark.parametrize(
    ("indices", "in_place", "words"),
    [
        (torch.tensor([0, 1, 2]), False, r"state_indices has shape \(3,\), expected \(4,\)"),
        (torch.tensor([0, 1, 2, 5]), False, "names slot 5, the pool has 5"),
        (torch.tensor([0, 1, 2, 2]), True, "names a slot twice"),
        (torch.tensor([0.0, 1, 2, 3]), False, "state_indices is float32"),
    ],
)
def test_bad_slots(indices: Tensor, in_place: bool, words: str) -> None:
    pool, *rest = scan_inputs(5)
    with pytest.raises(ValueError, match=f"^selective_scan_update: .*{words}"):
        selective_scan_update(pool, *rest, True, in_place=in_place, state_indices=indices)
    x, pool, weight, bias = conv_inputs(5)
    with pytest.raises(ValueError, match=f"^causal_conv1d_update: .*{words}"):
        causal_conv1d_update(x, pool, weight, bias, in_place=in_place, state_indices=indices)


def test_in_place_with_gradients_is_refused() -> None:
    state, u, *rest = scan_inputs(4)
    with pytest.raises(ValueError, match=r"in_place is True and .* torch.no_grad"):
        selective_state_update(state, u.requires_grad_(), *rest, True)
    with torch.no_grad():
        selective_state_update(state, u, *rest, True)
    x, state, weight, bias = conv_inputs(4)
    with pytest.raises(ValueError, match="in_place is True"):
        causal_conv1d_update(x, state, weight.requires_grad_(), bias, in_place=True)
