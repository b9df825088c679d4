"""Small models of both libraries with weights far from their start values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models import LanguageModel, LanguageModelConfig

VOCAB = 53

# Configs of transformers' model: ranks, states, taps, biases, tied and not, depth, width.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "biases, untied, small state": {
        "use_bias": True,
        "use_conv_bias": False,
        "state_size": 8,
        "conv_kernel": 3,
        "time_step_rank": 5,
        "tie_word_embeddings": False,
    },
    "large state, all biases": {"state_size": 32, "use_bias": True, "time_step_rank": 1},
    "no biases, wide": {"use_conv_bias": False, "expand": 3, "hidden_size": 24},
    "other epsilon, residual as computed": {
        "layer_norm_epsilon": 1e-6,
        "residual_in_fp32": False,
        "conv_kernel": 3,
    },
}


def disturb(model: torch.nn.Module, seed: int = 0) -> None:
    """Move every weight, so that no start value (a zero bias, a one) hides a swapped tensor."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.08)


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def theirs() -> Callable[..., Any]:
    """Makes a MambaForCausalLM of transformers."""
    transformers = pytest.importorskip("transformers")

    def make(**values: Any) -> Any:
        torch.manual_seed(0)
        config = transformers.MambaConfig(
            **{
                "vocab_size": VOCAB,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "bos_token_id": None,
                "eos_token_id": None,
                "pad_token_id": None,
                **values,
            }
        )
        model = transformers.MambaForCausalLM(config).eval()
        disturb(model)
        return model

    return make


@pytest.fixture
def ours() -> Callable[..., LanguageModel]:
    """Makes a model of ours."""

    def make(**values: Any) -> LanguageModel:
        torch.manual_seed(0)
        mamba = MambaConfig(ssm=S6Config(d_state=4, dt_rank=3))
        config = LanguageModelConfig(
            **{"vocab_size": VOCAB, "d_model": 16, "n_layers": 2, "mamba": mamba, **values}
        )
        model = LanguageModel(config).eval()
        disturb(model)
        return model

    return make


@pytest.fixture
def saved(ours: Callable[..., LanguageModel], tmp_path: Path) -> Path:
    """A folder of transformers' format, to be spoilt."""
    return ours().save_pretrained(tmp_path / "saved", "transformers")
