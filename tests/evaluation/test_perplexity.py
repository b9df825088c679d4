"""Perplexity on text: whole documents, windows, bytes, errors."""

import math

import pytest
import torch

from ssmlab.core.errors import DataError
from ssmlab.data.tokenize import train_bpe
from ssmlab.evaluation import evaluate_text


def nats(model, text: bytes) -> float:
    ids = torch.tensor([[255, *text]])
    with torch.no_grad():
        logp = model(ids).double().log_softmax(-1)
    return -logp[0, :-1].gather(-1, ids[0, 1:, None]).sum().item()


def test_documents_are_read_from_their_start_to_their_end(model, words, tmp_path):
    texts = [b"a first text, " * 40, b"and a second one"]
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_bytes(text)
    found = evaluate_text(model, words, [str(tmp_path)])
    size = sum(len(text) for text in texts)
    expected = sum(nats(model, text) for text in texts) / size
    assert found.nats_per_token == pytest.approx(expected, rel=1e-4)
    assert found.ppl == pytest.approx(math.exp(expected), rel=1e-3)
    assert found.bits_per_byte == pytest.approx(expected / math.log(2), rel=1e-4)
    assert (found.tokens, found.documents, found.unit) == (size, 2, "segment")


def test_windows_start_anew(model, words, tmp_path):
    text = bytes(range(97, 117)) * 2
    (tmp_path / "a.txt").write_bytes(text)
    found = evaluate_text(model, words, [str(tmp_path / "a.txt")], window=9)
    ids = [255, *text]
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(ids) - 1, 8):
            part = torch.tensor([ids[first : first + 9]])
            logp = model(part).double().log_softmax(-1)[0, :-1]
            total -= logp.gather(-1, part[0, 1:, None]).sum().item()
    assert found.tokens == len(text)
    assert found.nats_per_token == pytest.approx(total / len(text), rel=1e-4)


def test_the_error_is_over_documents_where_there_are_many(model, words, tmp_path):
    texts = [(f"document {i} " * (1 + i % 4)).encode() for i in range(40)]
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_bytes(text)
    found = evaluate_text(model, words, [str(tmp_path)])
    assert found.unit == "document"
    sums = [nats(model, text) for text in texts]
    counts = [len(text) for text in texts]
    average = sum(sums) / sum(counts)
    spread = sum((s - average * n) ** 2 for s, n in zip(sums, counts, strict=True)) * 40 / 39
    assert found.stderr == pytest.approx(math.sqrt(spread) / sum(counts), rel=1e-3)


def test_bits_per_byte_do_not_depend_on_tokens_per_byte(tmp_path):
    words = train_bpe([b"the state space " * 9], 280, "b")
    (tmp_path / "a.txt").write_bytes(b"the state space the state")
    from ssmlab.models import LanguageModel, LanguageModelConfig

    model = LanguageModel(LanguageModelConfig(vocab_size=words.vocab_size, d_model=16, n_layers=1))
    found = evaluate_text(model.eval(), words, [str(tmp_path / "a.txt")])
    bits = found.nats_per_token * found.tokens / math.log(2)
    assert found.tokens < 25
    assert found.bits_per_byte == pytest.approx(bits / 25)


def test_at_most_so_many_tokens(model, words, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    found = evaluate_text(model, words, [str(tmp_path / "a.txt")], max_tokens=100)
    assert found.tokens == 100
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / math.log(2))


def test_bad_input(model, words, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        evaluate_text(model, words, [str(tmp_path / "nowhere.txt")])
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError, match="no token to score"):
        evaluate_text(model, words, [str(tmp_path / "empty.txt")])
    with pytest.raises(DataError, match="window is 1"):
        evaluate_text(model, words, [str(tmp_path / "empty.txt")], window=1)
