"""Attention against its definition, its window, its grouped heads and its rotations."""

import math

import pytest
import torch

from ssmlab.mixers import Attention, AttentionConfig
from ssmlab.mixers.attention import _rotate
from tests.mixers.zoo import close

M = 12


def make(**values) -> Attention:
    torch.manual_seed(0)
    return Attention(AttentionConfig(**values), M).double()


def by_hand(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Softmax attention spelt out, head by head and step by step; rotations as complex numbers."""
    config, E = mixer.config, mixer.width
    q, k, v = mixer.in_proj(x).split([mixer.heads * E, mixer.groups * E, mixer.groups * E], dim=-1)
    length = x.shape[1]
    rates = config.rope_base ** (-torch.arange(E // 2, dtype=torch.float64) * 2 / E)
    turn = torch.exp(1j * torch.arange(length, dtype=torch.float64)[:, None] * rates)
    outputs = []
    for head in range(mixer.heads):
        group = head * mixer.groups // mixer.heads

        qh = q[..., head * E : (head + 1) * E]
        kh, vh = (t[..., group * E : (group + 1) * E] for t in (k, v))
        if config.rope:
            qc = torch.complex(*qh.chunk(2, -1)) * turn
            kc = torch.complex(*kh.chunk(2, -1)) * turn
            scores = (qc[:, :, None] * kc[:, None].conj()).real.sum(-1)
        else:
            scores = qh @ kh.mT
        rows = []
        for t in range(length):
            first = 0 if config.window is None else max(0, t - config.window + 1)
            weights = torch.softmax(scores[:, t, first : t + 1] / math.sqrt(E), -1)
            rows.append((weights[..., None] * vh[:, first : t + 1]).sum(1))
        outputs.append(torch.stack(rows, 1))
    return mixer.out_proj(torch.cat(outputs, -1))


@pytest.mark.parametrize(
    "values",
    [
        {"n_heads": 3},
        {"n_heads": 3, "rope": False},
        {"n_heads": 6, "n_kv_heads": 2},
        {"n_heads": 2, "n_kv_heads": 1, "window": 4, "bias": True},
        {"n_heads": 1, "window": 1},
        {"n_heads": 2, "d_head": 10, "rope_base": 100.0},
    ],
)
def test_equals_its_definition(values):
    mixer = make(**values)
    x = torch.randn(2, 150, M, dtype=torch.float64)
    close(mixer(x), by_hand(mixer, x))


def test_a_windows_cache_does_not_grow():
    mixer = make(n_heads=2, window=4)
    state = mixer.init_state(1)
    for t in range(10):
        _, state = mixer.step(torch.randn(1, M, dtype=torch.float64), state)
        assert state.keys.shape[1] == min(t + 1, 3)
    assert state.position.tolist() == [10]
    _, state = mixer(torch.randn(1, 50, M, dtype=torch.float64), return_state=True)
    assert state.keys.shape[1] == 3


def test_grouped_heads_keep_fewer_keys():
    state = make(n_heads=6, n_kv_heads=2).init_state(3)
    assert state.keys.shape == (3, 0, 2, 2)


def test_rotations_depend_on_distance_alone():
    mixer = make(n_heads=1)
    x = torch.randn(1, 1, M, dtype=torch.float64).expand(1, 9, M)
    # All inputs alike: values are alike, so the output is the value whatever the weights.
    close(mixer(x), mixer(x[:, :1]).expand(1, 9, M))
    q = torch.randn(1, 9, 1, 8, dtype=torch.float64)
    wide = Attention(AttentionConfig(n_heads=1, d_head=8), M)
    cos, sin = wide._turns(9, None, q.device)
    same = q[:, :1].expand_as(q)
    turned = _rotate(same, cos, sin)[0, :, 0]
    products = turned @ turned.mT
    for distance in range(9):
        diagonal = products.diagonal(distance)
        close(diagonal, diagonal[:1].expand_as(diagonal))


def test_default_heads_are_64_wide():
    assert AttentionConfig().sizes(1024) == (16, 16, 64)
    assert AttentionConfig().sizes(48) == (1, 1, 48)
