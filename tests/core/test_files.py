"""Atomic writing: all or nothing, and what is said when it cannot be."""

import errno
import json
import os
import stat
from types import SimpleNamespace

import pytest

from ssmlab.core import files
from ssmlab.core.errors import StorageError
from ssmlab.core.files import check_writable, storage_error, write_atomic, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json_are_written_with_their_folders(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "Δ\n")
    write_json(tmp_path / "c.json", {"Δ": [1, None]})
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "Δ\n"
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == {"Δ": [1, None]}


def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path):
    def fail(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="the disk is full"):
        write_atomic(tmp_path / "a.txt", fail)
    assert names(tmp_path) == []


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_are_as_readable_as_any_other(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]


def test_a_path_through_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot write .*not a folder|cannot write .*exists"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_the_systems_errors_in_words(number, said):
    error = storage_error("x/y", OSError(number, os.strerror(number)))
    assert str(error).startswith("cannot write x/y: ")
    assert said in str(error)


def test_writable_folders_are_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "folder", free_bytes=1)
    assert names(tmp_path / "new" / "folder") == []


def test_too_little_room_is_said_in_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(StorageError, match="5 MB needed, 3 MB free"):
        check_writable(tmp_path, free_bytes=5_000_000)
