"""Inputs for the tests, and an oracle that shares no code and no algorithm with the library.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.ops import selective_scan

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
TENSORS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


@dataclass(frozen=True)
class Case:
    """What a scan is given."""

    batch: int = 2
    length: int = 37
    channels: int = 70
    n: int = 3
    dtype: torch.dtype = torch.float64
    is_complex: bool = False
    B: str = "step"  # "constant", "step" or "groups"; with complex A also "real step"
    C: str = "step"
    extras: frozenset[str] = field(
        default_factory=lambda: frozenset({"D", "z", "delta_bias", "initial_state"})
    )
    softplus: bool = True
    bounds: tuple[int, ...] | None = None
    seed: int = 0


def make(case: Case) -> dict[str, Any]:
    """Keyword arguments of ``selective_scan``."""
    generator = torch.Generator().manual_seed(case.seed)
    kind = COMPLEX[case.dtype] if case.is_complex else case.dtype

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def factor(which: str) -> Tensor:
        dtype = case.dtype if which.startswith("real ") else kind
        shapes = {
            "constant": (case.channels, case.n),
            "step": (case.batch, case.length, case.n),
            "groups": (case.batch, case.length, 2, case.n),
        }
        return normal(*shapes[which.removeprefix("real ")], dtype=dtype)

    A = -normal(case.channels, case.n).exp()
    if case.is_complex:
        A = torch.complex(A, 3 * normal(case.channels, case.n))
    sequences = case.batch if case.bounds is None else len(case.bounds) - 1
    delta = normal(case.batch, case.length, case.channels)
    arguments = {
        "u": normal(case.batch, case.length, case.channels),
        "delta": delta if case.softplus else delta.abs() * 0.3,
        "A": A,
        "B": factor(case.B),
        "C": factor(case.C),
        "D": normal(case.channels),
        "z": normal(case.batch, case.length, case.channels),
        "delta_bias": normal(case.channels) if case.softplus else normal(case.channels).abs() * 0.1,
        "initial_state": normal(sequences, case.channels, case.n, dtype=kind),
    }
    for name in ("D", "z", "delta_bias", "initial_state"):
        if name not in case.extras:
            del arguments[name]
    arguments["delta_softplus"] = case.softplus
    if case.bounds is not None:
        arguments["cu_seqlens"] = torch.tensor(case.bounds, dtype=torch.int32)
    return arguments


def run(arguments: dict[str, Any], backend: str | None = None) -> dict[str, Tensor]:
    """y, the last state and the gradient of every tensor, for fixed random incoming gradients."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in arguments.items()
        if name in TENSORS
    }
    y, last = selective_scan(**{**arguments, **leaves}, return_last_state=True, backend=backend)
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (y, last)]
    grads = torch.autograd.grad((y, last), list(leaves.values()), incoming)
    return {"y": y.detach(), "last": last.detach(), **dict(zip(leaves, grads, strict=True))}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor of ``got`` has the dtype, the shape and (by its norm) the values expected."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        error = relative_error(got[name], value)
        assert error < tolerance, f"{name}: {error}"


def relative_error(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected, in double precision."""
    exact = expected.detach().to(torch.complex128)
    difference = torch.linalg.vector_norm(got.detach().to(torch.complex128) - exact)
    return float(difference / torch.linalg.vector_norm(exact).clamp_min(1e-300))


def oracle(arguments: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """y and the last state by the solution in closed form, not by stepping.

    h_t = exp(A s_t) h_0 + sum over r <= t of exp(A (s_t - s_r)) delta_r B_r u_r, where s is the
    running sum of delta.
    """
    a = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    u, A, (_, length, channels) = a["u"], a["A"], a["u"].shape
    delta = a["delta"] + a.get("delta_bias", 0.0)
    delta = np.logaddexp(0, delta) if a["delta_softplus"] else delta

    def per_step(X: np.ndarray) -> np.ndarray:
        if X.ndim == 2:
            return np.broadcast_to(X, (u.shape[0], length, *X.shape))
        if X.ndim == 3:
            X = X[:, :, None]
        return np.repeat(X, channels // X.shape[2], axis=2)

    B, C = per_step(a["B"]), per_step(a["C"])
    bounds = a.get("cu_seqlens")
    spans = (
        [(b, 0, length) for b in range(u.shape[0])]
        if bounds is None
        else [(0, int(i), int(j)) for i, j in itertools.pairwise(bounds)]
    )
    y, states = np.zeros(u.shape), []
    for s, (b, start, end) in enumerate(spans):
        own = slice(start, end)
        time = np.cumsum(delta[b, own], axis=0)
        h0 = a["initial_state"][s] if "initial_state" in a else np.zeros_like(A)
        kicks = (delta[b, own] * u[b, own])[..., None] * B[b, own]
        gaps = time[:, None] - time[None]  # (t, r, D)
        gaps[np.triu_indices(end - start, 1)] = 0
        weights = np.exp(gaps[..., None] * A)
        weights[np.triu_indices(end - start, 1)] = 0
        h = np.einsum("trdn,rdn->tdn", weights, kicks) + np.exp(time[..., None] * A) * h0
        out = (h * C[b, own]).sum(-1)
        y[b, own] = 2 * out.real if np.iscomplexobj(A) else out
        states.append(h[-1] if end > start else h0)
    y = y + u * a.get("D", 0.0)
    if "z" in a:
        y = y * a["z"] / (1 + np.exp(-a["z"]))
    return y, np.stack(states)
