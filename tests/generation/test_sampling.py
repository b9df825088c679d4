"""The rules of sampling, against their definitions and against transformers'."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import ConfigError
from ssmlab.generation.config import GenerationConfig
from ssmlab.generation.sampling import choose, keep_likely

LOGITS = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0, 3.0]])


def allowed(config: GenerationConfig, logits: torch.Tensor = LOGITS) -> set[int]:
    values, order = keep_likely(logits, config)
    return {int(i) for i, v in zip(order[0], values[0], strict=True) if v > -torch.inf}


def test_top_k():
    assert allowed(GenerationConfig(top_k=2)) == {5, 0}
    assert allowed(GenerationConfig(top_k=99)) == set(range(6))


def test_top_p_keeps_the_fewest_that_add_up():
    # Tokens 5 0 2 1 4 3 have 0.605 0.222 0.082 0.050 0.030 0.011 of 33.2 = e^3 + e^2 + ...
    assert allowed(GenerationConfig(top_p=0.58)) == {5}
    assert allowed(GenerationConfig(top_p=0.62)) == {5, 0}
    assert allowed(GenerationConfig(top_p=0.92)) == {5, 0, 2, 1}
    assert allowed(GenerationConfig(top_p=1e-6)) == {5}


def test_min_p_is_a_share_of_the_most_likely():
    assert allowed(GenerationConfig(min_p=0.3)) == {5, 0}
    assert allowed(GenerationConfig(min_p=1.0)) == {5}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    top_k=st.sampled_from([0, 1, 5, 20]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    penalty=st.sampled_from([1.0, 1.4, 0.7]),
)
def test_what_may_be_drawn_equals_transformers(seed, top_k, top_p, min_p, temperature, penalty):
    process = pytest.importorskip("transformers.generation.logits_process")
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 20, generator=draw) * 3
    text = torch.randint(0, 20, (1, 6), generator=draw)
    theirs = process.LogitsProcessorList()
    if penalty != 1:
        theirs.append(process.RepetitionPenaltyLogitsProcessor(penalty))
    theirs.append(process.TemperatureLogitsWarper(temperature))
    if top_k:
        theirs.append(process.TopKLogitsWarper(top_k))
    if top_p < 1:
        theirs.append(process.TopPLogitsWarper(top_p))
    if min_p:
        theirs.append(process.MinPLogitsWarper(min_p))
    expected = theirs(text, logits.clone()).softmax(-1)

    config = GenerationConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    seen = torch.zeros(1, 20, dtype=torch.bool).scatter_(1, text, True)
    ruled = torch.where(logits < 0, logits * penalty, logits / penalty)
    values, order = keep_likely(torch.where(seen, ruled, logits) / temperature, config)
    found = torch.zeros(1, 20).scatter_(1, order, values.softmax(-1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for count in range(5):
        token, _ = choose(logits, config, [(0, count)], seen if penalty != 1 else None)
        assert expected[0, token] > 0


def test_frequencies_follow_the_probabilities():
    config = GenerationConfig(temperature=1.0)
    draws = 4000
    tokens, logprobs = choose(
        LOGITS.expand(draws, -1), config, [(r, 0) for r in range(draws)], None
    )
    expected = LOGITS[0].softmax(-1)
    found = torch.bincount(tokens, minlength=6) / draws
    # Four standard deviations of a frequency over 4000 draws.
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt()).all()
    torch.testing.assert_close(logprobs, LOGITS[0].log_softmax(-1)[tokens])


def test_draws_depend_on_seed_row_and_place_alone():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    config = GenerationConfig(temperature=1.0, seed=4)
    together, _ = choose(logits, config, [(0, 5), (1, 5), (2, 7)], None)
    for row, draw in enumerate([(0, 5), (1, 5), (2, 7)]):
        alone, _ = choose(logits[row : row + 1], config, [draw], None)
        assert alone[0] == together[row]
    flat = torch.zeros(40, 1000)
    many, _ = choose(flat, config, [(r, 0) for r in range(40)], None)
    assert len(set(many.tolist())) > 30


def test_minus_infinity_is_never_drawn():
    logits = torch.full((200, 8), -torch.inf)
    logits[:, 3] = 0.0
    logits[:, 6] = 1.0
    for extra in ({}, {"top_p": 0.99}, {"min_p": 0.01}):
        config = GenerationConfig(temperature=1.0, **extra)
        tokens, _ = choose(logits, config, [(r, 0) for r in range(200)], None)
        assert set(tokens.tolist()) == {3, 6}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1}, "temperature: expected a number >= 0, got -1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p: expected a number above 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"stop": ("",)}, "stop: expected"),
        ({"stop": "abc"}, "stop: expected a tuple"),
    ],
)
def test_options_that_cannot_be(values, said):
    with pytest.raises(ConfigError, match=said):
        GenerationConfig(**values)
