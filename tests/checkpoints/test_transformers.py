"""Against transformers: the same logits, gradients and tokens, in both directions."""

import pytest
import torch

from ssmlab.models import LanguageModel

from .conftest import VARIANTS, VOCAB, tokens

transformers = pytest.importorskip("transformers")

CLOSE = 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_logits_gradients_and_greedy_tokens(variant, theirs, tmp_path):
    reference = theirs(**VARIANTS[variant])
    reference.save_pretrained(tmp_path)
    model = LanguageModel.from_pretrained(tmp_path)
    ids = tokens(2, 17)

    expected = reference(ids, labels=ids)
    logits = model(ids)
    assert (logits - expected.logits).abs().max() < CLOSE

    expected.loss.backward()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    counterpart = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        other = "backbone." + name.replace(".ssm.", ".").replace("embedding.", "embeddings.")
        grad = counterpart["lm_head.weight" if name == "lm_head.weight" else other].grad
        assert (parameter.grad - grad).abs().max() < CLOSE * max(1.0, grad.abs().max().item()), name

    greedy = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )
    made = model.generate(ids, max_new_tokens=20)
    assert torch.equal(torch.stack(made.session.tokens), greedy)


@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_folders_load_and_agree(variant, theirs, tmp_path):
    reference = theirs(**VARIANTS[variant])
    reference.save_pretrained(tmp_path / "a")
    model = LanguageModel.from_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", "transformers")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    ids = tokens(2, 9)
    assert torch.equal(again(ids).logits, reference(ids).logits)
    assert again.config.tie_word_embeddings == reference.config.tie_word_embeddings


def test_a_padded_vocabulary_comes_back(ours, tmp_path):
    model = ours(pad_vocab_size_multiple=8)
    model.save_pretrained(tmp_path / "m", "transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ids = tokens(1, 7)
    assert other(ids).logits.shape[-1] == 56
    assert (other(ids).logits[..., :VOCAB] - model(ids)).abs().max() < CLOSE
    back = LanguageModel.from_pretrained(tmp_path / "m")
    assert (back.config.vocab_size, back.config.pad_vocab_size_multiple) == (VOCAB, 8)
    assert torch.equal(back(ids), model(ids))


def test_left_padding_equals_transformers_where_that_is_exact(theirs, tmp_path):
    # With a bias on in_proj theirs lets padding into the convolution; without, both are exact.
    reference = theirs(state_size=8)
    reference.save_pretrained(tmp_path)
    model = LanguageModel.from_pretrained(tmp_path)
    ids, mask = tokens(3, 11), torch.ones(3, 11, dtype=torch.long)
    mask[0, :6] = 0
    mask[1, :1] = 0
    theirs_padded = reference(ids, attention_mask=mask).logits
    padded = model(ids, attention_mask=mask)
    assert (padded - theirs_padded)[mask.bool()].abs().max() < CLOSE


def test_sharded_and_bin_files_of_transformers(theirs, tmp_path):
    reference = theirs()
    reference.save_pretrained(tmp_path / "shards", max_shard_size="12KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole = tmp_path / "bin"
    whole.mkdir()
    torch.save(reference.state_dict(), whole / "pytorch_model.bin")
    (whole / "config.json").write_text((tmp_path / "shards" / "config.json").read_text())
    ids = tokens(1, 8)
    for folder in (tmp_path / "shards", whole):
        logits = LanguageModel.from_pretrained(folder)(ids)
        assert (logits - reference(ids).logits).abs().max() < CLOSE
