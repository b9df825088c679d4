"""Bad input: what was given, what is expected."""

from typing import Any

import numpy as np
import pytest
import torch

from ssmlab.ops import selective_scan, selective_scan_fn
from ssmlab.ops.selective_scan import available_backends, backends
from tests.ops.selective_scan.samples import Case, make

SIZES = Case(2, 5, 6, 3, dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": np.ones((2, 5, 6))}, "u is a ndarray, expected a torch.Tensor"),
        ({"u": torch.ones(5, 6)}, r"u has 2 dimensions.*expected 3: \(B, L, D\)"),
        ({"u": torch.ones(2, 5, 6, dtype=torch.int32)}, "u is int32, expected one of float32"),
        ({"u": torch.ones(2, 0, 6)}, "expected every size to be at least 1"),
        ({"delta": torch.ones(2, 5, 1)}, r"delta has shape \(2, 5, 1\), expected \(2, 5, 6\)"),
        ({"A": torch.ones(6)}, "A has 1 dimensions"),
        ({"A": torch.ones(3, 6)}, r"A has shape \(3, 6\), expected \(6, 6\)"),
        ({"A": torch.ones(6, 3, dtype=torch.bool)}, "A is bool"),
        ({"B": torch.ones(2, 5, 4)}, r"B has shape \(2, 5, 4\), expected \(2, 5, 3\)"),
        ({"B": torch.ones(6, 4)}, r"B has shape \(6, 4\), expected \(6, 3\) = \(D, N\), constant"),
        ({"C": torch.ones(2, 5, 4, 3)}, "C has 4 groups, which do not divide the 6 channels"),
        ({"C": torch.ones(2, 5, 0, 3)}, "C has 0 groups"),
        ({"C": torch.ones(2, 5, 3, dtype=torch.complex64)}, "C is complex64.*because A is real"),
        ({"D": torch.ones(6, 1)}, r"D has shape \(6, 1\), expected \(6,\)"),
        ({"z": torch.ones(2, 4, 6)}, "z has shape"),
        ({"delta_bias": torch.ones(5)}, "delta_bias has shape"),
        ({"initial_state": torch.ones(1, 6, 3)}, r"expected \(2, 6, 3\) = \(B, D, N\)"),
        ({"initial_state": torch.ones(2, 6, 3, dtype=torch.complex64)}, "because A is real"),
        ({"z": torch.ones(2, 5, 6, device="meta")}, "z is on meta, the first argument on cpu"),
        ({"backend": "cuda13"}, "backend is 'cuda13', expected one of reference, cpu"),
    ],
)
def test_a_scan_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"selective_scan: .*{message}"):
        selective_scan(**{**make(SIZES), **change})


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0]), "has 1 entries, expected at least 2"),
        (torch.tensor([0.0, 5.0]), "cu_seqlens is float32, expected one of int32, int64"),
        (torch.tensor([[0, 5]]), "cu_seqlens has 2 dimensions"),
        (torch.tensor([0, 4]), "ends with 4; expected offsets.*the length 5"),
        (torch.tensor([1, 5]), "start with 0"),
        (torch.tensor([0, 4, 3, 5]), "never decrease"),
        (torch.tensor([0, 5], device="meta"), "cu_seqlens is on meta"),
        ([0, 5], "cu_seqlens is a list, expected a torch.Tensor"),
    ],
)
def test_offsets_that_do_not_fit(backend: str, offsets: Any, message: str) -> None:
    arguments = make(Case(1, 5, 6, 3, extras=frozenset()))
    with pytest.raises(ValueError, match=f"selective_scan: .*{message}"):
        selective_scan(**arguments, cu_seqlens=offsets, backend=backend)


def test_packing_wants_a_batch_of_one() -> None:
    with pytest.raises(ValueError, match="the batch is 2 with cu_seqlens given, expected 1"):
        selective_scan(**make(SIZES), cu_seqlens=torch.tensor([0, 5]))


def test_states_of_packed_sequences_are_counted() -> None:
    arguments = make(Case(1, 5, 6, 3, bounds=(0, 2, 5)))
    arguments["initial_state"] = torch.zeros(1, 6, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"expected \(2, 6, 3\) = \(S, D, N\), S packed sequences"):
        selective_scan(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 6)}, r"u has 2 dimensions.*\(B, D, L\)"),
        ({"B": torch.ones(2, 3, 4)}, "B has shape.*expected 5 in its last dimension"),
        ({"C": torch.ones(2)}, "C has 1 dimensions"),
        ({"C": "C"}, "C is a str"),
    ],
)
def test_the_fields_function_refuses(change: dict[str, Any], message: str) -> None:
    given = {
        "u": torch.ones(2, 6, 5), "delta": torch.ones(2, 6, 5), "A": -torch.ones(6, 3),
        "B": torch.ones(2, 3, 5), "C": torch.ones(2, 3, 5),
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"selective_scan_fn: .*{message}"):
        selective_scan_fn(**{**given, **change})


def test_interleaved_complex_numbers_of_the_wrong_length() -> None:
    A = -torch.ones(6, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"expected 10.*2L interleaved reals, A being complex"):
        selective_scan_fn(
            torch.ones(2, 6, 5), torch.ones(2, 6, 5), A, torch.ones(2, 3, 5), torch.ones(2, 3, 10)
        )


def test_without_numba_the_reference_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_load_cpu", lambda: "Numba does not work here: ImportError: no")
    arguments = make(SIZES)
    selective_scan(**arguments)
    assert available_backends()["cpu"] == "Numba does not work here: ImportError: no"
    with pytest.raises(ValueError, match=r"Numba does not work here.*install numba, or use"):
        selective_scan(**arguments, backend="cpu")


def test_backends_that_work() -> None:
    found = available_backends()
    assert list(found) == ["reference", "cpu", "cuda"]
    assert found["reference"] is None
    assert found["cpu"] is None
    if not torch.cuda.is_available():
        assert "no CUDA device" in str(found["cuda"])
