"""Whole models and their configs."""

from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.count import count_parameters
from ssmlab.models.language_model import LanguageModel

__all__ = ["LanguageModel", "LanguageModelConfig", "count_parameters"]
