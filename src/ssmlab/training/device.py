"""Which device and precision a trial runs on, and how much memory it took there."""

import sys

import torch

from ssmlab.core.errors import ConfigError
from ssmlab.training.config import TrainingConfig


def select_device(name: str) -> torch.device:
    """The torch device for ``training.device``; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        ConfigError: not a device, or one that this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"training.device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"training.device is {name!r}, but this machine has {count} usable CUDA devices; "
                "use auto or cpu"
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("training.device is 'mps', which this machine has not; use auto")
    elif device.type != "cpu":
        raise ConfigError(f"training.device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device


def uses_bf16(config: TrainingConfig, device: torch.device) -> bool:
    """Whether the forward pass runs under bf16 autocast. Parameters stay fp32 either way."""
    if config.precision == "auto":
        return device.type == "cuda"
    return config.precision == "bf16"


def reset_peak_memory(device: torch.device) -> None:
    """Start counting a CUDA device's peak anew; elsewhere there is nothing to reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most bytes held at once: by torch on a CUDA device, else by the whole process since it began.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
