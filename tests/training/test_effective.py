"""What decides a result: configs that differ in nothing else are equal, build equal models, and
those that differ in something else are not."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.config import config_hash, override
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel
from ssmlab.training.config import TrialConfig

MIXERS = {
    "s6": "ssm", "s4d": "s4d", "s4": "s4", "long-conv": "long_conv", "ssd": "ssd",
    "attention": "attention",
}  # fmt: skip
BLOCKS = {
    "M": "mamba", "H": "h3", "Y": "hyena", "A": "attention", "F": "mlp", "P": "plain_mlp",
}  # fmt: skip
# Another value of a key than BASE's, for each config that may be unused.
INNER = {
    "ssm": {"d_state": 8}, "s4d": {"d_state": 6}, "s4": {"tied": True},
    "long_conv": {"filter_width": 10}, "ssd": {"d_state": 8}, "attention": {"window": 3},
}  # fmt: skip
BLOCK = {
    "mamba": {"d_conv": 3}, "h3": {"d_shift": 5}, "hyena": {"d_conv": 2},
    "attention": {"n_heads": 4}, "mlp": {"d_hidden": 12}, "plain_mlp": {"d_hidden": 10},
}  # fmt: skip
BASE: dict[str, Any] = {
    "model.vocab_size": 11, "model.d_model": 16, "model.n_layers": 3,
    "model.mamba.ssd.d_head": 8, "model.h3.ssd.d_head": 8, "model.mamba.ssm.d_state": 2,
    "model.h3.ssm.d_state": 2, "training.seq_len": 8, "model.hyena.long_conv.l_max": 64,
    "model.mamba.long_conv.l_max": 64, "model.h3.long_conv.l_max": 64,
    "model.mamba.attention.n_heads": 2, "model.h3.attention.n_heads": 2,
    "model.attention.n_heads": 2,
}  # fmt: skip


def effective_hash(config: TrialConfig) -> str:
    return config_hash(config.effective())


def start(config: LanguageModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return dict(LanguageModel(config).state_dict())


def equal_starts(one: TrialConfig, other: TrialConfig) -> bool:
    a, b = start(one.model), start(other.model)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@st.composite
def trials(draw: st.DrawFn) -> TrialConfig:
    letters = draw(st.lists(st.sampled_from("MMMHHYAFP"), min_size=1, max_size=3))
    places = draw(st.sets(st.integers(0, 2), max_size=1))
    mixers = st.sampled_from([*["s6"] * 4, *sorted(MIXERS)])
    switches = {
        f"model.{block}.ssm.selective_{name}": draw(st.booleans())
        for block in ("mamba", "h3")
        for name in ("delta", "B", "C", "A")
    }
    return override(
        TrialConfig(),
        {
            **BASE,
            **switches,
            "model.pattern": " ".join(letters),
            "model.attention_at": sorted(places),
            "model.mamba.mixer": draw(mixers),
            "model.h3.mixer": draw(mixers),
            "model.positions": draw(st.sampled_from(["none", "learned"])),
        },
    )


def unused(config: TrialConfig) -> dict[str, Any]:
    """Keys without effect on this trial, each with a value that it does not have."""
    model = config.model
    keys: dict[str, Any] = {
        f"model.{name}.{key}": value
        for letter, name in BLOCKS.items()
        if letter not in model.layers
        for key, value in BLOCK[name].items()
    }
    for letter, name in (("M", "mamba"), ("H", "h3")):
        inner = getattr(model, name)
        for part, changes in INNER.items():
            if letter not in model.layers or part != MIXERS[inner.mixer]:
                keys |= {f"model.{name}.{part}.{key}": value for key, value in changes.items()}
        if not (inner.ssm.selective_delta or inner.ssm.selective_A):
            keys[f"model.{name}.ssm.dt_rank"] = 2
        else:
            keys[f"model.{name}.ssm.dt_rank"] = 1  # "auto" in a model of width 16
        if inner.ssm.selective_B and inner.ssm.selective_C:
            keys[f"model.{name}.ssm.constant_init"] = "s4d"
    if model.positions == "none":
        keys["model.max_positions"] = 99
    if set(model.layers) == {"M"}:
        keys["model.linear_init"] = "normal"
    return keys | {
        "model.pattern": " ".join(model.layers), "model.attention_at": [],
        "data.cache_dir": "/elsewhere",
    }  # fmt: skip


def used(config: TrialConfig) -> dict[str, Any]:
    """Keys with an effect on this trial, each with a value that it does not have."""
    model = config.model
    keys: dict[str, Any] = {
        f"model.{name}.{key}": value
        for letter, name in BLOCKS.items()
        if letter in model.layers
        for key, value in BLOCK[name].items()
    }
    for letter, name in (("M", "mamba"), ("H", "h3")):
        inner = getattr(model, name)
        if letter in model.layers:
            part = MIXERS[inner.mixer]
            keys |= {f"model.{name}.{part}.{key}": value for key, value in INNER[part].items()}
            if inner.mixer == "s6":
                name = f"model.{name}.ssm"
                for switch in ("selective_delta", "selective_B", "selective_C", "selective_A"):
                    keys[f"{name}.{switch}"] = not getattr(inner.ssm, switch)
                if inner.ssm.selective_delta or inner.ssm.selective_A:
                    keys[f"{name}.dt_rank"] = 2
                if not (inner.ssm.selective_B and inner.ssm.selective_C):
                    keys[f"{name}.constant_init"] = "s4d"
    if model.positions == "learned":
        keys["model.max_positions"] = 99
    if set(model.layers) != {"M"}:
        keys["model.linear_init"] = "normal"
    return keys | {
        "model.d_model": 32, "model.n_layers": 4, "model.norm": "layer", "seed": 1,
        "model.pad_vocab_size_multiple": 8, "model.vocab_size": 12, "training.steps": 3,
        "training.grad_accumulation": 2, "data.tokenizer": "bpe:300", "data.split_seed": 1,
        "init_from": "somewhere",
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(trials())
def test_what_has_no_effect_does_not_count(config: TrialConfig) -> None:
    other = override(config, unused(config))
    assert effective_hash(other) == effective_hash(config)
    assert equal_starts(config, other)
    assert equal_starts(config, config.effective())
    assert config.effective().effective() == config.effective()


@settings(max_examples=30, deadline=None)
@given(trials())
def test_what_has_an_effect_counts(config: TrialConfig) -> None:
    before = effective_hash(config)
    for key, value in used(config).items():
        assert effective_hash(override(config, {key: value})) != before, key


def test_every_key_of_the_model_is_used_or_unused_by_some_trial() -> None:
    """A config that is added to the model must be looked at here too."""
    names = {field.name for field in dataclasses.fields(LanguageModelConfig)}
    configs = {
        name for name in names if dataclasses.is_dataclass(getattr(TrialConfig().model, name))
    }
    assert configs == set(BLOCKS.values()) == set(BLOCK)
    inner = TrialConfig().model.mamba
    parts = {
        f.name
        for f in dataclasses.fields(inner)
        if dataclasses.is_dataclass(getattr(inner, f.name))
    }
    assert parts == set(MIXERS.values()) == set(INNER)


@pytest.mark.parametrize(
    ("letter", "one", "other"),
    [
        ("A", {"n_heads": "auto"}, {"n_heads": 1, "n_kv_heads": 1, "d_head": 16}),
        ("A", {"rope": False}, {"rope": False, "rope_base": 5.0}),
        (
            "M",
            {"mixer": "attention"},
            {"mixer": "attention", "attention": {"n_heads": 1, "n_kv_heads": 1, "d_head": 32}},
        ),
        ("F", {}, {"d_hidden": 48, "multiple_of": 5}),
        ("P", {}, {"d_hidden": 64, "expand": 2}),
    ],
)
def test_sizes_left_to_auto_are_those_they_come_to(letter, one, other) -> None:
    base = {"model.vocab_size": 11, "model.d_model": 16, "model.pattern": letter}
    a, b = (
        override(TrialConfig(), {**base, f"model.{BLOCKS[letter]}": keys}) for keys in (one, other)
    )
    assert a != b
    assert effective_hash(a) == effective_hash(b)
    assert equal_starts(a, b)
