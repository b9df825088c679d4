"""How a scan is cut into tasks that run independently and whose results do not depend on threads.

A task is a lane times a slab: a lane is a run of sequences, a slab a run of tiles (W channels each)
within one group. Sums over sequences are kept per lane, sums over channels per slab; few of both,
so that these parts stay small beside u, and their number depends on shapes alone.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import functools
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from ssmlab.ops._checks import sequence_bounds
from ssmlab.ops.selective_scan.cpu.tile import TASK_FIELDS, Array, W
from ssmlab.ops.selective_scan.operator import chunk_length

_LANES = 32  # at most
_TASKS = 32  # as many as this, if memory for the slabs' parts allows


@dataclass(frozen=True)
class Plan:
    """Arrays as the kernels read them, and the sizes of the parts."""

    sequences: Array  # (S, 4): batch index, first step, number of steps, first state kept
    tasks: Array  # (tasks, TASK_FIELDS)
    lanes: int
    slabs: int
    slab_group_B: tuple[int, ...]  # each slab's group of B
    slab_group_C: tuple[int, ...]
    states_kept: int


def make_plan(u: Tensor, n: int, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """The plan for tensors of these shapes.

    Raises:
        ValueError: the values of cu_seqlens do not fit the length.
    """
    batch, length, channels = u.shape
    bounds = None
    if cu_seqlens is not None:
        bounds = tuple(sequence_bounds("selective_scan", cu_seqlens, length))
    return plan_of(batch, length, channels, n, _groups(B), _groups(C), bounds)


def _groups(X: Tensor) -> int:
    return X.shape[2] if X.dim() == 4 else 1


@functools.lru_cache(maxsize=64)
def plan_of(
    batch: int,
    length: int,
    channels: int,
    n: int,
    groups_B: int = 1,
    groups_C: int = 1,
    bounds: tuple[int, ...] | None = None,
) -> Plan:
    """The plan for these sizes; ``bounds`` (S+1,) are those of packed sequences."""
    if bounds is None:
        spans = [(b, 0, length) for b in range(batch)]
    else:
        spans = [(0, start, end - start) for start, end in pairwise(bounds)]
    chunk, kept, sequences = chunk_length(n), 0, []
    for b, first, steps in spans:
        sequences.append((b, first, steps, kept))
        kept += max(0, (steps - 1) // chunk)

    lane_starts = _lane_starts([steps for _, _, steps in spans])
    lanes = len(lane_starts) - 1

    # A segment lies within one group of B and one of C; its tiles are shared out over slabs.
    segment = math.gcd(channels // groups_B, channels // groups_C)
    segments, tiles = channels // segment, -(-segment // W)
    per_segment = min(tiles, -(-_TASKS // (lanes * segments)), max(1, channels // (n * segments)))
    tasks, slab_group_B, slab_group_C = [], [], []
    for s in range(segments):
        group_B = s * segment // (channels // groups_B)
        group_C = s * segment // (channels // groups_C)
        for p in range(per_segment):
            first = s * segment + W * (p * tiles // per_segment)
            end = s * segment + min(segment, W * ((p + 1) * tiles // per_segment))
            slab = len(slab_group_B)
            slab_group_B.append(group_B)
            slab_group_C.append(group_C)
            tasks += [
                (lane, lane_starts[lane], lane_starts[lane + 1], group_B, group_C, slab, first, end)
                for lane in range(lanes)
            ]
    return Plan(
        np.array(sequences, dtype=np.int64),
        np.array(tasks, dtype=np.int64).reshape(-1, TASK_FIELDS),
        lanes,
        len(slab_group_B),
        tuple(slab_group_B),
        tuple(slab_group_C),
        kept,
    )


def _lane_starts(lengths: list[int]) -> list[int]:
    """Where each lane's sequences start, and the end: runs of about the same number of steps."""
    lanes, total, done = min(_LANES, len(lengths)), sum(lengths), 0
    starts = [0]
    for i, steps in enumerate(lengths):
        if done * lanes >= len(starts) * total and i > starts[-1]:
            starts.append(i)
        done += steps
    return [*starts, len(lengths)]


def sum_slabs(parts: Array, groups: tuple[int, ...]) -> Array:
    """(..., slabs, rows, N) -> (..., rows, G, N): each group's slabs, added in their order."""
    count = groups[-1] + 1
    if len(groups) == 1:
        return np.moveaxis(parts, -3, -2)
    *lead, _, rows, n = parts.shape
    total = np.empty((*lead, rows, count, n), parts.dtype)
    for g in range(count):
        own = slice(groups.index(g), len(groups) - groups[::-1].index(g))
        np.sum(parts[..., own, :, :], axis=-3, out=total[..., g, :])
    return total
