"""Whether runtime-compiled kernels can run here, and if not, what is missing and how to get it."""

import functools
import warnings

import torch

from ssmlab.ops._constants import constant_when_compiled
from ssmlab.ops._cuda import vendor
from ssmlab.ops._cuda.compile import compiler_version

MINIMUM = (8, 0)  # compute capability: asynchronous copies, tf32 and bf16 matrix instructions
_INSTALL = "install it with: pip install 'ssmlab[gpu]'"
_warned: set[str] = set()


@constant_when_compiled
def unavailable_reason(index: int | None = None) -> str | None:
    """Why kernels cannot run on CUDA device ``index`` (None: the current one); None if they can."""
    reason = _device_reason(index)
    return reason if reason is not None else _compiler_reason()


def _device_reason(index: int | None) -> str | None:
    if not torch.cuda.is_available():
        return (
            "no CUDA device is available (torch.cuda.is_available() is False); "
            "use a machine with an NVIDIA GPU, its driver and a CUDA build of PyTorch"
        )
    if torch.version.cuda is None:
        return "this PyTorch is not built for CUDA; install a CUDA build of PyTorch"
    capability = _capability(torch.cuda.current_device() if index is None else index)
    if capability < MINIMUM:
        given, least = (".".join(map(str, pair)) for pair in (capability, MINIMUM))
        return f"the GPU has compute capability {given}, the kernels need {least} (sm_80) or newer"
    return None


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@functools.cache
def _compiler_reason() -> str | None:
    try:
        vendor.core()
        vendor.driver()
    except Exception as error:  # a broken install fails in more ways than ImportError
        return f"cuda-core cannot be imported ({type(error).__name__}: {error}); {_INSTALL}"
    try:
        compiler_version()
    except Exception as error:
        return f"NVRTC, the runtime compiler, does not load ({error}); {_INSTALL}"
    return None


@constant_when_compiled
def warn_once(operator: str, reason: str) -> None:
    """Warn, once a process and reason, that an operator falls back to plain PyTorch on the GPU."""
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"{operator}: the CUDA kernels cannot be used, so plain PyTorch runs instead, which is "
            f"much slower: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
