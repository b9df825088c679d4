"""Every format and way of naming files gives the documents that are in them."""

import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.data import sources
from ssmlab.data.sources import LONG_TEXT, PIECE, find_files, library_files, read_documents

from .conftest import Prepare, all_documents, sentence, write_documents

TEXTS = ["one\n", "zwei\nZeilen", "три", "四\r\n\r\nfour", '"five" \x00 \\ end']


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def parquet(path: Path, texts: list[str | None], column: str = "text") -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": list(range(len(texts))), column: texts})
    pyarrow.parquet.write_table(table, path)
    return path


def read(path: Path, field: str = "text") -> list[str]:
    return [document.decode() for document in read_documents(path, field)]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("A.JSONL.XZ", lzma.compress)],
)
def test_a_document_a_line(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(pack(jsonl(TEXTS) + b'\n{"text": null}\n{"text": ""}\n'))
    assert read(path) == TEXTS


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.txt", bytes),
        ("a.py", bytes),
        ("noending", bytes),
        ("a.txt.gz", gzip.compress),
        ("a.md.xz", lzma.compress),
        ("b.gz", gzip.compress),
    ],
)
def test_a_document_a_file(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    text = "first\r\nsecond\n\nünd"
    (tmp_path / name).write_bytes(pack(text.encode()))
    assert read(tmp_path / name) == [text]
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbf" + text.encode()))
    assert read(tmp_path / name) == [text], "a byte order mark is no text"
    (tmp_path / name).write_bytes(pack(b""))
    assert read(tmp_path / name) == []


def test_a_document_a_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [TEXTS[0], None, "", *TEXTS[1:]], column="body")
    assert read(path, "body") == TEXTS


def test_parquet_of_many_batches(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(2500)]
    assert read(parquet(tmp_path / "a.parquet", [*texts])) == texts


LINES = st.lists(st.text("aé日\n ", max_size=40), max_size=60).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=LINES, repeat=st.integers(1, 40), piece=st.integers(4, 300), limit=st.integers(4, 300))
def test_a_long_text_is_cut_without_loss(
    tmp_path_factory: pytest.TempPathFactory, text: str, repeat: int, piece: int, limit: int
) -> None:
    path = tmp_path_factory.mktemp("long") / "a.txt"
    data = (text * repeat).encode()
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE", piece)
        patch.setattr(sources, "_LONGEST_LINE", limit)
        patch.setattr(sources, "LONG_TEXT", 64)
        pieces = list(read_documents(path, "text", long_text=0))
    assert b"".join(pieces) == data
    assert all(0 < len(part) <= piece + limit for part in pieces)
    for part in pieces[:-1]:
        part.decode()
        assert len(part) >= piece - 3
        assert part.endswith(b"\n") or len(part) >= piece + limit - 3


def test_only_long_texts_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    line = b"x" * 63 + b"\n"
    path.write_bytes(line * (LONG_TEXT // 64))
    assert len(read(path)) == 1
    path.write_bytes(line * (LONG_TEXT // 64) + b"y")
    pieces = read(path)
    assert {len(piece) for piece in pieces[:-1]} == {PIECE}
    assert "".join(pieces) == path.read_text()


def test_paths(tmp_path: Path) -> None:
    write_documents(tmp_path / "a" / "b", 3)
    write_documents(tmp_path / "a", 2)
    (tmp_path / "a" / ".hidden").mkdir()
    (tmp_path / "a" / ".hidden" / "x.txt").write_text("no")
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.txt").write_text("no")
    (tmp_path / "a" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "a" / "b" / "packed.tar.gz").write_bytes(gzip.compress(b"name\0\0" + b"x" * 99))
    names = ["000.txt", "001.txt", "b/000.txt", "b/001.txt", "b/002.txt"]

    def found(*paths: str) -> list[str]:
        root = (tmp_path / "a").resolve()
        files = find_files(tuple(str(tmp_path / path) for path in paths), "data.paths")
        return [file.relative_to(root).as_posix() for file in files]

    assert found("a") == names
    assert found("a/b", "a/*.txt") == names, "the order of paths changes nothing"
    assert found("a/0*.txt", "a/b/0*.txt", "a/b/000.txt") == names, "each file once"
    assert found("a/?") == names[2:], "a glob that matches a folder takes its files"
    assert found("a/**/000.txt") == ["000.txt", "b/000.txt"]
    (tmp_path / "a" / "[1].txt").write_text("a name with magic")
    assert found("a/[1].txt") == ["[1].txt"]


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_documents(tmp_path / "books", 2)
    assert len(find_files(("~/books",), "data.paths")) == 2
    assert len(find_files(("~/books/*1.txt",), "data.paths")) == 1


def test_all_formats_together(tmp_path: Path, prepare: Prepare) -> None:
    folder = tmp_path / "in"
    texts = write_documents(folder, 10)
    rows, lines = ([sentence(seed, 9) for seed in range(a, a + 10)] for a in (100, 200))
    parquet(folder / "rows.parquet", [*rows])
    (folder / "lines.jsonl.xz").write_bytes(lzma.compress(jsonl(lines)))
    (folder / "packed.txt.gz").write_bytes(gzip.compress(b"packed"))
    data = prepare(folder, val_fraction=0.3)
    assert all_documents(data) == sorted([*texts, *rows, *lines, "packed"])
    assert data.description.startswith("in, 13 files, ")


def test_the_library_is_without_tests_and_installed_packages() -> None:
    files = library_files()
    assert len(files) > 300
    names = {file.as_posix() for file in files}
    assert any(name.endswith("/json/decoder.py") for name in names)
    for part in ("/site-packages/", "/test/", "/tests/", "/__pycache__/", "/_sysconfigdata"):
        assert not any(part in name for name in names)
    assert len(files) == len(set(files))
    assert files == sorted(files)


def test_import_is_light() -> None:
    code = (
        "import sys, ssmlab.data, ssmlab.data.text\n"
        "print([m for m in ('tokenizers', 'pyarrow', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
