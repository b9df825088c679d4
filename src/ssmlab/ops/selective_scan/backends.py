"""Which backends of the selective scan work here, and the one to use for a tensor."""

import functools
from types import ModuleType

import torch

from ssmlab.ops._constants import constant_when_compiled
from ssmlab.ops._cuda import unavailable_reason, warn_once

NAMES = ("reference", "cpu", "cuda")


@functools.cache
def _load_cpu() -> ModuleType | str:
    """The cpu backend's module, or the reason why it does not work."""
    try:
        from ssmlab.ops.selective_scan import cpu
    except Exception as error:  # whatever breaks the compiler's import must not break the user's
        return f"Numba does not work here: {type(error).__name__}: {error}"
    return cpu


@constant_when_compiled
def _cpu_problem() -> str | None:
    """Why the cpu backend does not work, or None; for torch.compile a constant, not looked into."""
    loaded = _load_cpu()
    return loaded if isinstance(loaded, str) else None


def module(name: str) -> ModuleType:
    """The module of a compiled backend, which has ``forward`` and ``backward``.

    Raises:
        ValueError: it does not work on this machine, with the reason.
    """
    if name == "cuda":
        from ssmlab.ops.selective_scan import cuda

        return cuda
    loaded = _load_cpu()
    if isinstance(loaded, str):
        raise ValueError(_refusal(name, loaded))
    return loaded


def _refusal(name: str, problem: str) -> str:
    return (
        f'selective_scan: backend "{name}" was asked for, but {problem}; install numba, or use '
        f'backend="reference"'
    )


def available_backends() -> dict[str, str | None]:
    """Each backend's name, with None where it works and the reason where it does not."""
    return {"reference": None, "cpu": _cpu_problem(), "cuda": unavailable_reason()}


def choose_backend(asked: str | None, device: torch.device) -> str:
    """The backend to use for tensors on ``device``: the one asked for, or the fastest there.

    Raises:
        ValueError: unknown, not for this device, or not working here.
    """
    if asked is None and device.type == "cuda":
        reason = unavailable_reason(device.index)
        if reason is None:
            return "cuda"
        warn_once("selective_scan", reason)
        return "reference"
    if asked is None:
        # On meta tensors the operator only says which shapes come out, which is quicker.
        works = device.type in ("cpu", "meta") and _cpu_problem() is None
        return "cpu" if works else "reference"
    if asked not in NAMES:
        raise ValueError(
            f"selective_scan: backend is {asked!r}, expected one of {', '.join(NAMES)}, or None "
            f"for the fastest that works"
        )
    if asked == "cpu":
        if device.type not in ("cpu", "meta"):
            raise ValueError(
                f'selective_scan: backend "cpu" works on CPU tensors, given ones are on {device}; '
                f'leave backend out, or use "reference"'
            )
        problem = _cpu_problem()
        if problem is not None:
            raise ValueError(_refusal(asked, problem))
    if asked == "cuda":
        if device.type not in ("cuda", "meta"):
            raise ValueError(
                f'selective_scan: backend "cuda" works on CUDA tensors, given ones are on '
                f"{device}; move them there, or leave backend out"
            )
        reason = unavailable_reason(device.index)
        if reason is not None:
            raise ValueError(f'selective_scan: backend "cuda" was asked for, but {reason}')
    return asked
