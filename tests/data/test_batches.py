"""Training batches are a pure function; validation windows cover the held-out text once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import DataError
from ssmlab.data.shards import TokenArray
from ssmlab.data.text import TextData


def text_of(n_train: int, n_val: int, cuts: tuple[int, ...] = ()) -> TextData:
    """Tokens that tell their place: train 0, 1, ...; val 100000, 100001, ..."""
    places = np.arange(n_train, dtype=np.uint32)
    shards = [shard for shard in np.split(places, sorted(cuts)) if len(shard)]
    held = TokenArray([np.arange(100_000, 100_000 + n_val, dtype=np.uint32)])
    return TextData(200_000, TokenArray(shards), held, "key", "places", 1.0)


@settings(max_examples=80, deadline=None)
@given(
    extra=st.integers(1, 50),
    seq_len=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**40),
    cuts=st.lists(st.integers(0, 90), max_size=4),
)
def test_batches_are_windows_of_the_text(
    extra: int, seq_len: int, batch_size: int, step: int, seed: int, cuts: list[int]
) -> None:
    n = seq_len + extra
    data = text_of(n, 2, tuple(cut for cut in cuts if cut <= n))
    draw = {"split": "train", "step": step, "batch_size": batch_size}
    inputs, targets = data.batch(**draw, seq_len=seq_len, seed=seed)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (batch_size, seq_len)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs - inputs[:, :1], torch.arange(seq_len).expand_as(inputs))
    assert int(inputs.min()) >= 0
    assert int(targets.max()) < n
    again = data.batch(**draw, seq_len=seq_len, seed=seed)
    assert torch.equal(again[0], inputs)


def test_every_place_is_drawn_evenly() -> None:
    data = text_of(21, 2)
    starts = data.batch("train", step=0, batch_size=20_000, seq_len=1, seed=0)[0][:, 0]
    counts = torch.bincount(starts, minlength=20)
    assert len(counts) == 20, "the last window has its target"
    assert counts.min() > 850
    assert counts.max() < 1150


def test_steps_and_seeds_draw_differently() -> None:
    data = text_of(10_000, 2)
    drawn = {
        tuple(data.batch("train", step, 4, 8, seed)[0][:, 0].tolist())
        for step in range(20)
        for seed in range(20)
    }
    assert len(drawn) == 400


def test_the_draw_is_what_it_was() -> None:
    # A stored checkpoint goes on with the same batches only if these never change.
    starts = text_of(1000, 2).batch("train", step=3, batch_size=4, seq_len=8, seed=5)[0][:, 0]
    assert starts.tolist() == [920, 745, 606, 408]


def test_batch_of_the_held_out_text() -> None:
    assert text_of(10, 50).batch("val", 0, 4, 8, 0)[0].min() >= 100_000


def test_wrong_arguments() -> None:
    data = text_of(10, 10)
    with pytest.raises(ValueError, match="expected 'train' or 'val'"):
        data.batch("test", 0, 1, 1, 0)
    for step, batch_size, seq_len, seed in (
        (-1, 1, 1, 0),
        (0, 0, 1, 0),
        (0, 1, 0, 0),
        (0, 1, 1, -1),
    ):
        with pytest.raises(ValueError, match="must be"):
            data.batch("train", step, batch_size, seq_len, seed)
    with pytest.raises(DataError, match=r"training text has 10 tokens .* at least 11 are needed"):
        data.batch("train", 0, 1, 10, 0)
    assert data.batch("train", 0, 3, 9, 0)[0].tolist() == [list(range(9))] * 3
    with pytest.raises(ValueError, match="must be 1 or more"):
        list(data.val_batches(1, 0, 10))


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 7),
    seq_len=st.integers(1, 30),
    max_tokens=st.integers(0, 300),
)
def test_validation_windows(n: int, batch_size: int, seq_len: int, max_tokens: int) -> None:
    data = text_of(5, n)
    batches = list(data.val_batches(batch_size, seq_len, max_tokens))
    windows = min((n - 1) // seq_len, max_tokens // seq_len)
    assert sum(len(inputs) for inputs, _ in batches) == windows
    assert all(len(inputs) == batch_size for inputs, _ in batches[:-1])
    if windows == 0:
        return
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == (windows, seq_len)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs - inputs[:, :1], torch.arange(seq_len).expand_as(inputs))
    assert (inputs[1:, 0] - inputs[:-1, 0] >= seq_len).all(), "windows overlap or go back"
    assert targets.unique().numel() == windows * seq_len, "a token is a target twice"
    assert int(targets.max()) < 100_000 + n
    again = list(data.val_batches(batch_size, seq_len, max_tokens))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    if max_tokens >= n:  # all of it, without gaps
        assert torch.equal(inputs.flatten(), 100_000 + torch.arange(windows * seq_len))


def test_token_array() -> None:
    tokens = text_of(50, 2, (7, 20)).train
    assert len(tokens) == 50
    assert [tokens[i] for i in (0, 6, 7, -1)] == [0, 6, 7, 49]
    assert tokens[5:23].tolist() == list(range(5, 23))
    assert tokens[-3:].tolist() == [47, 48, 49]
    assert tokens[:].dtype == np.int64
    assert tokens[9:9].tolist() == tokens[9:3].tolist() == []
    for place in (50, -51):
        with pytest.raises(IndexError):
            tokens[place]
    with pytest.raises(IndexError):
        tokens.read(45, 6)
    with pytest.raises(ValueError, match="step of 2"):
        tokens[::2]
