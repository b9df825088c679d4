"""Impossible combinations are errors of the config, which say what would be valid."""

import pytest

from ssmlab.blocks import H3Config, HyenaConfig, MambaConfig, PlainMLPConfig
from ssmlab.core.config import from_dict
from ssmlab.core.errors import ConfigError
from ssmlab.mixers import AttentionConfig, LongConvConfig, S4Config, S4DConfig, SSDConfig
from ssmlab.models import LanguageModelConfig


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (S4DConfig, {"d_state": 5}, r"conjugate pairs.*even.*6.*real a_init"),
        (S4DConfig, {"a_init": "s4d-legs"}, r"'s4d-lin'.*'s4d-inv'.*'s4d-legs'"),
        (S4DConfig, {"discretisation": "euler"}, r"'zoh', 'bilinear'"),
        (S4DConfig, {"dt_min": 1.0}, r"dt_min=1.0 is above dt_max=0.1"),
        (S4DConfig, {"mode": "fft"}, r"'conv', 'scan'"),
        (S4DConfig, {"lr": 0.0}, r"lr.*> 0"),
        (S4Config, {"d_state": 7}, r"even d_state, for example 8"),
        (S4Config, {"skip_init": "zero"}, r"'normal', 'ones'"),
        (LongConvConfig, {"n_features": 32}, r"odd number, for example 33"),
        (LongConvConfig, {"l_max": 0}, r"l_max.*>= 1"),
        (LongConvConfig, {"n_hidden": -1}, r"n_hidden.*>= 0"),
        (LongConvConfig, {"window_target": 2.0}, r"window_target.*\(0, 1\)"),
        (HyenaConfig, {"order": 1}, r"order=1.*at least 2"),
        (AttentionConfig, {"n_heads": 4, "n_kv_heads": 3}, r"n_kv_heads=3.*one of 1, 2, 4"),
        (AttentionConfig, {"d_head": 3}, r"d_head=3 with rope.*4"),
        (AttentionConfig, {"n_heads": "many"}, r"n_heads.*'auto'.*'many'"),
        (AttentionConfig, {"window": 0}, r"window.*>= 1"),
        (SSDConfig, {"a_min": 5.0, "a_max": 1.0}, r"a_min=5.0 is above a_max=1.0"),
        (SSDConfig, {"chunk_size": 0}, r"chunk_size.*>= 1"),
        (MambaConfig, {"mixer": "s5"}, r"MambaConfig.mixer.*'s6', 's4d', 's4'.*'s5'"),
        (H3Config, {"d_shift": 0}, r"d_shift.*>= 1"),
        (PlainMLPConfig, {"d_hidden": "wide"}, r"d_hidden.*'auto'.*'wide'"),
    ],
)
def test_impossible_values_are_named(cls, values, message):
    with pytest.raises(ConfigError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "H", "h3": H3Config(head_dim=3)}, r"head_dim=3.*d_model=64.*1, 2, 4, 8"),
        ({"pattern": "A", "attention": AttentionConfig(n_heads=5)}, r"n_heads=5.*64.*1, 2, 4"),
        ({"pattern": "A", "attention": AttentionConfig(n_heads=64)}, r"1 channels a head"),
        ({"mamba": MambaConfig(mixer="ssd", ssd=SSDConfig(d_head=48))}, r"d_head=48.*128 channels"),
        ({"mamba": MambaConfig(mixer="ssd", ssd=SSDConfig(n_groups=3))}, r"n_groups=3.*2 heads"),
        ({"pattern": "H M Q"}, r"unknown letter 'Q'.*H \(H3 block\).*A \(attention\)"),
        ({"pattern": "MMA"}, r"unknown letter 'MMA'.*separated by spaces"),
        ({"attention_at": (2,)}, r"places 0 to 1, 2 is none of them"),
        ({"attention_at": (1, 1)}, r"a place is there twice"),
        ({"norm": "batch"}, r"'rms', 'layer'"),
        ({"positions": "sine"}, r"'none', 'learned'"),
        ({"linear_init": "zero"}, r"'fan-in', 'normal'"),
        ({"max_positions": 0}, r"max_positions.*>= 1"),
    ],
)
def test_models_that_cannot_be_built_are_refused_by_their_config(values, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModelConfig(vocab_size=8, **values)


def test_an_unused_mixers_config_is_not_held_against_the_model():
    LanguageModelConfig(vocab_size=8, mamba=MambaConfig(ssd=SSDConfig(d_head=48)))


def test_misspelt_keys_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 's4d'"):
        from_dict(H3Config, {"s4dd": {}})
