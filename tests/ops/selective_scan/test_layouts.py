"""Memory layouts and dtypes of the inputs, and the field's layout of selective_scan_fn."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssmlab.ops import selective_scan, selective_scan_fn
from tests.ops.selective_scan.samples import TENSORS, Case, assert_same, make, relative_error, run


def strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger storage, dimensions laid out backwards."""
    wide = torch.full((*reversed(tensor.shape), 2), 7.0).to(tensor.dtype)
    view = wide[..., 0].permute(*reversed(range(tensor.dim())))
    view.copy_(tensor)
    assert not view.is_contiguous() or tensor.numel() == 1
    return view


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("B", ["step", "constant", "groups"])
def test_non_contiguous_inputs(is_complex: bool, B: str) -> None:
    arguments = make(Case(2, 35, 66, 3, is_complex=is_complex, B=B))
    expected = run(arguments, "reference")
    leaves = {n: strided(arguments[n]).requires_grad_() for n in TENSORS}
    y, last = selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend="cpu")
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (y, last)]
    incoming = [strided(g) for g in incoming]
    grads = torch.autograd.grad((y, last), list(leaves.values()), incoming)
    got = {"y": y, "last": last, **dict(zip(leaves, grads, strict=True))}
    assert_same(got, expected, 1e-11)


def test_expanded_delta_and_gradient() -> None:
    arguments = make(Case(2, 35, 66, 3, extras=frozenset()))
    shared = arguments["delta"][..., :1]
    results = []
    for backend in ("cpu", "reference"):
        own = shared.clone().requires_grad_()
        delta = own.expand(2, 35, 66)
        y = selective_scan(**{**arguments, "delta": delta}, backend=backend)
        results.append(torch.autograd.grad(y.sum(), own)[0])  # the incoming gradient is expanded
    assert relative_error(*results) < 1e-12


def test_a_slice_of_a_projection() -> None:
    both = torch.randn(2, 20, 2 * 66, dtype=torch.float64)
    arguments = make(Case(2, 20, 66, 2))
    arguments["u"], arguments["z"] = both.chunk(2, dim=-1)
    y = selective_scan(**arguments, backend="cpu")
    assert relative_error(y, selective_scan(**arguments, backend="reference")) < 1e-12


def test_conjugate_and_negative_views() -> None:
    arguments = make(Case(1, 9, 4, 2, is_complex=True))
    lazy = {**arguments, "A": arguments["A"].conj(), "B": arguments["B"].conj()}
    lazy["z"] = torch.complex(arguments["z"], arguments["z"]).conj().imag
    plain = {k: v.resolve_conj().resolve_neg() if isinstance(v, Tensor) else v
             for k, v in lazy.items()}  # fmt: skip
    assert lazy["z"].is_neg()
    y = selective_scan(**lazy, backend="cpu")
    assert relative_error(y, selective_scan(**plain, backend="reference")) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_complex", [False, True])
def test_half_precision_in_and_out(dtype: torch.dtype, is_complex: bool) -> None:
    arguments = make(Case(2, 40, 66, 3, dtype=torch.float32, is_complex=is_complex))
    half = {
        k: v.to(dtype) if isinstance(v, Tensor) and not v.is_complex() else v
        for k, v in arguments.items()
    }
    # The inputs are rounded once; sums are not: so the result is right to the output's rounding.
    exact = {
        k: v.to(torch.complex128 if v.is_complex() else torch.float64)
        if isinstance(v, Tensor)
        else v
        for k, v in half.items()
    }
    got, expected = run(half, "cpu"), run(exact, "reference")
    assert got["last"].dtype == (torch.complex64 if is_complex else torch.float32)
    for name in ("y", *TENSORS):
        given = half[name] if name != "y" else half["u"]
        assert got[name].dtype == given.dtype
    # The incoming gradients are drawn in other precisions: only the outputs can be compared.
    assert relative_error(got["y"], expected["y"]) < 2 * torch.finfo(dtype).eps
    assert relative_error(got["last"], expected["last"]) < 1e-6


@pytest.mark.parametrize("double", TENSORS)
def test_one_double_makes_all_sums_double(double: str) -> None:
    single = make(Case(1, 20, 4, 2, dtype=torch.float32))
    single[double] = single[double].double()
    exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in single.items()}
    y, last = selective_scan(**single, return_last_state=True, backend="cpu")
    y64, last64 = selective_scan(**exact, return_last_state=True, backend="reference")
    assert last.dtype == torch.float64
    assert y.dtype == single["u"].dtype
    assert relative_error(last, last64) < 1e-13
    assert relative_error(y, y64) < (1e-13 if double == "u" else 1e-7)


def to_field(arguments: dict[str, Any], interleave: bool) -> dict[str, Any]:
    out = {k: v for k, v in arguments.items() if k != "initial_state"}
    for name in ("u", "delta", "z"):
        if name in out:
            out[name] = out[name].transpose(1, 2)
    for name in ("B", "C"):
        X = out[name]
        if X.dim() > 2:
            X = X.movedim(1, -1)
            if interleave and X.is_complex():
                X = torch.view_as_real(X).flatten(-2)
        out[name] = X
    return out


@pytest.mark.parametrize("backend_input", ["real", "complex", "interleaved"])
@pytest.mark.parametrize(("B", "C"), [("step", "step"), ("constant", "groups")])
def test_the_fields_function(backend_input: str, B: str, C: str) -> None:
    is_complex = backend_input != "real"
    arguments = make(Case(2, 13, 6, 3, is_complex=is_complex, B=B, C=C))
    del arguments["initial_state"]
    field = to_field(arguments, backend_input == "interleaved")
    leaves = {
        k: v.detach().clone().requires_grad_() if isinstance(v, Tensor) else v
        for k, v in field.items()
    }
    y, last = selective_scan_fn(**leaves, return_last_state=True)
    expected, expected_last = selective_scan(
        **arguments, return_last_state=True, backend="reference"
    )
    assert y.shape == field["u"].shape
    assert relative_error(y.transpose(1, 2), expected) < 1e-12
    assert relative_error(last, expected_last) < 1e-12
    y.sum().backward()
    assert all(v.grad.shape == v.shape for v in leaves.values() if isinstance(v, Tensor))


def test_the_fields_function_returns_y_alone() -> None:
    arguments = to_field(make(Case(1, 4, 2, 1)), False)
    assert isinstance(selective_scan_fn(**arguments), Tensor)
