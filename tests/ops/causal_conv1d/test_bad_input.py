"""Every wrong argument is a ValueError that names it, what was given and what was expected."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssmlab.ops import causal_conv1d, causal_conv1d_fn, causal_conv1d_update
from ssmlab.ops.causal_conv1d import api

X, W = torch.zeros(2, 5, 3), torch.zeros(3, 4)
ONE = X[:1]


def packed(offsets: list[int], **change: Any) -> dict[str, Any]:
    return {"x": ONE, "cu_seqlens": torch.tensor(offsets, dtype=torch.int32), **change}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": [1.0]}, ["x is a list", "torch.Tensor"]),
        ({"x": X[0]}, ["x has 2 dimensions", "(5, 3)", "3"]),
        ({"x": X[:, :0]}, ["length 0", "at least 1"]),
        ({"x": X.long()}, ["x is int64", "float32"]),
        ({"weight": None}, ["weight is a NoneType"]),
        ({"weight": W[:, None]}, ["(3, 1, 4)", "weight.squeeze(1)"]),
        ({"weight": W[:2]}, ["weight has shape (2, 4)", "(3, 4)"]),
        ({"weight": W[:, :0]}, ["weight has shape (3, 0)", "W >= 1"]),
        ({"weight": W.int()}, ["weight is int32"]),
        ({"weight": W.to("meta")}, ["weight is on meta", "cpu"]),
        ({"bias": torch.zeros(4)}, ["bias has shape (4,)", "(3,)"]),
        ({"bias": torch.zeros(3).long()}, ["bias is int64"]),
        ({"activation": "gelu"}, ["'gelu'", "'silu'", "'swish'"]),
        ({"initial_state": torch.zeros(2, 4, 3)}, ["initial_state", "(2, 4, 3)", "(2, 3, 3)"]),
        ({"initial_state": torch.zeros(2, 3, 3).int()}, ["initial_state is int32"]),
        ({"initial_state": 0}, ["initial_state is a int"]),
        ({"initial_state": torch.zeros(2, 3, 3, device="meta")}, ["initial_state is on meta"]),
        ({"backend": "cuda"}, ["'cuda'", "cpu, reference"]),
        ({"cu_seqlens": torch.tensor([0, 5])}, ["batch is 2", "expected 1"]),
        (packed([0]), ["1 entries", "at least 2"]),
        (packed([0, 4]), ["ends with 4", "length 5"]),
        (packed([1, 5]), ["start with 0"]),
        (packed([0, 4, 2, 5]), ["never decrease"]),
        (packed([0, 5], cu_seqlens=torch.tensor([0.0, 5.0])), ["cu_seqlens is float32", "int32"]),
        (packed([0, 2, 5], initial_state=torch.zeros(1, 3, 3)), ["(1, 3, 3)", "(2, 3, 3)", "S"]),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_causal_conv1d(change, words, backend) -> None:
    call = {"x": X, "weight": W, "backend": backend, **change}
    with pytest.raises(ValueError, match=r"^causal_conv1d: ") as error:
        causal_conv1d(**call)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("operator", "call", "words"),
    [
        (causal_conv1d_update, {"x": X, "state": X}, ["x has 3 dimensions", "(B, D)"]),
        (causal_conv1d_update, {"x": X[0], "state": X}, ["state", "(2, 5, 3)", "(5, 3, 3)"]),
        (
            causal_conv1d_update,
            {"x": X[0], "state": torch.zeros(5, 3, 3).int()},
            ["state is int32"],
        ),
        (causal_conv1d_fn, {"x": X[0]}, ["x has 2 dimensions", "(B, D, L)"]),
        (causal_conv1d_fn, {"x": X}, ["weight has shape (3, 4)", "(5, 4)"]),
        (
            causal_conv1d_fn,
            {"x": X.mT, "initial_states": torch.zeros(2, 3, 4)},
            ["initial_states", "(2, 3, 4)", "(2, 3, 3)"],
        ),
        (
            causal_conv1d_fn,
            {"x": X.mT, "final_states_out": torch.zeros(2, 3, 3)},
            ["final_states_out", "return_final_states"],
        ),
        (
            causal_conv1d_fn,
            {"x": X.mT, "seq_idx": torch.zeros(2, 5).int(), "return_final_states": True},
            ["seq_idx", "cu_seqlens"],
        ),
        (causal_conv1d_fn, {"x": X.mT, "seq_idx": torch.zeros(2, 4).int()}, ["seq_idx", "(2, 4)"]),
        (causal_conv1d_fn, {"x": X.mT, "seq_idx": torch.zeros(2, 5)}, ["seq_idx is float32"]),
    ],
)
def test_the_other_functions(
    operator: Callable[..., Any], call: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=rf"^{operator.__name__}: ") as error:
        operator(weight=W, **call)
    for word in words:
        assert word in str(error.value)


def test_a_broken_numba_is_named_and_worked_around(monkeypatch) -> None:
    monkeypatch.setattr(api, "cpu_backend_error", lambda: "ImportError: no llvmlite")
    assert causal_conv1d(X, W).shape == X.shape
    with pytest.raises(ValueError, match=r"no llvmlite.*'reference'"):
        causal_conv1d(X, W, backend="cpu")
