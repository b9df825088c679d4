"""A small kernel and a cache folder of its own for each test."""

from pathlib import Path

import pytest

from ssmlab.ops._cuda import COMMON, KernelSource, cache

TEXT = """
struct Params { float* x; i64 n; };
template <typename T> __global__ void twice(Params p) {
  if (threadIdx.x < p.n) p.x[threadIdx.x] = 2.f * to_float(from_float<T>(p.x[threadIdx.x]));
}
"""


@pytest.fixture
def source(tmp_path: Path) -> KernelSource:
    file = tmp_path / "twice.cu"
    file.write_text(TEXT)
    return KernelSource((COMMON, file), "twice<bf16>")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path / "cache" / "cuda"
