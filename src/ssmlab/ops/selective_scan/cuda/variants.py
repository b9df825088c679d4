"""The kernel variants that the compile check builds: each template at each kind of argument."""

import torch

from ssmlab.ops._cuda import KernelSource
from ssmlab.ops.selective_scan.cuda import fast, general
from ssmlab.ops.selective_scan.cuda.plan import ForwardPlan, all_plans
from ssmlab.ops.selective_scan.cuda.step import step_variants


def variants() -> list[KernelSource]:
    """Every layout for bf16 with aligned rows; the other dtypes and flags for the main layouts."""
    forwards, backwards = all_plans()
    found: list[KernelSource] = [fast.chunks_source(False), fast.chunks_source(True)]
    types = (torch.bfloat16, torch.float16, torch.float32)
    for plan in forwards:
        found += [_forward(plan, torch.bfloat16, mode, True, True) for mode in (0, 1, 2)]
        found += [_forward(plan, dtype, 0, True, False) for dtype in types]
    for plan in backwards:
        found += [
            fast.backward_source(plan, dtype, softplus=True, gate=True, aligned=aligned)
            for dtype in types
            for aligned in (True, False)
        ]
    found += [
        fast.backward_source(
            backwards[0], torch.bfloat16, softplus=False, gate=False, aligned=True
        ),
        _forward(forwards[0], torch.bfloat16, 0, False, True),
    ]
    found += [fast.finish_source(dtype, aligned) for dtype in types for aligned in (True, False)]
    found += [
        general.source(direction, real, is_complex, constant_B, constant_C)
        for direction in ("forward", "backward")
        for real in (torch.float32, torch.float64)
        for is_complex in (False, True)
        for constant_B in (False, True)
        for constant_C in (False, True)
    ]
    found += step_variants()
    return list(dict.fromkeys(found))


def _forward(
    plan: ForwardPlan, dtype: torch.dtype, mode: int, flags: bool, aligned: bool
) -> KernelSource:
    save = flags and mode == fast.OUTPUT
    gate = flags and mode != fast.STATE
    return fast.forward_source(plan, dtype, mode, flags, gate, save, aligned)
