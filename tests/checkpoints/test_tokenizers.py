"""Tokenizers beside weights: found, kept, handed on."""

import pytest

from ssmlab.checkpoints import load_tokenizer
from ssmlab.core.errors import CheckpointError, DataError
from ssmlab.data.tokenize import ByteTokenizer, train_bpe
from tests.shared import shared_data

SHARED = shared_data("tokenizers")
TEXT = "A naïve test: 日本 <|endoftext|>\n\n  def f(x):\treturn x"


@pytest.fixture(scope="module")
def bpe():
    return train_bpe([b"the state of the art", b"def scan(state): return state"] * 5, 300, "bpe")


@pytest.mark.parametrize("format", ["ssmlab", "mamba_ssm", "transformers"])
def test_a_tokenizer_is_kept_with_the_weights(format, ours, bpe, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", format, tokenizer=bpe)
    again = load_tokenizer(folder)
    assert again.vocab_size == bpe.vocab_size
    assert again.end == bpe.end
    assert (again.encode([TEXT.encode()])[0] == bpe.encode([TEXT.encode()])[0]).all()


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_transformers_reads_what_we_write(kind, ours, bpe, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = bpe if kind == "bpe" else ByteTokenizer()
    folder = ours().save_pretrained(tmp_path / "m", "transformers", tokenizer=tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = TEXT.replace("<|endoftext|>", "")  # theirs takes the spelling for the token
    ids = theirs(text)["input_ids"]
    assert ids == tokenizer.encode([text.encode()])[0].tolist()
    assert theirs.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.end
    assert transformers.AutoConfig.from_pretrained(folder).eos_token_id == tokenizer.end


def test_bytes_in_our_own_format_need_no_file(ours, tmp_path):
    folder = ours().save_pretrained(tmp_path / "m", tokenizer=ByteTokenizer())
    assert isinstance(load_tokenizer(folder), ByteTokenizer)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_without_one_says_what_to_give(saved):
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json.*--tokenizer"):
        load_tokenizer(saved)


def test_vocabulary_without_merges(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(DataError, match=r"merges\.txt"):
        load_tokenizer(tmp_path / "vocab.json")


@pytest.mark.skipif(SHARED is None, reason="the public tokenizers are not on this machine")
def test_gpt2_and_neox_agree_with_transformers():
    transformers = pytest.importorskip("transformers")
    gpt2 = load_tokenizer(SHARED / "gpt2_vocab.json")
    assert (gpt2.vocab_size, gpt2.end) == (50257, 50256)
    assert gpt2.encode([b"Hello world"])[0].tolist() == [15496, 995]
    neox = load_tokenizer(SHARED / "gpt_neox_20b_tokenizer.json")
    assert (neox.vocab_size, neox.end) == (50277, 0)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(SHARED / "gpt_neox_20b_tokenizer.json")
    )
    text = TEXT.replace("<|endoftext|>", "")
    assert neox.encode([text.encode()])[0].tolist() == theirs(text)["input_ids"]
    for tokenizer in (gpt2, neox):
        assert tokenizer.decode(tokenizer.encode([TEXT.encode()])[0]) == TEXT
