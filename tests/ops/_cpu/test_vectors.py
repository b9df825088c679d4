"""Wide vectors are asked for by the functions that want them, and by no others."""

import numpy as np
import pytest
from numba import njit

from ssmlab.ops._cpu import vectors
from ssmlab.ops._cpu.vectors import WideCompiler


def add(a, b):
    for i in range(a.shape[0]):
        a[i] += b[i]


@pytest.mark.parametrize("wide", [True, False])
def test_the_attribute(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "has_wide_vectors", lambda: wide)
    asked, plain = njit(pipeline_class=WideCompiler)(add), njit(add)
    for function in (asked, plain):
        a = np.arange(100, dtype=np.float32)
        function(a, a.copy())
        assert np.array_equal(a, 2 * np.arange(100))
    assert [_has_attribute(f) for f in (asked, plain)] == [wide, False]


def _has_attribute(function) -> bool:
    (code,) = function.inspect_llvm().values()
    return '"prefer-vector-width"="512"' in code
