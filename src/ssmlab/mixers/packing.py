"""Packed sequences for mixers whose form over the whole length knows no boundaries.

Shapes: L length, D channels, S packed sequences.
"""

import contextlib
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmlab.ops._checks import check_cu_seqlens, sequence_bounds


def run_packed(
    mixer: nn.Module,
    tensors: tuple[Tensor | None, ...],
    state: Any,
    return_state: bool,
    cu_seqlens: Tensor,
) -> Any:
    """Run ``mixer`` on each of S sequences packed along L, as if it were alone.

    Args:
        mixer: called as mixer(*tensors, state, return_state).
        tensors: (1, L, ...) each, or None.
        state: tensors whose first dimension is S, or None.
        return_state: return the states too, S rows.
        cu_seqlens: (S+1,) offsets.

    Raises:
        ValueError: offsets that do not fit; or states asked for that are caches of past inputs,
            where sequences of different lengths have no common tensor.
    """
    name = type(mixer).__name__
    first = next(t for t in tensors if t is not None)
    check_cu_seqlens(name, cu_seqlens, first.shape[0])
    bounds = sequence_bounds(name, cu_seqlens, first.shape[1])
    outputs, states = [], []
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        parts = [None if t is None else t[:, start:end] for t in tensors]
        row = None if state is None else pytree.tree_map(lambda t, i=index: t[i : i + 1], state)
        if start == end:
            if return_state:
                empty = mixer.init_state(1, first.device, first.dtype)  # type: ignore[operator]
                states.append(empty if row is None else row)
            continue
        out = mixer(*parts, row, return_state)
        if return_state:
            out, after = out
            states.append(after)
        outputs.append(out)
    y = torch.cat(outputs, 1)
    return (y, _stack(name, states)) if return_state else y


def _stack(name: str, states: list[Any]) -> Any:
    leaves = [pytree.tree_leaves(state) for state in states]
    if any(len({leaf.shape for leaf in same}) > 1 for same in zip(*leaves, strict=True)):
        raise ValueError(
            f"{name}: return_state with cu_seqlens of unequal lengths: its state is a cache of past "
            "inputs, as long as each sequence, so the rows do not fit in one tensor; run the "
            "sequences one by one, or pack sequences of one length"
        )
    return pytree.tree_map(lambda *same: torch.cat(same), *states)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast off: what is computed inside keeps the dtype it is given."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
