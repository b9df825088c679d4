"""Whole models and their configs."""

from ssmlab.models.baselines import BASELINES, baseline_config
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.count import count_parameters
from ssmlab.models.language_model import LanguageModel

__all__ = [
    "BASELINES",
    "LanguageModel",
    "LanguageModelConfig",
    "baseline_config",
    "count_parameters",
]
