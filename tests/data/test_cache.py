"""The cache: built once, whole or not at all, by any number of processes, never trusted."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmlab.core.errors import DataError, StorageError
from ssmlab.data import shards, text
from ssmlab.data.config import TextDataConfig
from ssmlab.data.text import TextData, prepare_text

from .conftest import Prepare, all_documents, write_documents


def cache_of(tmp_path: Path, data: TextData) -> Path:
    return tmp_path / "cache" / data.key


@pytest.fixture
def no_build(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and any later build fails the test."""

    def forbid() -> None:
        def refuse(*args: object) -> None:
            raise AssertionError("built again")

        monkeypatch.setattr(text, "_build", refuse)

    return forbid


def test_built_once(folder: Path, prepare: Prepare, no_build: Callable[[], None]) -> None:
    first = prepare(folder)
    no_build()
    second = prepare(folder)
    assert second.key == first.key
    assert second.description == first.description
    assert (second.train[:] == first.train[:]).all()


def test_what_changes_the_tokens_changes_the_key(
    folder: Path, prepare: Prepare, tmp_path: Path
) -> None:
    keys = [
        prepare(folder).key,
        prepare(folder, tokenizer="bpe:300").key,
        prepare(folder, split_seed=1).key,
        prepare(folder, val_fraction=0.3).key,
        prepare(folder, max_bytes=5000).key,
    ]
    file = folder / "005.txt"
    stat = file.stat()
    file.write_bytes(file.read_bytes()[::-1].decode("utf-8", "ignore").encode()[: stat.st_size])
    file.write_bytes(file.read_bytes().ljust(stat.st_size, b"x"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    keys.append(prepare(folder).key)  # same names, sizes and times; other content
    assert len(set(keys)) == len(keys)


def test_a_large_text_is_not_read_again(
    folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_REMEMBERED", 1)
    monkeypatch.setattr(text, "_CHANGED_JUST_NOW", 0.05)
    time.sleep(0.1)
    first = prepare(folder)
    with monkeypatch.context() as patch:
        patch.setattr(text.Documents, "scan", None)
        assert prepare(folder).key == first.key
        stat = (folder / "001.txt").stat()
        (folder / "001.txt").write_bytes(b"y" * stat.st_size)
        os.utime(folder / "001.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(TypeError):  # it would be scanned, although size and time are the same
            prepare(folder)
    changed = prepare(folder)
    assert changed.key != first.key
    monkeypatch.setattr(text.Documents, "scan", None)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="no file or folder"):
        prepare(folder)


def test_a_text_that_changed_just_now_is_read_again(
    folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_REMEMBERED", 1)
    prepare(folder)
    monkeypatch.setattr(text.Documents, "scan", None)
    with pytest.raises(TypeError):
        prepare(folder)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_found(folder: Path, prepare: Prepare, tmp_path: Path) -> None:
    data = prepare(folder, tokenizer="bpe:300")
    tokens, kept = data.train[:].copy(), cache_of(tmp_path, data)
    damages: list[tuple[str, Callable[[Path], object], str]] = [
        ("train-00000.bin", flip, "its checksum is wrong"),
        ("val-00000.bin", flip, "its checksum is wrong"),
        ("train-00000.bin", lambda p: os.truncate(p, 10), "has 10 bytes, expected"),
        ("val-00000.bin", Path.unlink, "is missing"),
        ("tokenizer.json", flip, "its checksum is wrong"),
        ("tokenizer.json", Path.unlink, "cannot be read"),
        ("manifest.json", Path.unlink, "cannot be read"),
        ("manifest.json", lambda p: os.truncate(p, 20), "cannot be read"),
        ("manifest.json", lambda p: p.write_text("[]"), "cannot be read"),
        ("manifest.json", lambda p: p.write_text('{"format": 0}'), "another version"),
    ]
    for name, damage, why in damages:
        copy = tmp_path / "whole"
        shutil.copytree(kept, copy)
        damage(kept / name)
        with pytest.raises(DataError) as caught:
            prepare(folder, tokenizer="bpe:300")
        message = str(caught.value)
        assert why in message, message
        assert str(kept) in message
        assert "Delete the folder" in message
        shutil.rmtree(kept)
        copy.rename(kept)
    prepare(folder, tokenizer="bpe:300")
    flip(kept / "train-00000.bin")
    shutil.rmtree(kept)  # what the message says
    assert (prepare(folder, tokenizer="bpe:300").train[:] == tokens).all()


def test_many_shards(folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(folder, cache_dir=str(folder.parent / "one"))
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(shards, "_CHUNK", 300)
    parted = prepare(folder)
    assert len(parted.train.shards) > 5
    assert (parted.train[:] == whole.train[:]).all()
    assert (parted.val[:] == whole.val[:]).all()
    assert all_documents(parted) == all_documents(whole)
    a, b = (d.batch("train", step=1, batch_size=8, seq_len=600, seed=2) for d in (parted, whole))
    assert a[0].equal(b[0])
    assert a[1].equal(b[1])


def test_a_failed_build_leaves_nothing(
    folder: Path, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(folder, cache_dir=str(tmp_path / "other"))
    for error in (KeyboardInterrupt(), RuntimeError("boom")):
        with monkeypatch.context() as patch:

            def fail(*args: object, error: BaseException = error) -> None:
                raise error

            patch.setattr(shards, "write_json", fail)
            with pytest.raises(type(error)):
                prepare(folder)
        left = [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".lock-")]
        assert left == []
    assert (prepare(folder).train[:] == whole.train[:]).all()


def test_a_full_disk(
    folder: Path, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            prepare(folder)
    assert [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".lock-")] == []
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(StorageError, match="not enough room"):
            prepare(folder)
    prepare(folder)


def test_an_impossible_cache_folder(folder: Path, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file"):
        prepare(folder, cache_dir=str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write .*a file, not a folder"):
        prepare(folder, cache_dir=str(tmp_path / "file" / "below"))


def test_where_the_cache_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TextDataConfig((str(folder),))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSMLAB_CACHE", raising=False)
    key = prepare_text(config).key
    assert (tmp_path / "home" / ".cache" / "ssmlab" / key / "manifest.json").is_file()
    monkeypatch.setenv("SSMLAB_CACHE", str(tmp_path / "variable"))
    prepare_text(config)
    assert (tmp_path / "variable" / key / "manifest.json").is_file()


def test_a_cache_that_can_only_be_read(
    folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not stop root, so every writing call is stopped instead.
    monkeypatch.setattr(text, "_REMEMBERED", 1)
    monkeypatch.setattr(text, "_CHANGED_JUST_NOW", -1.0)
    first = prepare(folder)
    shutil.rmtree(folder.parent / "cache" / "index")

    def refuse(path: Path, *args: object) -> None:
        raise StorageError(f"cannot write {path}")

    monkeypatch.setattr(shards, "check_writable", refuse)
    monkeypatch.setattr(text, "write_json", refuse)
    assert prepare(folder).key == first.key


BUILD = """
import sys, time
from ssmlab.data import text
from ssmlab.data.config import TextDataConfig
build = text._build
def slow(*args):
    print("building", flush=True)
    build(*args)
    time.sleep(float(sys.argv[3]))
text._build = slow
data = text.prepare_text(TextDataConfig((sys.argv[1],), cache_dir=sys.argv[2]))
print(data.key, data.n_train_tokens, flush=True)
"""


def start(folder: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", BUILD, str(folder), str(cache), str(seconds)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(folder: Path, tmp_path: Path) -> None:
    both = [start(folder, tmp_path / "cache", 1.0) for _ in range(2)]
    lines = [process.communicate(timeout=60)[0].split("\n") for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(part) for part in lines) == [2, 3], "one builds, the other waits"
    assert lines[0][-2] == lines[1][-2]


def test_a_killed_build_is_done_again(folder: Path, tmp_path: Path, prepare: Prepare) -> None:
    process = start(folder, tmp_path / "cache", 60)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "building\n"
        deadline = time.monotonic() + 30
        while not list((tmp_path / "cache").glob(".build-*/manifest.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    stale = list((tmp_path / "cache").glob(".build-*"))
    assert len(stale) == 1
    data = prepare(folder)
    assert len(all_documents(data)) == 40
    assert not stale[0].exists()


def test_two_builds_without_locks(
    folder: Path, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = text._build

    def overtaken(*args: object) -> None:
        build(*args)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(text, "_build", build)
            prepare(folder)

    monkeypatch.setattr(shards, "_wait_for", lambda lock: False)
    monkeypatch.setattr(text, "_build", overtaken)
    assert len(all_documents(prepare(folder))) == 40
    assert not list((tmp_path / "cache").glob(".build-*"))


def test_progress(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    config = TextDataConfig((str(folder),), tokenizer="bpe:300", cache_dir=str(tmp_path / "c"))
    prepare_text(config, lambda stage, share: told.append((stage, share)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "reading", "training the tokenizer", "tokenising"
    ]  # fmt: skip
    for name in {stage for stage, _ in told}:
        shares = [share for stage, share in told if stage == name]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


def test_the_manifest_is_readable(tmp_path: Path, prepare: Prepare) -> None:
    write_documents(tmp_path / "in", 9)
    data = prepare(tmp_path / "in")
    manifest = json.loads((cache_of(tmp_path, data) / "manifest.json").read_text())
    assert manifest["tokenizer"] == "bytes"
    assert manifest["dtype"] == "<u2"
    assert manifest["n_documents"] == manifest["n_files"] == 9
    assert manifest["splits"]["val"]["tokens"] == data.n_val_tokens
