"""Bad input is told before any training: which file, where, what was expected, what to do."""

import gzip
import lzma
from pathlib import Path

import pytest

from ssmlab.core.errors import ConfigError, DataError
from ssmlab.data.config import TextDataConfig
from ssmlab.data.text import check_text

from .conftest import Prepare, write_documents
from .test_formats import parquet


def refused(prepare: Prepare, path: Path | str, words: str, **keys: object) -> None:
    with pytest.raises(DataError, match=words):
        prepare(path, **keys)


def test_paths_that_name_nothing(tmp_path: Path, prepare: Prepare) -> None:
    refused(prepare, tmp_path / "nowhere", r"data\.paths: there is no file or folder '.*nowhere'")
    refused(prepare, tmp_path / "*.txt", r"data\.paths: no file matches .*glob such as")
    (tmp_path / "empty").mkdir()
    refused(prepare, tmp_path / "empty", r"'.*empty' holds no text file; put text there")
    refused(prepare, tmp_path / "e*", "holds no text file")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    refused(prepare, tmp_path / "link.txt", "neither a file nor a folder .a broken link")
    write_documents(tmp_path / "in", 5)
    refused(
        prepare, tmp_path / "in", r"data\.val_paths: there is no file", val_paths=("nowhere.txt",)
    )


def test_a_folder_of_binary_files_alone(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"\x89PNG\0\0")
    refused(prepare, tmp_path / "in", "holds no text file")
    refused(prepare, tmp_path / "in" / "a.png", r"a\.png is not text: byte 4 is zero; give UTF-8")


def test_empty_files(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    (tmp_path / "in" / "b.jsonl").write_text('\n{"text": ""}\n')
    refused(prepare, tmp_path / "in", "no text in in: all files are empty")


def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "in", 5)

    def forbidden(*args: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "in"))

    monkeypatch.setattr("os.scandir", forbidden)
    refused(prepare, tmp_path / "in", r"cannot list the folder .*in: Permission denied; make it")


def test_a_file_that_cannot_be_read(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "in", 5)

    def forbidden(path: Path, packed: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("ssmlab.data.sources._open", forbidden)
    refused(prepare, tmp_path / "in", r"cannot read .*000\.txt: Permission denied; mend it or")


def test_not_utf8(tmp_path: Path, prepare: Prepare) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9 au lait".encode("latin-1"))
    refused(prepare, path, r"latin\.txt is not UTF-8 text: byte 3 is 0xe9; convert it")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    refused(prepare, tmp_path / "bom.txt", "byte 5 is 0xff")
    (tmp_path / "wide.txt").write_bytes("wide".encode("utf-16"))
    refused(prepare, tmp_path / "wide.txt", r"wide\.txt is not text: byte 3 is zero")
    # Far into a long file, beyond its first piece, and inside of a packed one.
    good = b"a line of text\n" * 40_000
    for name, pack in (("long.txt", bytes), ("long.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(good + b"\xe9t\xe9\n" + good))
        refused(prepare, tmp_path / name, rf"{name} is not UTF-8 text: byte {len(good)} is 0xe9")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    refused(prepare, tmp_path / "a.jsonl", r"byte 24 \(line 2\) is 0xe9")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.jsonl.gz"])
def test_broken_packed_files(tmp_path: Path, prepare: Prepare, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else lzma.compress
    whole = pack(b'{"text": "some text of some length"}\n' * 2000)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    refused(prepare, path, rf"{name} is damaged or not a \.[gx]z file .*fetch it again")
    path.write_bytes(b"not packed at all")
    refused(prepare, path, rf"{name} is damaged or not a \.[gx]z file")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    path.write_bytes(damaged)
    refused(prepare, path, name)  # the checksum at the end, or what is in it, tells


def test_broken_parquet(tmp_path: Path, prepare: Prepare) -> None:
    path = parquet(tmp_path / "a.parquet", [f"row {number}" for number in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    refused(prepare, path, r"a\.parquet is damaged or not a \.parquet file")
    path.write_bytes(b"not a table")
    refused(prepare, path, r"a\.parquet is damaged or not a \.parquet file")
    path.write_bytes(b"")
    refused(prepare, path, r"a\.parquet is damaged or not a \.parquet file")
    parquet(path, ["a"], column="body")
    refused(prepare, path, r"expected a column 'text', given 'id', 'body'; set data\.text_field")
    refused(prepare, path, r"row 1: 'id' is of type int, expected text", text_field="id")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"body": "x", "id": 3}', r"line 3: expected .* in 'text', given 'body', 'id'; set data"),
        ("{}", "line 3: expected an object with the text in 'text', given no fields"),
        ('"text"', "line 3: expected an object with the text in 'text', given str"),
        ('{"text": 3}', "line 3: 'text' is of type int, expected text"),
        ('{"text": "a"', "line 3: not JSON .*; give one JSON object a line"),
        ('{"text": "\\ud800"}', "line 3: text with half a surrogate pair"),
        ("[" * 100_000, "line 3: not JSON"),
    ],
)
def test_broken_lines(tmp_path: Path, prepare: Prepare, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one"}}\n\n{line}\n')
    refused(prepare, path, rf"a\.jsonl, {words}")


def test_too_few_documents(tmp_path: Path, prepare: Prepare) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a single short text")
    refused(prepare, path, r"too short to split: .* 19 bytes; give more text, or .*data\.val_paths")
    (tmp_path / "b.txt").write_text("a single short text")
    refused(prepare, tmp_path / "?.txt", "too short to split")
    (tmp_path / "c.txt").write_text("another one")
    refused(prepare, tmp_path / "?.txt", r"max_bytes=5 has room for no document.*11", max_bytes=5)


def test_the_same_file_on_both_sides(tmp_path: Path, prepare: Prepare) -> None:
    write_documents(tmp_path / "in", 5)
    refused(
        prepare,
        tmp_path / "in",
        r"002\.txt is in data\.paths and in data\.val_paths; .*leave it out of one",
        val_paths=(str(tmp_path / "in" / "002.txt"),),
    )
    copy = tmp_path / "copy"
    write_documents(copy, 5)
    refused(prepare, tmp_path / "in", r"no text in data\.paths .*the same", val_paths=(str(copy),))
    (tmp_path / "empty.txt").write_text("")
    empty = (str(tmp_path / "empty.txt"),)
    refused(prepare, tmp_path / "in", r"no text in data\.val_paths", val_paths=empty)


def test_too_few_tokens(tmp_path: Path, folder: Path) -> None:
    config = TextDataConfig((str(folder),), cache_dir=str(tmp_path / "cache"))
    data = check_text(config, 100, 100)
    assert check_text(config, data.n_train_tokens, data.n_val_tokens).key == data.key
    words = rf"training text has {data.n_train_tokens} tokens .* at least {10**6} are needed; give"
    with pytest.raises(DataError, match=words):
        check_text(config, 10**6, 100)
    words = rf"validation text has {data.n_val_tokens} tokens .* at least {10**6} are needed; give"
    with pytest.raises(DataError, match=words):
        check_text(config, 100, 10**6)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"val_fraction": 0.0}, r"val_fraction is 0\.0: expected a share between 0 and 1"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"split_seed": -1}, "split_seed is -1: expected 0 or more"),
        ({"max_bytes": 0}, "max_bytes is 0: expected 1 or more"),
        ({"text_field": ""}, "text_field is empty"),
        ({"paths": ("a", " ")}, r"data\.paths has an empty path"),
    ],
)
def test_impossible_configs(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TextDataConfig(**keys)  # type: ignore[arg-type]
