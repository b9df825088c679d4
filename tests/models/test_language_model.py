"""The language model: patterns, start values, states, precision, loss, counts."""

import math

import pytest
import torch

from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import GatedMLP
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.count import count_parameters
from ssmlab.models.language_model import LanguageModel

VOCAB = 61


def config(**values) -> LanguageModelConfig:
    mamba = MambaConfig(ssm=S6Config(d_state=4))
    return LanguageModelConfig(
        **{"vocab_size": VOCAB, "d_model": 16, "n_layers": 2, "mamba": mamba, **values}
    )


def build(**values) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(config(**values))


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def test_pattern_is_repeated_and_cut():
    model = build(pattern="M F", n_layers=5)
    kinds = [type(layer.mixer) for layer in model.layers]
    assert kinds == [Mamba, GatedMLP, Mamba, GatedMLP, Mamba]


@pytest.mark.parametrize("pattern", ["M X", "", "MF"])
def test_unknown_letters_are_errors_that_name_the_known_ones(pattern):
    with pytest.raises(ConfigError, match=r"M \(Mamba block\), .*F \(gated MLP\)"):
        config(pattern=pattern)


def test_vocabulary_must_be_filled_in():
    with pytest.raises(ConfigError, match="vocab_size is 0"):
        build(vocab_size=0)


@pytest.mark.parametrize("pattern", ["M", "M F"])
def test_decoding_equals_the_whole_text(pattern):
    model = build(pattern=pattern).double()
    ids = tokens(3, 12)
    logits, last = model(ids, return_state=True)
    state, steps = model.init_state(3), []
    for t in range(12):
        out, state = model.step(ids[:, t], state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), logits, rtol=1e-9, atol=1e-11)
    continued = model(tokens(3, 4), state=last)
    torch.testing.assert_close(continued, model(tokens(3, 4), state=state), rtol=1e-9, atol=1e-11)


def test_packed_texts_equal_separate_ones():
    model = build(pattern="M F").double()
    ids = tokens(1, 9)
    packed = model(ids, cu_seqlens=torch.tensor([0, 4, 9], dtype=torch.int32))
    alone = torch.cat([model(ids[:, :4]), model(ids[:, 4:])], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-11)


def test_loss_is_the_mean_over_counted_targets():
    model = build()
    ids, targets = tokens(2, 5), tokens(2, 5).clone()
    targets[0, :3] = -100
    logp = model(ids).log_softmax(-1)
    picked = [
        -logp[b, t, targets[b, t]].item() for b in range(2) for t in range(5) if targets[b, t] >= 0
    ]
    assert model.loss(ids, targets).item() == pytest.approx(sum(picked) / len(picked), rel=1e-5)


def test_an_untrained_model_is_near_the_uniform_loss():
    model = build(d_model=64)
    ids = tokens(4, 65)
    loss = model.loss(ids[:, :-1], ids[:, 1:]).item()
    assert loss == pytest.approx(math.log(VOCAB), rel=0.05)


def test_padded_rows_of_the_vocabulary_are_never_offered():
    model = build(pad_vocab_size_multiple=16)
    assert model.embedding.weight.shape[0] == 64
    assert model(tokens(1, 3)).shape == (1, 3, VOCAB)


def test_tied_and_untied_embeddings():
    tied, untied = build(), build(tie_embeddings=False)
    assert tied.lm_head.weight is tied.embedding.weight
    extra = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert extra == VOCAB * 16


def test_last_matrix_of_each_block_starts_smaller_with_depth():
    shallow = LanguageModel(config(d_model=64, n_layers=1)).layers[0].mixer
    deep = LanguageModel(config(d_model=64, n_layers=16)).layers[0].mixer
    ratio = shallow.out_proj.weight.std() / deep.out_proj.weight.std()
    assert ratio.item() == pytest.approx(4, rel=0.05)
    assert deep.in_proj.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)


def test_bf16_model_keeps_its_residual_in_fp32():
    model = build().bfloat16()
    seen = []
    model.layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    logits = model(tokens(2, 6))
    assert seen == [torch.float32]
    assert logits.dtype == torch.bfloat16
    exact = build()(tokens(2, 6))
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.05)


def test_autocast_trains_fp32_parameters():
    model = build(pattern="M F")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(tokens(2, 6), tokens(2, 6))
    loss.backward()
    assert loss.dtype == torch.float32
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_only_matrices_are_decayed():
    model = build(pattern="M F", tie_embeddings=True)
    decayed = {
        name for name, p in model.named_parameters() if not getattr(p, "_no_weight_decay", False)
    }
    assert decayed == {
        "embedding.weight",
        *(f"layers.0.mixer.{n}.weight" for n in ("in_proj", "conv1d", "out_proj")),
        *(f"layers.0.mixer.ssm.{n}.weight" for n in ("x_proj", "dt_proj")),
        *(f"layers.1.mixer.{n}.weight" for n in ("fc1", "fc2")),
    }


@pytest.mark.parametrize("ids", [torch.zeros(3), torch.zeros(2, 0, dtype=torch.long)])
def test_wrong_input_is_named(ids):
    with pytest.raises(ValueError, match=r"input_ids: expected \(B, L\)"):
        build()(ids)


def test_counts_are_those_of_the_built_model():
    for values in ({}, {"pattern": "M F", "tie_embeddings": False, "pad_vocab_size_multiple": 8}):
        counts = count_parameters(config(**values))
        assert counts["total"] == sum(p.numel() for p in build(**values).parameters())
        assert counts["total"] == sum(n for name, n in counts.items() if name != "total")


def test_learns_a_fixed_batch():
    model = build(d_model=32)
    ids = tokens(2, 17)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
