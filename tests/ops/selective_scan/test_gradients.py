"""Derivatives of the compiled backend: numerical checks, and gradients through a cut."""

import pytest
import torch
from torch import Tensor

from ssmlab.ops import selective_scan
from tests.ops.selective_scan.samples import TENSORS, Case, make, relative_error


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    ("B", "C", "bounds"),
    [("step", "step", None), ("constant", "groups", None), ("step", "constant", (0, 2, 2, 4))],
)
def test_gradcheck(
    backend: str, is_complex: bool, B: str, C: str, bounds: tuple[int, ...] | None
) -> None:
    arguments = make(Case(1, 4, 2, 2, is_complex=is_complex, B=B, C=C, bounds=bounds))
    names = [name for name in TENSORS if name in arguments]
    rest = {k: v for k, v in arguments.items() if k not in names}

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, tensors, strict=True))
        return selective_scan(**given, **rest, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(scan, [arguments[name].requires_grad_() for name in names])


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradients_through_a_cut_equal_those_of_the_whole(is_complex: bool) -> None:
    whole = make(Case(2, 90, 5, 3, is_complex=is_complex))
    cut = 41
    results = []
    for pieces in ([slice(None)], [slice(0, cut), slice(cut, None)]):
        leaves = {n: whole[n].clone().requires_grad_() for n in TENSORS}
        state, ys = leaves["initial_state"], []
        for part in pieces:
            timed = {n: leaves[n][:, part] for n in ("u", "delta", "z", "B", "C")}
            y, state = selective_scan(
                **{**leaves, **timed, "initial_state": state},
                delta_softplus=True,
                return_last_state=True,
                backend="cpu",
            )
            ys.append(y)
        loss = torch.cat(ys, 1).square().sum() + state.abs().square().sum()
        results.append(torch.autograd.grad(loss, list(leaves.values())))
    for name, one, other in zip(TENSORS, *results, strict=True):
        assert relative_error(other, one) < 1e-12, name


def test_second_derivative_is_refused() -> None:
    arguments = make(Case(1, 3, 2, 1))
    u = arguments["u"].requires_grad_()
    (grad,) = torch.autograd.grad(
        selective_scan(**arguments, backend="cpu").square().sum(), u, create_graph=True
    )
    with pytest.raises(RuntimeError, match=r'second derivative.*backend="reference"'):
        grad.sum().backward()
