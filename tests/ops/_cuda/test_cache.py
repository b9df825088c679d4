"""The cache of compiled kernels: keys, whole files only, many writers, folders that do not work."""

import dataclasses
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from ssmlab.ops._cuda import KernelSource, cache
from ssmlab.ops._cuda.compile import Compiled
from ssmlab.ops._cuda.source import _join

KERNEL = Compiled(b"\x7fELF" + bytes(range(256)) * 40, "_Z5twicev")


def test_what_is_written_is_read() -> None:
    assert cache.read("k") is None
    assert cache.write("k", KERNEL)
    found = cache.read("k")
    assert found is not None
    assert (found.code, found.symbol) == (KERNEL.code, KERNEL.symbol)


def test_the_key_holds_all_that_the_code_depends_on(source: KernelSource) -> None:
    base = cache.cache_key(source, "sm_90", "13.0")
    others = [
        cache.cache_key(source, "sm_80", "13.0"),
        cache.cache_key(source, "sm_90", "13.1"),
        cache.cache_key(dataclasses.replace(source, name="twice<float>"), "sm_90", "13.0"),
        cache.cache_key(dataclasses.replace(source, max_registers=64), "sm_90", "13.0"),
    ]
    source.files[-1].write_text(source.files[-1].read_text() + "\n// changed\n")
    _join.cache_clear()
    others.append(cache.cache_key(source, "sm_90", "13.0"))
    assert len({base, *others}) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_damaged_file_is_no_kernel(damage: str, folder: Path) -> None:
    cache.write("k", KERNEL)
    file = folder / "k.cubin"
    data = file.read_bytes()
    changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    damaged = {"cut": data[:-1], "changed": changed, "empty": b"", "other": b"x" * 100}
    file.write_bytes(damaged[damage])
    assert cache.read("k") is None
    assert cache.write("k", KERNEL)
    assert cache.read("k") is not None


def _write_often(key: str, byte: int) -> bool:
    kernel = Compiled(bytes([byte]) * 200_000, f"symbol{byte}")
    for _ in range(20):
        cache.write(key, kernel)
        found = cache.read(key)
        if found is None or found.code != bytes([int(found.symbol[6:])]) * 200_000:
            return False
    return True


def test_many_processes_at_once_see_whole_kernels(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        whole = pool.starmap(_write_often, [("same", i) for i in range(3)])
    assert all(whole)
    assert [file.name for file in folder.iterdir()] == ["same.cubin"]


def test_a_folder_that_is_a_file_warns_once(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match=r"cannot be kept in .*file.*SSMLAB_CACHE"):
        assert not cache.write("k", KERNEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cache.write("k", KERNEL)
    assert cache.read("k") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv(cache.VARIABLE, str(closed))
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert not cache.write("k", KERNEL)


def test_the_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache.cache_dir() == tmp_path / "ssmlab" / "cuda"
