"""The reference backend against the solution in closed form."""

import numpy as np
import pytest
import torch

from ssmlab.ops import selective_scan
from tests.ops.selective_scan.samples import Case, make, oracle


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    ("B", "C"),
    [("step", "step"), ("constant", "constant"), ("constant", "groups"), ("groups", "step")],
)
@pytest.mark.parametrize("bounds", [None, (0, 0, 5, 6, 20, 20)])
def test_equals_the_closed_form(
    is_complex: bool, B: str, C: str, bounds: tuple[int, ...] | None
) -> None:
    batch, length = (2, 23) if bounds is None else (1, 20)
    arguments = make(Case(batch, length, 6, 3, is_complex=is_complex, B=B, C=C, bounds=bounds))
    y, last = selective_scan(**arguments, return_last_state=True, backend="reference")
    expected_y, expected_last = oracle(arguments)
    np.testing.assert_allclose(y.numpy(), expected_y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(last.numpy(), expected_last, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("extra", ["D", "z", "delta_bias", "initial_state"])
def test_each_extra_alone(extra: str) -> None:
    arguments = make(Case(1, 9, 4, 2, extras=frozenset({extra}), softplus=False))
    y, last = selective_scan(**arguments, return_last_state=True, backend="reference")
    expected_y, expected_last = oracle(arguments)
    np.testing.assert_allclose(y.numpy(), expected_y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(last.numpy(), expected_last, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_complex", [False, True])
def test_second_derivatives(is_complex: bool) -> None:
    arguments = make(Case(1, 3, 2, 1, is_complex=is_complex))
    names = [n for n, v in arguments.items() if isinstance(v, torch.Tensor)]

    def scan(*tensors: torch.Tensor) -> torch.Tensor:
        return selective_scan(
            **dict(zip(names, tensors, strict=True)), delta_softplus=True, backend="reference"
        )

    tensors = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradgradcheck(scan, tensors)


def test_last_state_of_an_empty_sequence_is_a_copy() -> None:
    arguments = make(Case(1, 4, 2, 1, bounds=(0, 0, 4)))
    _, last = selective_scan(**arguments, return_last_state=True, backend="reference")
    last[0] += 1
    assert not torch.equal(last[0], arguments["initial_state"][0])
