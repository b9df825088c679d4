import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from ssmlab.core.errors import ConfigError
from ssmlab.training import TrainingConfig, TrialConfig
from ssmlab.training.device import select_device, uses_bf16
from ssmlab.training.optim import build_optimizer, parameter_groups
from ssmlab.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": 0}, "training.steps"),
        ({"batch_size": 6, "grad_accumulation": 4}, "grad_accumulation"),
        ({"lr": math.nan}, "training.lr"),
        ({"lr": 1e-4, "lr_min": 1e-3}, "lr_min"),
        ({"warmup_fraction": 1.5}, "warmup_fraction"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"eval_every": -1}, "eval_every"),
    ],
)
def test_values_out_of_range_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        TrainingConfig(**values)


def test_negative_seed_is_an_error():
    with pytest.raises(ConfigError, match="seed"):
        TrialConfig(seed=-1)


def test_schedule_warms_up_peaks_and_ends_at_the_floor():
    config = TrainingConfig(steps=100, lr=1e-2, lr_min=1e-5, warmup_fraction=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == max(rates) == 1e-2
    assert rates[-1] == pytest.approx(1e-5, rel=1e-9)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[9:]))
    # Half way down the cosine is half way between peak and floor.
    assert rates[54] == pytest.approx((1e-2 + 1e-5) / 2)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.0), (3, 1.0)])
def test_schedule_of_very_short_runs_reaches_the_peak(steps, warmup):
    config = TrainingConfig(steps=steps, lr=1.0, lr_min=0.1, warmup_fraction=warmup)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert max(rates) == 1.0
    assert all(0.1 <= rate <= 1.0 for rate in rates)


def test_marked_parameters_do_not_decay_and_tied_ones_count_once():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    model[1].bias._no_weight_decay = True
    decayed, plain = parameter_groups(model, TrainingConfig(weight_decay=0.1))
    assert decayed == {"params": [model[0].weight], "weight_decay": 0.1, "lr_scale": 1.0}
    assert plain == {"params": [model[1].bias], "weight_decay": 0.0, "lr_scale": 1.0}


def test_a_learning_rate_of_ones_own_holds_from_warmup_to_floor_and_is_never_above_the_models():
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(3)])
    model[1]._learning_rate, model[2]._learning_rate = 1e-3, 1.0
    own, slow = parameter_groups(model, TrainingConfig(lr=1e-2, weight_decay=0.1))
    assert own == {"params": [model[0], model[2]], "weight_decay": 0.1, "lr_scale": 1.0}
    assert slow["params"] == [model[1]]
    assert slow["lr_scale"] == pytest.approx(0.1)


def test_optimizer_decays_only_the_unmarked():
    model = nn.Linear(3, 3)
    model.bias._no_weight_decay = True
    nn.init.ones_(model.bias)
    nn.init.ones_(model.weight)
    optimizer = build_optimizer(model, TrainingConfig(lr=0.5, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.data, torch.full((3, 3), 0.95))
    torch.testing.assert_close(model.bias.data, torch.ones(3))


def test_devices_that_cannot_be_are_named():
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match=f"training.device.*{name}"):
            select_device(name)
    assert select_device("cpu") == torch.device("cpu")


def test_auto_precision_is_bf16_on_cuda_alone():
    config = TrainingConfig()
    assert uses_bf16(config, torch.device("cuda"))
    assert not uses_bf16(config, torch.device("cpu"))
    assert uses_bf16(TrainingConfig(precision="bf16"), torch.device("cpu"))
