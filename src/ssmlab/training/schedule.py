"""The learning rate as a function of the step: linear warmup, then a cosine down to the floor."""

import math

from ssmlab.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of optimiser step ``step`` (0 is the first, ``config.steps - 1`` the last).

    The warmup of W = round(warmup_fraction * steps) steps starts at lr/W, so that no step is
    wasted at zero, and reaches the peak at step W - 1; the cosine ends at ``lr_min`` exactly at
    the last step.
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    peak, last = max(warmup - 1, 0), config.steps - 1
    progress = min(1.0, (step - peak) / (last - peak)) if last > peak else 0.0
    return config.lr_min + 0.5 * (config.lr - config.lr_min) * (1 + math.cos(math.pi * progress))
