"""The split: fixed by content, no document on both sides, stable as the corpus grows."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import DataError
from ssmlab.data.config import TextDataConfig
from ssmlab.data.documents import Documents
from ssmlab.data.sources import PIECE
from ssmlab.data.text import prepare_text

from .conftest import Prepare, all_documents, documents_of, sentence, write_documents


def test_both_sides_together_are_the_corpus(folder: Path, prepare: Prepare) -> None:
    data = prepare(folder, val_fraction=0.25)
    assert all_documents(data) == sorted(file.read_text() for file in folder.iterdir())
    assert 2 <= len(documents_of(data.val)) <= 20


def test_the_split_is_what_it_was(prepare: Prepare, folder: Path) -> None:
    # The numbers are those of today: other ones would silently change every user's held-out text.
    held = documents_of(prepare(folder, val_fraction=0.25).val)
    assert sorted(int(text.partition(":")[0]) for text in held) == [
        1,
        2,
        4,
        6,
        7,
        11,
        13,
        15,
        19,
        20,
        21,
        23,
        24,
        25,
        30,
        31,
        35,
        36,
        38,
    ]


def test_the_share_is_the_one_asked_for(tmp_path: Path, prepare: Prepare) -> None:
    lines = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(4000))
    (tmp_path / "a.jsonl").write_text(lines)
    held = documents_of(prepare(tmp_path / "a.jsonl", val_fraction=0.1).val)
    assert 320 < len(held) < 480  # 400 +- four standard deviations


def test_more_documents_move_none(folder: Path, prepare: Prepare) -> None:
    before = prepare(folder, val_fraction=0.25)
    write_documents(folder / "new", 30, first=500)
    after = prepare(folder, val_fraction=0.25)
    assert set(documents_of(before.val)) < set(documents_of(after.val))
    assert set(documents_of(before.train)) < set(documents_of(after.train))


def test_places_and_names_change_nothing(tmp_path: Path, folder: Path, prepare: Prepare) -> None:
    before = prepare(folder, val_fraction=0.25)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        (moved / f"{number}.md").write_bytes(file.read_bytes())
    after = prepare(moved, val_fraction=0.25)
    assert after.key == before.key
    assert after.description.startswith("elsewhere, 40 files")
    other_cache = prepare(moved, val_fraction=0.25, cache_dir=str(tmp_path / "other"))
    assert (other_cache.train[:] == before.train[:]).all()
    assert (other_cache.val[:] == before.val[:]).all()


def test_equal_documents_are_on_one_side(folder: Path, tmp_path: Path, prepare: Prepare) -> None:
    for file in list(folder.iterdir()):
        (folder / f"copy-{file.name}").write_bytes(file.read_bytes())
    data = prepare(folder, val_fraction=0.5)
    train, val = documents_of(data.train), documents_of(data.val)
    assert not set(train) & set(val)
    assert len(train) + len(val) == 80


def test_seed_and_share(folder: Path, prepare: Prepare) -> None:
    sides = {
        (share, seed): set(documents_of(prepare(folder, val_fraction=share, split_seed=seed).val))
        for share in (0.25, 0.5)
        for seed in (0, 1)
    }
    assert sides[0.25, 0] != sides[0.25, 1]
    assert sides[0.25, 0] < sides[0.5, 0]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=25),
    share=st.floats(0.01, 0.99),
    limit=st.none() | st.integers(1, 800),
)
def test_any_small_corpus(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], share: float, limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("any")
    texts = [f"{number} " + "x" * size for number, size in enumerate(sizes)]
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    config = TextDataConfig((str(folder),), val_fraction=share, max_bytes=limit)
    documents = Documents.find(config)
    try:
        chosen = documents.scan(lambda share: None).documents
    except DataError:  # no room for two documents
        assert limit is not None
        assert limit < sum(sorted(map(len, texts))[-2:])
        return
    kept = [text.decode() for _, text in documents.read(chosen)]
    assert len(set(kept)) == len(kept)
    assert {document.split for document in chosen} == {"train", "val"}
    if limit is None:
        assert sorted(kept) == sorted(texts)
    else:
        room = limit - sum(map(len, kept))
        assert room >= 0
        assert all(len(text) > room for text in texts if text not in kept)


def test_one_big_file_is_split(tmp_path: Path, prepare: Prepare) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(sentence(seed, 60) for seed in range(1500)))
    data = prepare(path)
    assert data.n_val_tokens > PIECE
    assert data.n_train_tokens > 10 * PIECE
    parts = all_documents(data)
    # An end token stands only where the text was parted, so there are few.
    assert len(parts) < 60
    assert sum(len(part.encode()) for part in parts) == path.stat().st_size
    text = path.read_text()
    assert all(part in text for part in parts)


def test_one_short_file_is_split(tmp_path: Path, prepare: Prepare) -> None:
    path = tmp_path / "short.txt"
    path.write_text("".join(sentence(seed, 60) for seed in range(100)))
    assert 2 * PIECE < path.stat().st_size < 8 * PIECE
    data = prepare(path)
    assert sorted("".join(all_documents(data))) == sorted(path.read_text())
    assert min(data.n_train_tokens, data.n_val_tokens) > 1000


def test_two_documents_are_enough(tmp_path: Path, prepare: Prepare) -> None:
    for share in (0.001, 0.999):
        for number in range(2):
            (tmp_path / f"{number}.txt").write_text(f"document {number}")
        data = prepare(tmp_path / "0.txt", tmp_path / "1.txt", val_fraction=share)
        assert len(documents_of(data.train)) == len(documents_of(data.val)) == 1


def test_explicit_validation_files(tmp_path: Path, folder: Path, prepare: Prepare) -> None:
    held = tmp_path / "held"
    write_documents(held, 5, first=900)
    shared = (folder / "007.txt").read_text()
    (held / "copy.txt").write_text(shared)
    data = prepare(folder, val_paths=(str(held),), val_fraction=0.0)
    assert sorted(documents_of(data.val)) == sorted(f.read_text() for f in held.iterdir())
    assert shared not in documents_of(data.train), "a held-out document was trained on"
    assert len(documents_of(data.train)) == 39


def test_max_bytes_spares_the_validation_files(
    tmp_path: Path, folder: Path, prepare: Prepare
) -> None:
    held = tmp_path / "held"
    write_documents(held, 5, first=900)
    data = prepare(folder, val_paths=(str(held),), max_bytes=3000)
    assert len(documents_of(data.val)) == 5
    used = sum(len(text.encode()) for text in documents_of(data.train))
    assert 1000 < used <= 3000


def test_max_bytes_grows_by_whole_documents(folder: Path, prepare: Prepare) -> None:
    small = set(all_documents(prepare(folder, max_bytes=4000, val_fraction=0.3)))
    large = set(all_documents(prepare(folder, max_bytes=9000, val_fraction=0.3)))
    originals = {file.read_text() for file in folder.iterdir()}
    assert small < originals
    assert large < originals
    assert len(small) < len(large)


def test_a_file_that_changes_while_it_is_read(folder: Path) -> None:
    documents = Documents.find(TextDataConfig((str(folder),)))
    chosen = documents.scan(lambda share: None).documents
    (folder / "003.txt").write_text("something else")
    with pytest.raises(DataError, match=r"003\.txt changed while it was being read"):
        list(documents.read(chosen))
    (folder / "003.txt").write_text("")
    with pytest.raises(DataError, match=r"003\.txt changed while it was being read"):
        list(documents.read(chosen))


def test_the_default_corpus(tmp_path: Path) -> None:
    data = prepare_text(TextDataConfig(cache_dir=str(tmp_path), max_bytes=2_000_000))
    assert data.description.startswith("Python standard library, ")
    assert data.description.endswith(" MB, bytes")
    assert data.n_train_tokens > 1_500_000
    assert data.n_val_tokens > 10_000
    assert "import" in data.decode(data.val[:20_000])
