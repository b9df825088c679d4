"""Tokenizers: what is encoded comes back, nothing is added, the same text gives the same one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import ConfigError, DataError
from ssmlab.data.config import TextDataConfig
from ssmlab.data.text import TextData
from ssmlab.data.tokenize import ByteTokenizer, FileTokenizer, train_bpe

from .conftest import Prepare, all_documents

TRAIN = ["def scan(state, step):\n    return state * step\n", "the state of the art naïve 日本"] * 9


@pytest.fixture(scope="module")
def bpe() -> FileTokenizer:
    return train_bpe([text.encode() for text in TRAIN], 300, "bpe:300")


def split_documents(data: TextData, tokens: np.ndarray) -> list[str]:
    places = np.flatnonzero(tokens == data.end)
    assert places[-1] == len(tokens) - 1
    return [data.decode(part) for part in np.split(tokens, places + 1)[:-1]]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200))
def test_round_trip(bpe: FileTokenizer, text: str) -> None:
    for tokenizer in (bpe, ByteTokenizer()):
        (ids,) = tokenizer.encode([text.encode()])
        assert tokenizer.decode(ids) == text
        assert tokenizer.end not in ids
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size


def test_a_special_token_in_the_text_is_text(bpe: FileTokenizer) -> None:
    (ids,) = bpe.encode([b"a<|endoftext|>b"])
    assert bpe.end not in ids
    assert bpe.decode(ids) == "a<|endoftext|>b"


def test_a_trained_one_is_smaller_than_bytes_and_no_larger_than_asked(bpe: FileTokenizer) -> None:
    assert bpe.vocab_size == 300
    text = TRAIN[0].encode()
    assert len(bpe.encode([text])[0]) < len(text) / 2
    assert 257 < train_bpe([b"abab abab"], 5000, "bpe:5000").vocab_size < 270


def test_training_is_the_same_in_every_process(tmp_path: Path, folder: Path) -> None:
    code = (
        "import sys; from ssmlab.data.text import prepare_text\n"
        "from ssmlab.data.config import TextDataConfig as C\n"
        "data = prepare_text(C((sys.argv[1],), tokenizer='bpe:300', cache_dir=sys.argv[2]))\n"
        "print(data.key, data.vocab_size)"
    )
    kept = []
    for name in ("a", "b"):
        cache = tmp_path / name
        call = [sys.executable, "-c", code, str(folder), str(cache)]
        out = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        key, size = out.split()
        assert size == "300"
        files = sorted((cache / key).iterdir())
        kept.append({file.name: file.read_bytes() for file in files})
    assert kept[0] == kept[1]
    assert set(kept[0]) == {"manifest.json", "tokenizer.json", "train-00000.bin", "val-00000.bin"}


def test_documents_come_back(folder: Path, prepare: Prepare) -> None:
    data = prepare(folder, tokenizer="bpe:300", val_fraction=0.3)
    parts = [split_documents(data, part[:]) for part in (data.train, data.val)]
    assert sorted(parts[0] + parts[1]) == sorted(file.read_text() for file in folder.iterdir())
    assert data.vocab_size == 300
    assert data.description.endswith("bpe:300")
    held = sum(len(text.encode()) for text in parts[1])
    assert data.bytes_per_token == pytest.approx(held / data.n_val_tokens)
    assert data.bytes_per_token > 1.5


def test_it_is_trained_on_the_training_documents_alone(tmp_path: Path, prepare: Prepare) -> None:
    for name, word in (("train", "abcd"), ("held", "wxyz")):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.txt").write_text(f"{word} " * 50 + str(number))
    data = prepare(tmp_path / "train", val_paths=(str(tmp_path / "held"),), tokenizer="bpe:300")
    assert data.tokenizer_path is not None
    vocabulary = json.loads(data.tokenizer_path.read_text())["model"]["vocab"]
    assert "abcd" in vocabulary
    assert "wx" not in vocabulary


def test_load_a_tokenizer(tmp_path: Path, folder: Path, prepare: Prepare) -> None:
    trained = prepare(folder, tokenizer="bpe:300")
    assert trained.tokenizer_path is not None
    home = tmp_path / "mine"
    home.mkdir()
    loaded = json.loads(trained.tokenizer_path.read_text())
    # Settings for batches of questions, which must not touch a text that is read whole.
    loaded["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    (home / "tokenizer.json").write_text(json.dumps(loaded))
    by_folder = prepare(folder, tokenizer=str(home))
    by_file = prepare(folder, tokenizer=str(home / "tokenizer.json"))
    assert by_folder.key == by_file.key != trained.key
    assert (by_folder.train[:] == trained.train[:]).all()
    assert by_folder.end == trained.end == 0
    shutil.rmtree(home)
    assert by_folder.decode(by_folder.val[:]) == trained.decode(trained.val[:])


def test_another_tokenizer_in_the_same_place_is_another_text(
    tmp_path: Path, folder: Path, prepare: Prepare
) -> None:
    path = tmp_path / "tokenizer.json"
    keys = []
    for size in (300, 310):
        path.write_text(train_bpe([text.encode() for text in TRAIN], size, "x").tokenizer.to_str())
        keys.append(prepare(folder, tokenizer=str(path)).key)
    assert keys[0] != keys[1]


def test_a_large_vocabulary_takes_four_bytes(
    tmp_path: Path, folder: Path, prepare: Prepare
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    for size, width in ((65536, 2), (65537, 4)):
        words = {f"<{number}>": number for number in range(size - 1)} | {"scan": size - 1}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<0>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
        tokenizer.save(str(tmp_path / "large.json"))
        data = prepare(folder, tokenizer=str(tmp_path / "large.json"))
        assert data.vocab_size == size
        assert data.end is None
        assert data.train[:].max() == size - 1
        assert data.tokenizer_path is not None
        shard = data.tokenizer_path.parent / "train-00000.bin"
        assert shard.stat().st_size == width * data.n_train_tokens


def test_bytes(folder: Path, prepare: Prepare) -> None:
    data = prepare(folder)
    assert (data.vocab_size, data.end, data.tokenizer_path) == (256, 255, None)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert data.n_train_tokens + data.n_val_tokens == size + 40
    text = data.decode(data.val[:])
    assert len(text.encode()) / data.n_val_tokens == pytest.approx(data.bytes_per_token)
    assert len(all_documents(data)) == 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("byte", r"'byte'.*did you mean 'bytes'\?.*give bytes, bpe:4096"),
        ("bpe4096", r"did you mean 'bpe:4096'\?"),
        ("/no/such/tokenizer.json", "there is no such file"),
        ("{tmp}", r"the folder has no tokenizer\.json"),
        ("{tmp}/broken.json", r"broken\.json is not a tokenizer\.json that can be read"),
        ("{tmp}/empty.json", "empty vocabulary"),
    ],
)
def test_unusable_tokenizers(
    tmp_path: Path, folder: Path, prepare: Prepare, name: str, words: str
) -> None:
    from tokenizers import Tokenizer, models

    (tmp_path / "broken.json").write_text("{}")
    Tokenizer(models.BPE()).save(str(tmp_path / "empty.json"))
    with pytest.raises(DataError, match=words):
        prepare(folder, tokenizer=name.replace("{tmp}", str(tmp_path)))
    assert not list(tmp_path.glob("cache/.build-*")), "a failed build left its folder"


@pytest.mark.parametrize("name", ["bpe:", "bpe:4k", "bpe:100", "bpe:99999999", "bpe:-1", " "])
def test_impossible_tokenizers(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer .*expected"):
        TextDataConfig(tokenizer=name)
