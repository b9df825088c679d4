"""A small model on bytes."""

import pytest
import torch

from ssmlab.data.tokenize import ByteTokenizer
from ssmlab.models import LanguageModel, LanguageModelConfig


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab_size=256, d_model=16, n_layers=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def words() -> ByteTokenizer:
    return ByteTokenizer()
