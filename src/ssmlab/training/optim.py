"""AdamW over two groups of parameters: those that decay and those that must not."""

import torch
from torch import nn

from ssmlab.training.config import TrainingConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the model's trainable parameters by their ``_no_weight_decay`` mark.

    The mark is set where a parameter is made (A, D, biases, norms), so that this function needs
    to know nothing of layers or names. A shared (tied) parameter is counted once.
    """
    decayed, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            marked = getattr(parameter, "_no_weight_decay", False)
            (plain if marked else decayed).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW as the paper's improved recipe has it, with torch's fused step where there is one."""
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=1e-8,
        fused=fused,
    )
