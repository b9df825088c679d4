"""Reading texts on the CPU, in memory shared by all blocks, against the model's own ``prefill``."""

import pytest
import torch
from torch import Tensor, nn

from ssmlab.generation.cpu import reader
from ssmlab.generation.states import read_rows
from ssmlab.models import LanguageModel
from ssmlab.ops._cpu import threads

from .conftest import build, ids
from .test_decoder import VARIANTS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def offsets(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def assert_same(got, want) -> None:
    torch.testing.assert_close(got[0], want[0], **CLOSE)
    for a, b in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(a.conv, b.conv, **CLOSE)
        torch.testing.assert_close(a.ssm, b.ssm, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_models_own_prefill(variant, count, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    model = build(**VARIANTS[variant])
    assert reader.unsupported(model) is None
    for batch, length in ((1, 1), (1, 70), (3, 19)):
        tokens = ids(batch, length) % model.config.vocab_size
        _, before = model.prefill(tokens)
        for state in (model.init_state(batch), before):
            assert_same(reader.read(model, tokens, state), model.prefill(tokens, state))


@torch.no_grad()
def test_without_torchs_own_threads(model, monkeypatch) -> None:
    want = reader.read(model, ids(2, 40), model.init_state(2))
    monkeypatch.setattr(threads, "find_team", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    got = reader.read(model, ids(2, 40), model.init_state(2))
    assert torch.equal(got[0], want[0])


@torch.no_grad()
def test_packed_texts_of_any_length(model) -> None:
    cu_seqlens = offsets(1, 40, 2, 17)
    tokens = ids(1, 60)
    _, state = model.prefill(ids(4, 5))
    got = reader.read(model, tokens, state, cu_seqlens)
    assert got[0].shape == (4, model.config.vocab_size)
    assert_same(got, model.prefill(tokens, state, cu_seqlens=cu_seqlens))


@torch.no_grad()
def test_one_block_alone() -> None:
    model = build(n_layers=1)
    assert_same(reader.read(model, ids(2, 9), model.init_state(2)), model.prefill(ids(2, 9)))


@torch.no_grad()
def test_the_same_bits_every_time_and_what_is_given_stays(model) -> None:
    _, state = model.prefill(ids(2, 6))
    copies = [(s.conv.clone(), s.ssm.clone()) for s in state]
    first = reader.read(model, ids(2, 30), state)
    again = reader.read(model, ids(2, 30), state)
    assert torch.equal(first[0], again[0])
    for a, b in zip(first[1], again[1], strict=True):
        assert torch.equal(a.conv, b.conv)
        assert torch.equal(a.ssm, b.ssm)
        # Memory of its own: the next text must not write over it.
        assert a.ssm.data_ptr() != b.ssm.data_ptr()
        assert a.conv.data_ptr() != b.conv.data_ptr()
    for (conv, ssm), now in zip(copies, state, strict=True):
        assert torch.equal(conv, now.conv)
        assert torch.equal(ssm, now.ssm)


@torch.no_grad()
def test_nan_stays_in_its_text() -> None:
    model = build()
    model.embedding.weight[7] = torch.nan
    tokens = ids(2, 12).clamp(min=8)
    tokens[0, 3] = 7
    logits, _ = reader.read(model, tokens, model.init_state(2))
    assert logits[0].isnan().all()
    # Tied: the head has the broken token too.
    assert logits[1].isnan().sum() == 1


@torch.no_grad()
def test_other_default_types_and_states_of_another_type(model) -> None:
    tokens, state = ids(2, 2), model.prefill(ids(2, 5))[1]
    want = model.prefill(tokens, state)
    wide = [type(s)(s.conv.double(), s.ssm.double()) for s in state]
    torch.set_default_dtype(torch.float64)
    try:
        got = reader.read(model, tokens, wide)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(got, want)  # the dtypes, too


@torch.no_grad()
def test_weights_count_as_they_are_now() -> None:
    model = build()
    reader.read(model, ids(1, 5), model.init_state(1))
    for parameter in model.parameters():
        parameter.mul_(1.1)
    assert_same(reader.read(model, ids(1, 5), model.init_state(1)), model.prefill(ids(1, 5)))


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """One entry for each use."""
    uses: list[int] = []
    own = reader.read

    def read(*args, **kwargs):
        uses.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(reader, "read", read)
    return uses


def rows(model: LanguageModel):
    return read_rows(model, [ids(9), ids(4, seed=2)], model.init_state(2))


def test_is_used_where_it_can_be(reads) -> None:
    model = build()
    want = rows(model)
    assert not reads  # with gradients
    with torch.no_grad():
        assert_same(rows(model), want)
        assert reads


class OwnLinear(nn.Linear):
    """A layer of somebody's own, which might do anything."""


@torch.no_grad()
@pytest.mark.parametrize(
    "change", ["hook", "forward", "autocast", "bfloat16", "kind", "layer norm"]
)
def test_other_models_are_read_by_themselves(change: str, reads) -> None:
    model, seen = build(**({"norm": "layer"} if change == "layer norm" else {})), []
    block = model.layers[1].mixer
    if change == "hook":
        block.out_proj.register_forward_hook(lambda *_: seen.append(1))
    elif change == "forward":
        block.forward = lambda *args, **kw: (
            seen.append(1) or type(block).forward(block, *args, **kw)
        )
    elif change == "bfloat16":
        model.bfloat16()
    elif change == "kind":
        block.in_proj = OwnLinear(16, 64, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=change == "autocast"):
        rows(model)
    assert not reads
    assert bool(seen) == (change in ("hook", "forward"))
