"""The two recipes are configs, with the paper's figures for the 350M model."""

import dataclasses

import pytest

from ssmlab.core.config import override
from ssmlab.paper.base import BASE, PAPER
from ssmlab.training.config import TrainingConfig
from ssmlab.training.recipes import GPT3_PEAK, gpt3_recipe, improved_recipe


def test_improved_is_the_recipe_of_the_ablations():
    config = override(TrainingConfig(), improved_recipe(GPT3_PEAK["350M"]))
    given = {**BASE, **PAPER}
    for field in dataclasses.fields(config):
        key = f"training.{field.name}"
        if key in BASE or field.name == "lr":
            value = given[key]
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(config, field.name) == pytest.approx(expected)


def test_gpt3_peaks_at_a_fifth_of_it():
    config = override(TrainingConfig(), gpt3_recipe(3e-4))
    assert (config.lr, config.lr_min, config.betas) == (3e-4, pytest.approx(3e-5), (0.9, 0.999))
