"""The kernel variants that the compile check builds: each template at each kind of argument."""

from dataclasses import replace

import torch

from ssmlab.ops._cuda import KernelSource
from ssmlab.ops.selective_scan.cuda import fast, general, sources
from ssmlab.ops.selective_scan.cuda.plan import Device, ForwardPlan, all_plans, along_time
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
    found: list[KernelSource] = [sources.chunks_source(False), sources.chunks_source(True)]
    types = (torch.bfloat16, torch.float16, torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        forwards, backwards = all_plans(device, dtype.itemsize)
        for plan in forwards:
            found += [_forward(plan, dtype, mode, True, True) for mode in (0, 1, 2)]
            found += [_forward(plan, dtype, mode, True, True, (True, True)) for mode in (0, 1, 2)]
            found.append(_forward(plan, dtype, 0, True, False))
            found += [
                _forward(plan, dtype, mode, True, True, along_time=True) for mode in (0, 1, 2)
            ]
        for plan in backwards:
            found += [
                sources.backward_source(plan, dtype, True, True, flag) for flag in (True, False)
            ]
            found += [
                sources.backward_source(plan, dtype, True, True, True, (B, C))
                for B, C in ((True, True), (True, False), (False, True))
            ]
        found += [
            sources.backward_source(backwards[0], dtype, False, False, True),
            _forward(forwards[0], dtype, 0, False, True),
            _forward(forwards[0], dtype, 0, False, True, along_time=True),
            _forward(forwards[0], dtype, 1, True, True, (True, True), along_time=True),
            *(
                _forward(forwards[0], dtype, mode, True, True, (B, not B))
                for mode in (0, 1, 2)
                for B in (True, False)
            ),
        ]
    forwards, backwards = all_plans(device, 2)
    few_states = along_time(next(plan for plan in backwards if plan.WS == 1), device)
    found += [
        sources.backward_source(few_states, dtype, flags, flags, True, constant, True)
        for dtype, flags, constant in (
            (torch.bfloat16, True, (False, False)),
            (torch.bfloat16, True, (True, True)),
            (torch.bfloat16, True, (True, False)),
            (torch.bfloat16, True, (False, True)),
            (torch.bfloat16, False, (False, False)),
            (torch.float16, True, (False, False)),
        )
    ]
    found += [
        _forward(forwards[0], torch.float16, 0, True, True),
        _forward(forwards[0], torch.float16, 0, True, True, along_time=True),
        sources.backward_source(backwards[0], torch.float16, True, True, True),
    ]
    found += [sources.finish_source(dtype, aligned) for dtype in types for aligned in (True, False)]
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
    plan: ForwardPlan,
    dtype: torch.dtype,
    mode: int,
    flags: bool,
    aligned: bool,
    constant: tuple[bool, bool] = (False, False),
    along_time: bool = False,
) -> KernelSource:
    save = flags and mode != fast.REVERSE
    return sources.forward_source(
        plan, dtype, mode, flags, flags, save, aligned, constant, along_time
    )
