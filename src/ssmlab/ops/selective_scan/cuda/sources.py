"""Which kernel, of which files and template arguments, the fast path compiles."""

from pathlib import Path

import torch

from ssmlab.ops._cuda import COMMON, KernelSource
from ssmlab.ops.selective_scan.cuda.inputs import CPP_NAMES
from ssmlab.ops.selective_scan.cuda.plan import BackwardPlan, ForwardPlan

_FOLDER = Path(__file__).parent / "kernels"
_SHARED = (
    COMMON,
    *(_FOLDER / name for name in ("spans.cuh", "along_time.cuh", "forward_shape.cuh")),
)
FORWARD_FILES = (*_SHARED, _FOLDER / "forward_time.cuh", _FOLDER / "forward.cuh")
BACKWARD_FILES = (*_SHARED, _FOLDER / "backward_shape.cuh", _FOLDER / "backward.cuh")
SUM_FILES = (*_SHARED, _FOLDER / "sums.cuh")


def forward_source(
    plan: ForwardPlan,
    dtype: torch.dtype,
    mode: int,
    softplus: bool,
    gate: bool,
    save: bool,
    aligned: bool,
    constant: tuple[bool, bool] = (False, False),
    along_time: bool = False,
) -> KernelSource:
    """The forward kernel of a layout; ``constant`` says so of B and of C.

    ``along_time``: rows of u, delta, z and y run along time, (B, D, L); they must be aligned then.
    """
    flags = _cpp_flags(softplus, gate, save, aligned, *constant, along_time)
    name = f"scan_forward<{CPP_NAMES[dtype]}, {plan.cpp()}, {mode}, {flags}, {plan.min_blocks}>"
    return KernelSource(FORWARD_FILES, name)


def backward_source(
    plan: BackwardPlan,
    dtype: torch.dtype,
    softplus: bool,
    gate: bool,
    aligned: bool,
    constant: tuple[bool, bool] = (False, False),
    along_time: bool = False,
) -> KernelSource:
    """The backward kernel of a layout; ``constant`` and ``along_time`` as above."""
    flags = _cpp_flags(softplus, gate, aligned, *constant, along_time)
    name = f"scan_backward<{CPP_NAMES[dtype]}, {plan.cpp()}, {flags}, {plan.min_blocks}>"
    return KernelSource(BACKWARD_FILES, name)


def _cpp_flags(*flags: bool) -> str:
    return ", ".join(str(flag).lower() for flag in flags)


def chunks_source(reverse: bool) -> KernelSource:
    """The kernel that scans over chunks."""
    return KernelSource(SUM_FILES, f"scan_chunks<{str(reverse).lower()}>")


def finish_source(dtype: torch.dtype, aligned: bool) -> KernelSource:
    """The kernel that adds what blocks and items left of dA, dB, dC, dD and dbias."""
    return KernelSource(SUM_FILES, f"scan_finish<{CPP_NAMES[dtype]}, {str(aligned).lower()}>")
