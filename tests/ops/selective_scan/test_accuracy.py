"""float32 against float64 over long sequences, with decays from nearly 0 to nearly 1."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssmlab.ops import selective_scan
from tests.ops.selective_scan.samples import TENSORS, relative_error

OUTPUTS, GRADIENTS = 1e-5, 1e-4


def long_inputs(length: int, is_complex: bool, softplus: bool) -> dict[str, Any]:
    """Real parts of delta A from -1e-5 or so (a memory of the whole sequence) to -20."""
    channels, n = 12, 4
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=kind)

    rates = torch.logspace(-3, 2.3, channels * n).view(channels, n)
    A, kind = -rates, torch.float32
    if is_complex:
        # As S4D-Lin has it, and phases of many turns a step.
        turns = torch.pi * torch.arange(n) * torch.logspace(0, 2, channels)[:, None]
        A, kind = torch.complex(-rates, turns.expand(channels, n)), torch.complex64
    step = torch.rand(1, length, channels, generator=generator) * 0.1 + 1e-3
    return {
        "u": normal(1, length, channels),
        "delta": step.expm1().log() if softplus else step,
        "A": A,
        "B": normal(1, length, n, kind=kind),
        "C": normal(1, length, n, kind=kind),
        "D": normal(channels),
        "z": normal(1, length, channels),
        "delta_bias": torch.zeros(channels),
        "initial_state": normal(1, channels, n, kind=kind),
        "delta_softplus": softplus,
    }


@pytest.mark.parametrize("length", [1000, 16384])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("softplus", [False, True])
def test_single_precision(length: int, is_complex: bool, softplus: bool) -> None:
    single = long_inputs(length, is_complex, softplus)
    double = {
        k: v.to(torch.complex128 if v.is_complex() else torch.float64)
        if isinstance(v, Tensor)
        else v
        for k, v in single.items()
    }
    generator = torch.Generator().manual_seed(4)
    gy = torch.randn(1, length, 12, generator=generator)
    results = []
    # The double precision of the same backend, which equals the reference's (see test_cpu).
    for given in (single, double):
        leaves = {name: given[name].requires_grad_() for name in TENSORS}
        y, last = selective_scan(**given, return_last_state=True, backend="cpu")
        grads = torch.autograd.grad(y, list(leaves.values()), gy.to(y.dtype))
        results.append({"y": y, "last": last, **dict(zip(TENSORS, grads, strict=True))})
    for name, exact in results[1].items():
        error = relative_error(results[0][name].detach(), exact.detach())
        assert error < (OUTPUTS if name in ("y", "last") else GRADIENTS), f"{name}: {error:.1e}"


def test_a_phase_of_many_turns() -> None:
    """A state that only turns, 100 radians a step: its phase after 4096 steps is still right."""
    length, rate = 4096, torch.tensor(100.0)
    ones = torch.ones(1, length, 1)
    _, last = selective_scan(
        ones * 0, ones, torch.complex(torch.tensor(-1e-8), rate).view(1, 1), torch.ones(1, 1),
        torch.ones(1, 1), initial_state=torch.ones(1, 1, 1), return_last_state=True, backend="cpu",
    )  # fmt: skip
    expected = torch.exp(1j * torch.tensor(100.0 * length, dtype=torch.float64))
    assert abs(last.to(torch.complex128).item() - expected.item()) < 1e-3
