"""H3, Hyena, plain MLP, learned positions, mixers in Mamba's place, hybrids and baselines."""

import pytest
import torch
from torch.utils import _pytree as pytree

from ssmlab.blocks import (
    H3,
    H3Config,
    LayerNorm,
    LearnedPositions,
    Mamba,
    MambaConfig,
    PlainMLP,
    PlainMLPConfig,
    h3,
)
from ssmlab.blocks.h3 import ShiftSSM
from ssmlab.core.config import override
from ssmlab.core.errors import ConfigError
from ssmlab.mixers import AttentionConfig, LongConvConfig, S4Config, S4DConfig, SSDConfig
from ssmlab.models import BASELINES, LanguageModel, LanguageModelConfig, baseline_config

WIDTH = 8
INNER = {
    "s4d": {"s4d": S4DConfig(d_state=4)},
    "s4": {"s4": S4Config(d_state=4)},
    "long-conv": {"long_conv": LongConvConfig(l_max=40, filter_width=4, n_features=3)},
    "ssd": {"ssd": SSDConfig(d_state=3, d_head=4)},
    "attention": {"attention": AttentionConfig(n_heads=2)},
}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def steps_of(module, x):
    state, outputs = module.init_state(x.shape[0], None, x.dtype), []
    for t in range(x.shape[1]):
        y, state = module.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("mixer", list(INNER))
def test_mamba_with_any_mixer_decodes_goes_on_and_packs(mixer):
    torch.manual_seed(0)
    block = Mamba(MambaConfig(mixer=mixer, **INNER[mixer]), WIDTH).double()
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    y, last = block(x, return_state=True)
    close(block(x), y)
    stepped, state = steps_of(block, x)
    close(stepped, y)
    for one, other in zip(pytree.tree_leaves(state), pytree.tree_leaves(last), strict=True):
        close(one, other)
    first, state = block(x[:, :5], return_state=True)
    close(torch.cat([first, block(x[:, 5:], state)], 1), y)
    offsets = torch.tensor([0, 4, 12], dtype=torch.int32)
    packed = block(x[:1], cu_seqlens=offsets)
    close(packed, torch.cat([block(x[:1, :4]), block(x[:1, 4:])], 1))
    changed = x.clone()
    changed[:, 7] += 1
    close(block(changed)[:, :7], y[:, :7])


def test_shift_ssm_is_its_state_space():
    torch.manual_seed(0)
    shift = ShiftSSM(3, 5).double()
    with torch.no_grad():
        shift.B.copy_(torch.randn(3, 5))
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    h, outputs = torch.zeros(2, 3, 5, dtype=torch.float64), []
    for t in range(9):
        h = torch.cat([torch.zeros(2, 3, 1), h[..., :-1]], -1) + shift.B * x[:, t, :, None]
        outputs.append((shift.C * h).sum(-1) + shift.D * x[:, t])
    expected = torch.stack(outputs, 1)
    close(shift(x, None, False, None), expected)
    y, state = shift(x, None, True, None)
    close(y, expected)
    close(state, x[:, -4:])


def test_h3_with_heads_is_linear_attention_with_memory():
    """The product of k and v runs through the head's SSM entry by entry, then q contracts it."""
    torch.manual_seed(0)
    heads, E = 4, 2
    block = H3(H3Config(head_dim=E, d_shift=3, s4d=S4DConfig(d_state=4)), WIDTH).double()
    x = torch.randn(1, 10, WIDTH, dtype=torch.float64)
    q, k, v = block.in_proj(x).chunk(3, -1)
    k = block.shift(k, None, False, None)
    y = torch.zeros(1, 10, WIDTH, dtype=torch.float64)
    for i in range(E):
        for j in range(E):
            entry = torch.stack([k[..., h * E + i] * v[..., h * E + j] for h in range(heads)], -1)
            mixed = block.ssm(entry)
            for h in range(heads):
                y[..., h * E + j] += q[..., h * E + i] * mixed[..., h]
    close(block(x), block.out_proj(y))


@pytest.mark.parametrize("mixer", ["s4d", "s4", "long-conv"])
@pytest.mark.parametrize("autocast", [False, True])
def test_h3_with_heads_over_a_filter_makes_no_outer_products(mixer, autocast, monkeypatch):
    """Nor does what it gives differ by more than rounding, gradients of the filter included."""
    torch.manual_seed(0)
    block = H3(H3Config(mixer=mixer, head_dim=4, d_shift=3, **INNER[mixer]), WIDTH)
    x, grad = torch.randn(2, 2, 30, WIDTH)
    calls = []
    outer = H3._outer
    monkeypatch.setattr(H3, "_outer", lambda *args: calls.append(1) or outer(*args))

    def run(dtype, autocast):
        block.to(dtype)
        given = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = block(given)
        return [y, *torch.autograd.grad(y, [given, *block.parameters()], grad.to(y.dtype))]

    found = run(torch.float32, autocast)
    assert not calls
    monkeypatch.setattr(H3, "_attend", lambda *args: None)
    as_before, exact = run(torch.float32, autocast), run(torch.float64, False)
    assert len(calls) == 2
    assert [t.dtype for t in found] == [t.dtype for t in as_before]

    def error(results):
        pairs = zip(results, exact, strict=True)
        return sum(((a - b).norm() / b.norm()).item() for a, b in pairs) / len(exact)

    assert error(found) <= (1.3 * error(as_before) if autocast else 1e-5)


def test_h3_whose_mixer_is_no_filter_or_has_no_heads_runs_as_ever(monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(h3, "toeplitz_attention", never)
    x = torch.randn(2, 9, WIDTH)
    scan = S4DConfig(d_state=4, mode="scan")
    others = {"mixer": "ssd", **INNER["ssd"]}, {"s4d": scan}
    for values in (*({"head_dim": 2, **o} for o in others), {"head_dim": 1}):
        block = H3(H3Config(d_shift=3, **values), WIDTH)
        assert block(x).shape == x.shape
    block = H3(H3Config(d_shift=3, head_dim=2), WIDTH)
    seen = []
    with block.ssm.register_forward_hook(lambda *args: seen.append(1)):
        block(x)
    assert seen
    block(x, return_state=True)
    block(x, block.init_state(2))


def test_h3_beyond_the_filter_is_refused():
    config = H3Config(mixer="long-conv", head_dim=2, long_conv=LongConvConfig(l_max=8))
    with pytest.raises(ValueError, match="9 steps, expected at most l_max = 8"):
        H3(config, WIDTH)(torch.zeros(1, 9, WIDTH))


def test_h3_state_has_the_batch_first():
    block = H3(H3Config(head_dim=4, d_shift=3), WIDTH)
    state = block.init_state(3)
    assert {leaf.shape[0] for leaf in pytree.tree_leaves(state)} == {3}


def test_plain_mlp():
    mlp = PlainMLP(PlainMLPConfig(bias=False), WIDTH)
    assert sum(p.numel() for p in mlp.parameters()) == 8 * WIDTH * WIDTH
    x = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(mlp(x)[:, 3], mlp.step(x[:, 3])[0])
    assert PlainMLPConfig(d_hidden=7).hidden(WIDTH) == 7
    assert PlainMLPConfig(expand=2).hidden(WIDTH) == 16


def test_layer_norm_against_its_definition_in_low_precision():
    norm = LayerNorm(32)
    x = 100 * torch.randn(4, 32) + 5
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
    assert norm.bfloat16()(x).dtype == torch.bfloat16


def test_learned_positions_count_in_steps_states_and_packs():
    positions = LearnedPositions(10, 4, 1.0)
    x = torch.zeros(1, 6, 4)
    table = positions.positions.weight
    torch.testing.assert_close(positions(x)[0][0], table[:6])
    y, state = positions(x, return_state=True)
    torch.testing.assert_close(positions.step(torch.zeros(1, 4), state)[0][0], table[6])
    offsets = torch.tensor([0, 2, 6], dtype=torch.int32)
    packed, after = positions(x, cu_seqlens=offsets, return_state=True)
    torch.testing.assert_close(packed[0], table[[0, 1, 0, 1, 2, 3]])
    assert after.tolist() == [2, 4]
    more, _ = positions(x, after, cu_seqlens=offsets)
    torch.testing.assert_close(more[0], table[[2, 3, 4, 5, 6, 7]])
    with pytest.raises(ValueError, match=r"position 11 .* has 10 learned positions"):
        positions(x, torch.tensor([6]))
    assert y.shape == x.shape


def test_attention_stands_where_it_is_told_to():
    config = LanguageModelConfig(vocab_size=8, d_model=8, n_layers=5, attention_at=(1, 3))
    assert config.layers == ("M", "A", "M", "A", "M")
    config = override(config, {"pattern": "M M M A", "attention_at": [], "n_layers": 6})
    assert config.layers == ("M", "M", "M", "A", "M", "M")


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_baseline_decodes_packs_and_learns(name):
    torch.manual_seed(0)
    config = baseline_config(
        name, vocab_size=11, d_model=16, n_layers=4,
        **{"hyena.long_conv.l_max": 32, "h3.s4d.d_state": 4, "attention.n_heads": 2},
    )  # fmt: skip
    model = LanguageModel(config).double()
    tokens = torch.randint(11, (2, 12))
    logits, _ = model(tokens, return_state=True)
    state, steps = model.init_state(2), []
    for t in range(12):
        y, state = model.step(tokens[:, t], state)
        steps.append(y)
    close(torch.stack(steps, 1), logits)
    close(model(tokens), logits)
    offsets = torch.tensor([0, 5, 12], dtype=torch.int32)
    apart = torch.cat([model(tokens[:1, :5]), model(tokens[:1, 5:])], 1)
    close(model(tokens[:1], cu_seqlens=offsets), apart)
    model.loss(tokens, tokens).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_transformers_recipe_is_in_its_parts():
    plain = LanguageModel(baseline_config("transformer", vocab_size=11, d_model=64, n_layers=2))
    assert isinstance(plain.layers[0], LearnedPositions)
    assert isinstance(plain.norm_f, LayerNorm)
    assert plain.layers[1].mixer.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    better = LanguageModel(baseline_config("transformer++", vocab_size=11, d_model=64, n_layers=2))
    assert not [n for n, _ in better.named_parameters() if n.endswith("bias")]


def test_unknown_baseline():
    with pytest.raises(ConfigError, match=r"unknown architecture 'h4'.*transformer\+\+"):
        baseline_config("h4")
    with pytest.raises(ConfigError, match="did you mean 'd_model'"):
        baseline_config("h3", d_modl=3)


def test_a_sequence_beyond_the_filter_is_refused():
    config = baseline_config("hyena+", vocab_size=11, **{"hyena.long_conv.l_max": 8})
    with pytest.raises(ValueError, match="9 steps, expected at most l_max = 8"):
        LanguageModel(config)(torch.zeros(1, 9, dtype=torch.int64))
    assert config.max_length == (8, "model.hyena.long_conv.l_max")
