"""Compiled code on disk: found again, not after a change of any source, never in the way."""

import importlib.util
import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import caching

from ssmlab.generation.cpu import constants, reading
from ssmlab.generation.cpu import kernel as decoder
from ssmlab.ops._cpu import compiling
from ssmlab.ops.causal_conv1d import kernels as convolution
from ssmlab.ops.selective_scan.cpu import kernels as scan

SRC = Path(compiling.__file__).parents[2]
SHARED = tuple(f"ops/_cpu/{name}.py" for name in ("compiling", "maths", "vectors"))
INTRINSICS = "ops/_cpu/intrinsics.py"
SCAN = ("kernels", "chunk", "recurrence_complex", "recurrence_real", "tile")
SCAN_FILES = tuple(f"ops/selective_scan/cpu/{name}.py" for name in SCAN)
CONVOLUTION_FILES = tuple(f"ops/causal_conv1d/{name}.py" for name in ("kernels", "elements"))
DECODER_FILES = tuple(f"generation/cpu/{name}.py" for name in ("kernel", "matvec", "sync"))

MODULE = """
from ssmlab.ops._cpu.compiling import kernel

@kernel(__file__, __file__.replace("small_kernel", "helper"))
def triple(x):
    return 3 * x
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a small kernel, made as the large ones are, and a file of its sources."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "_warned", False)
    (tmp_path / "small_kernel.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("one\n")
    return tmp_path


def load(folder: Path) -> Any:
    """The kernel, as a new process would have it."""
    spec = importlib.util.spec_from_file_location("small_kernel", folder / "small_kernel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.triple


def hits(kernel: Any) -> int:
    assert kernel(7.0) == 21.0
    return sum(kernel.stats.cache_hits.values())


def test_stored_code_is_found_until_a_source_changes(folder: Path) -> None:
    assert [hits(load(folder)), hits(load(folder))] == [0, 1]
    (folder / "helper.py").write_text("other\n")
    assert [hits(load(folder)), hits(load(folder))] == [0, 1]


@pytest.mark.parametrize(
    ("kernel", "own"),
    [
        (scan.forward, (SCAN_FILES[0], INTRINSICS, *SCAN_FILES[1:])),
        (scan.backward, (SCAN_FILES[0], INTRINSICS, *SCAN_FILES[1:])),
        (convolution.forward, CONVOLUTION_FILES),
        (convolution.backward, CONVOLUTION_FILES),
        (decoder.decode, (DECODER_FILES[0], INTRINSICS, *DECODER_FILES[1:])),
        (constants._transform, ("generation/cpu/constants.py", INTRINSICS, DECODER_FILES[2])),
    ],
)
def test_sources_of_the_kernels(kernel: Any, own: tuple[str, ...]) -> None:
    """They are all files that the kernel's modules take functions from, but those of all kernels."""
    paths = [str(SRC / file) for file in own]
    assert kernel._cache._sources == compiling.digest(*paths)
    assert called_by(*paths) <= {*paths, *(str(SRC / file) for file in SHARED)}


@pytest.mark.parametrize("function", [reading.norm, reading.convolve, reading.scan])
def test_sources_of_what_reads_prompts(function: Any) -> None:
    paths = reading.sources(function)
    named = [vars(reading)[name] for name in function.__code__.co_names if name in vars(reading)]
    own = {v.py_func.__code__.co_filename for v in named if hasattr(v, "py_func")}
    modules = {v.__file__ for v in named if inspect.ismodule(v) and v.__name__.startswith("ssmlab")}
    called = own | modules | called_by(*paths[1:])
    assert called <= {*paths, *(str(SRC / file) for file in SHARED)}


def called_by(*paths: str) -> set[str]:
    """The files of the compiled functions that modules name."""
    names = [str(Path(path).relative_to(SRC).with_suffix("")).replace("/", ".") for path in paths]
    return {
        value.py_func.__code__.co_filename
        for name in names
        for value in vars(sys.modules[f"ssmlab.{name}"]).values()
        if hasattr(value, "py_func")
    }


@pytest.mark.parametrize("shared", SHARED)
def test_a_change_of_what_all_kernels_are_made_of(
    shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, file = compiling.digest(), SRC / shared
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b" " * (path == file))
    assert compiling.digest() != before


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"not what was stored"])
def test_a_damaged_file(folder: Path, suffix: str, content: bytes) -> None:
    """The kernel is compiled without the disk, with one warning in a process."""
    hits(load(folder))
    (damaged,) = folder.rglob(f"*.{suffix}")
    damaged.write_bytes(content)
    kernel = load(folder)
    with pytest.warns(UserWarning, match="compiled anew"):
        assert hits(kernel) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel(7) == 21  # another signature
        assert hits(load(folder)) == 0
    assert damaged.read_bytes() == content


@pytest.mark.parametrize("error", [PermissionError("read-only"), OSError(28, "No space left")])
def test_code_that_cannot_be_stored(
    folder: Path, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", fail)
    with pytest.warns(UserWarning, match=str(error.args[-1])):
        assert hits(load(folder)) == 0


def test_no_folder_for_the_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    kernel = load(folder)
    assert isinstance(kernel._cache, caching.NullCache)
    assert kernel(7.0) == 21.0


def _start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", "import small_kernel as s; print(s.triple(7.0))"],
        cwd=folder,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_starting_at_once(folder: Path) -> None:
    """All compile into one empty folder; another then finds the code there."""
    together = [_start(folder) for _ in range(3)]
    outputs = [process.communicate(timeout=200) for process in together]
    assert outputs == [("21.0\n", "")] * 3
    stored = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbc")}
    assert stored
    assert _start(folder).communicate(timeout=200) == ("21.0\n", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbc")} == stored
