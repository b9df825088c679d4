"""The architectures that Mamba is compared with, as changes of ``LanguageModelConfig``.

Only what makes an architecture is here: not its width, depth or vocabulary. Each letter of a pattern
is one residual block, so a Transformer layer is two blocks; where the source makes layers thinner and
more (H3++, Hyena+), give 1.5 times as many blocks as a Transformer of that size has.

Source: arXiv 2312.00752, appendix E.2.1 and E.2.2.
"""

from collections.abc import Mapping
from typing import Any

from ssmlab.core.config import override
from ssmlab.core.errors import ConfigError
from ssmlab.models.config import LanguageModelConfig

_PLAIN_MLP_WITHOUT_BIAS = {"plain_mlp.bias": False}

BASELINES: Mapping[str, Mapping[str, Any]] = {
    "mamba": {"pattern": "M"},
    "mamba-mlp": {"pattern": "M F"},
    "mamba-mha": {"pattern": "A M"},
    # As GPT-3: LayerNorm, learned positions, GELU, biases, start values from N(0, 0.02²).
    "transformer": {
        "pattern": "A P",
        "norm": "layer",
        "positions": "learned",
        "linear_init": "normal",
        "attention.rope": False,
        "attention.bias": True,
        "plain_mlp.expand": 4,
        "plain_mlp.bias": True,
    },
    "transformer++": {"pattern": "A F"},
    "h3": {"pattern": "H P", "plain_mlp.expand": 4, **_PLAIN_MLP_WITHOUT_BIAS},
    "h3++": {
        "pattern": "H P",
        "h3.head_dim": 8,
        "plain_mlp.expand": 2,
        **_PLAIN_MLP_WITHOUT_BIAS,
    },
    "hyena": {"pattern": "Y P", "norm": "layer", "plain_mlp.expand": 2},
    "hyena+": {
        "pattern": "Y P",
        "hyena.bias": False,
        "plain_mlp.expand": 2,
        **_PLAIN_MLP_WITHOUT_BIAS,
    },
}


def baseline_config(name: str, **changes: Any) -> LanguageModelConfig:
    """The config of a named architecture.

    Args:
        name: a key of ``BASELINES``.
        changes: keys of ``LanguageModelConfig``, for example d_model=1024, n_layers=48,
            vocab_size=50257; a dotted key as ``**{"attention.n_heads": 16}``.

    Raises:
        ConfigError: no such architecture or key, or a config that cannot be.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown architecture {name!r}: expected one of {', '.join(BASELINES)}")
    return override(LanguageModelConfig(), {**BASELINES[name], **changes})
