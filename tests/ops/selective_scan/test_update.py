"""One step at a time: the same as the scan."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssmlab.ops import selective_scan, selective_scan_update
from tests.ops.selective_scan.samples import Case, make, relative_error


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    ("B", "C"), [("step", "step"), ("constant", "groups"), ("groups", "constant")]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_steps_equal_the_scan(is_complex: bool, B: str, C: str, dtype: torch.dtype) -> None:
    arguments = make(Case(2, 40, 6, 3, dtype=dtype, is_complex=is_complex, B=B, C=C))
    y, last = selective_scan(**arguments, return_last_state=True)
    state, ys = arguments["initial_state"], []
    for t in range(40):
        now: dict[str, Any] = {
            k: v[:, t] if k in ("u", "delta", "z") or (k in ("B", "C") and v.dim() > 2) else v
            for k, v in arguments.items()
            if k != "initial_state"
        }
        y_t, state = selective_scan_update(
            state, **now, constant_B=B == "constant", constant_C=C == "constant"
        )
        ys.append(y_t)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert relative_error(torch.stack(ys, 1), y) < tolerance
    assert relative_error(state, last) < tolerance


def test_state_is_not_written_to() -> None:
    state = torch.randn(2, 4, 3)
    before = state.clone()
    _, after = selective_scan_update(
        state, torch.ones(2, 4), torch.ones(2, 4), -torch.ones(4, 3), torch.ones(2, 3),
        torch.ones(2, 3),
    )  # fmt: skip
    assert torch.equal(state, before)
    assert not torch.equal(after, before)


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    tensors = [
        normal(2, 4, 3), normal(2, 4), normal(2, 4), normal(4, 3), normal(2, 3), normal(2, 2, 3),
        normal(4), normal(2, 4), normal(4),
    ]  # fmt: skip

    def step(*given: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan_update(*given, delta_softplus=True)

    assert torch.autograd.gradcheck(step, tensors)


@pytest.mark.parametrize("constant", [False, True])
def test_batch_equal_to_channels_needs_to_be_told(constant: bool) -> None:
    u, A, B = torch.ones(3, 3), -torch.ones(3, 2), torch.tensor([[1.0, 1], [2, 2], [3, 3]])
    _, state = selective_scan_update(
        torch.zeros(3, 3, 2), u, u, A, B, torch.ones(3, 2), constant_B=constant
    )
    expected = B.expand(3, 3, 2) if constant else B[:, None].expand(3, 3, 2)
    assert torch.equal(state, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 1, 4)}, "u has 3 dimensions.*expected 2"),
        ({"state": torch.zeros(2, 4, 2)}, r"state has shape \(2, 4, 2\), expected \(2, 4, 3\)"),
        ({"B": torch.ones(5, 3)}, r"B has shape \(5, 3\), expected \(2, 3\)"),
        ({"C": torch.ones(2, 3, 3)}, "3 groups, which do not divide the 4 channels"),
        ({"B": torch.ones(2, 3, dtype=torch.complex64)}, "real, because A is real"),
        ({"z": torch.ones(2, 4, dtype=torch.int64)}, "z is int64"),
        ({"state": "zero"}, "state is a str, expected a torch.Tensor"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {
        "state": torch.zeros(2, 4, 3), "u": torch.ones(2, 4), "delta": torch.ones(2, 4),
        "A": -torch.ones(4, 3), "B": torch.ones(2, 3), "C": torch.ones(2, 3),
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"selective_scan_update: .*{message}"):
        selective_scan_update(**{**given, **change})
