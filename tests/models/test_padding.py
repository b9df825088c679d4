"""Padded batches equal each row alone, whatever the blocks and the side of the padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models import LanguageModel, LanguageModelConfig
from ssmlab.models.padding import pad_left

VOCAB = 31


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    # Biases everywhere: padding that got into a block would leave a trace.
    mamba = MambaConfig(bias=True, ssm=S6Config(d_state=4))
    config = LanguageModelConfig(
        vocab_size=VOCAB, d_model=16, pattern="M F", n_layers=4, mamba=mamba
    )
    model = LanguageModel(config).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), left=st.booleans())
def test_padded_rows_equal_rows_alone(model, lengths, left):
    draw = torch.Generator().manual_seed(len(lengths))
    rows = [torch.randint(0, VOCAB, (n,), generator=draw) for n in lengths]
    ids, mask = pad_left(rows, pad=3)
    if not left:
        ids, mask = torch.zeros_like(ids), mask.flip(1)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
    logits, state = model(ids, attention_mask=mask, return_state=True)
    last, same = model.prefill(ids, attention_mask=mask)
    for index, row in enumerate(rows):
        alone, own = model(row[None], return_state=True)
        torch.testing.assert_close(logits[index][mask[index]], alone[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(last[index], alone[0, -1], rtol=1e-9, atol=1e-11)
        for whole, again, part in zip(state, same, own, strict=True):
            if part is not None:
                torch.testing.assert_close(whole.ssm[index], part.ssm[0], rtol=1e-9, atol=1e-11)
                torch.testing.assert_close(again.conv[index], part.conv[0], rtol=1e-9, atol=1e-11)
    assert not logits[~mask].any()


def test_gradients_do_not_come_from_padding(model):
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    ids, mask = pad_left(rows, pad=9)
    model.zero_grad()
    model(ids, attention_mask=mask)[mask].sum().backward()
    padded = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sum(model(row[None]).sum() for row in rows).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(padded[name], p.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([[1, 1, 1], [0, 0, 0]], "row 1 has no token"),
        ([[1, 0, 1], [1, 1, 1]], "row 0 has no token, or padding between"),
        ([[1, 1, 1]], r"expected the shape \(B, L\) of input_ids \(2, 3\), got \(1, 3\)"),
    ],
)
def test_masks_that_cannot_be(model, mask, said):
    with pytest.raises(ValueError, match=said):
        model(torch.ones(2, 3, dtype=torch.long), attention_mask=torch.tensor(mask))


def test_a_mask_and_offsets_exclude_each_other(model):
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="both given"):
        model(ids, attention_mask=ids, cu_seqlens=torch.tensor([0, 3], dtype=torch.int32))


def test_prefill_goes_on_from_a_state(model):
    ids = torch.arange(10)[None]
    _, state = model.prefill(ids[:, :6])
    logits, _ = model.prefill(ids[:, 6:], state)
    torch.testing.assert_close(logits, model(ids)[:, -1], rtol=1e-9, atol=1e-11)
