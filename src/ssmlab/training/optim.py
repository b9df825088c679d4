"""AdamW over groups of parameters: those that decay or must not, and those slower than the rest."""

import torch
from torch import nn

from ssmlab.training.config import TrainingConfig


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, object]]:
    """Split the model's trainable parameters by their marks.

    ``_no_weight_decay`` leaves a parameter out of weight decay; ``_learning_rate`` is a peak of its
    own, which the group's ``lr_scale`` brings about (never one above the model's peak). Both are set
    where a parameter is made (A, Δ, biases, norms), so that this function needs to know nothing of
    layers or names. A shared (tied) parameter is counted once.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = 0.0 if getattr(parameter, "_no_weight_decay", False) else config.weight_decay
            own = getattr(parameter, "_learning_rate", None)
            scale = min(1.0, own / config.lr) if own is not None and config.lr > 0 else 1.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": key[1], "lr_scale": key[0]}
        for key in sorted(groups, reverse=True)
    ]


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW as the paper's improved recipe has it, with torch's fused step where there is one.

    On a CUDA device nothing of a step is a number of the host's, so that it can be recorded.
    """
    devices = {parameter.device for parameter in model.parameters()}
    on_cuda = all(device.type == "cuda" for device in devices)
    groups = parameter_groups(model, config)
    if on_cuda:
        for group in groups:
            group["lr"] = torch.tensor(config.lr, device=next(iter(devices)))
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=1e-8,
        fused=all(device.type in ("cpu", "cuda") for device in devices),
        capturable=on_cuda,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate``, where the group keeps it."""
    for group in optimizer.param_groups:
        own = rate * group["lr_scale"]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own
