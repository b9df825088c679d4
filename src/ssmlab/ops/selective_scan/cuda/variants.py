"""The kernel variants that the compile check builds: each template at each kind of argument."""

from dataclasses import replace

import torch

from ssmlab.ops._cuda import KernelSource
from ssmlab.ops.selective_scan.cuda import fast, general
from ssmlab.ops.selective_scan.cuda.plan import Device, ForwardPlan, all_plans
from ssmlab.ops.selective_scan.cuda.step import step_variants

# The kinds of GPU between which layouts differ, and the architectures of each.
_KINDS = {
    ("sm_80",): Device(capability=(8, 0)),
    ("sm_90a",): Device(capability=(9, 0)),
    ("sm_100a",): Device(capability=(10, 0)),
}


def variants() -> list[KernelSource]:
    """Every layout with aligned rows and without, in 16 and 32 bits; the rest for one layout."""
    kinds = {archs: _variants(device) for archs, device in _KINDS.items()}
    everywhere = [v for v in kinds[next(iter(kinds))] if all(v in own for own in kinds.values())]
    return everywhere + [
        replace(v, architectures=archs)
        for archs, own in kinds.items()
        for v in own
        if v not in everywhere
    ]


def _variants(device: Device) -> list[KernelSource]:
    found: list[KernelSource] = [fast.chunks_source(False), fast.chunks_source(True)]
    types = (torch.bfloat16, torch.float16, torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        forwards, backwards = all_plans(device, dtype.itemsize)
        for plan in forwards:
            found += [_forward(plan, dtype, mode, True, True) for mode in (0, 1, 2)]
            found.append(_forward(plan, dtype, 0, True, False))
        for plan in backwards:
            found += [fast.backward_source(plan, dtype, True, True, flag) for flag in (True, False)]
        found += [
            fast.backward_source(backwards[0], dtype, False, False, True),
            _forward(forwards[0], dtype, 0, False, True),
        ]
    forwards, backwards = all_plans(device, 2)
    found += [
        _forward(forwards[0], torch.float16, 0, True, True),
        fast.backward_source(backwards[0], torch.float16, True, True, True),
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
