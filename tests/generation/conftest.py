"""A small model whose next tokens are not all alike, and a tokenizer."""

import pytest
import torch

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.data.tokenize import ByteTokenizer
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models import LanguageModel, LanguageModelConfig

VOCAB = 256


def build(seed: int = 0, **values) -> LanguageModel:
    torch.manual_seed(seed)
    block = {"ssm": S6Config(d_state=4)} | values.pop("mamba", {})
    config = {"vocab_size": VOCAB, "d_model": 16, "n_layers": 2, "mamba": MambaConfig(**block)}
    model = LanguageModel(LanguageModelConfig(**(config | values)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build()


@pytest.fixture
def words() -> ByteTokenizer:
    return ByteTokenizer()


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB - 1, shape, generator=torch.Generator().manual_seed(seed))
