"""Which backend of the causal convolution runs for given tensors.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import torch
from torch import Tensor

from ssmlab.ops._constants import constant_when_compiled
from ssmlab.ops._cuda import unavailable_reason, warn_once
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype

BACKENDS = ("cpu", "cuda", "reference")


def choose_backend(
    operator: str, x: Tensor, weight: Tensor, bias: Tensor | None, backend: str | None
) -> str:
    """The backend to run: the one asked for, or the fastest that works for these tensors.

    A GPU without working kernels is left to plain torch with one warning, float64 without.

    Raises:
        ValueError: unknown, not for these tensors, or not working here.
    """
    place = x.device.type
    if backend is None:
        if place == "cpu":
            return "cpu" if cpu_backend_error() is None else "reference"
        if place != "cuda" or accumulation_dtype(x, weight, bias) == torch.float64:
            return "reference"
        reason = unavailable_reason(x.device.index)
        if reason is not None:
            warn_once(operator, reason)
        return "cuda" if reason is None else "reference"
    if backend not in BACKENDS:
        raise ValueError(
            f"{operator}: backend is {backend!r}, expected one of {', '.join(BACKENDS)}, or None "
            f"for the fastest that works"
        )
    if backend != "reference":
        if place not in (backend, "meta"):
            raise ValueError(
                f"{operator}: backend {backend!r} works on {backend.upper()} tensors, given ones "
                f"are on {x.device}; leave backend out, or use 'reference'"
            )
        error = cpu_backend_error() if backend == "cpu" else _cuda_error(x, weight, bias)
        if error is not None:
            raise ValueError(
                f"{operator}: backend {backend!r} does not work here: {error}; or use "
                f"backend='reference'"
            )
    return backend


@constant_when_compiled
def cpu_backend_error() -> str | None:
    """None when the Numba backend can run, else the reason why not. Imports Numba."""
    try:
        import ssmlab.ops.causal_conv1d.cpu  # noqa: F401
    except Exception as error:  # a broken Numba fails in many ways; plain torch still works
        return f"{type(error).__name__}: {error}; install numba"
    return None


def _cuda_error(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if accumulation_dtype(x, weight, bias) == torch.float64:
        return "it computes in float32 and a tensor is float64; convert the tensors"
    return None if x.device.type == "meta" else unavailable_reason(x.device.index)
