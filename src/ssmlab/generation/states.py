"""Rows of a batch's state: taken out, put together, read in. Any mixer's, as nested tensors.

Every tensor of a state has the batch as its first dimension.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmlab.core.errors import GenerationError
from ssmlab.models.language_model import LanguageModel, LayerStates

# Tokens read at once: enough to keep the cores busy, few enough to bound the memory of any prompt.
CHUNK_TOKENS = 4096


def select(state: LayerStates, rows: Sequence[int]) -> LayerStates:
    """A copy of some rows, in the order given; a row may be named twice."""
    index = list(rows)
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[index].clone(), state)


def join(states: Sequence[LayerStates]) -> LayerStates:
    """One state out of several, their rows one after the other."""
    flat = [pytree.tree_flatten(state)[0] for state in states]
    spec = pytree.tree_flatten(states[0])[1]
    joined = [
        torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
        for parts in zip(*flat, strict=True)
    ]
    return pytree.tree_unflatten(joined, spec)


def read_rows(
    model: LanguageModel, rows: Sequence[Tensor], state: LayerStates, chunk: int = CHUNK_TOKENS
) -> tuple[Tensor, LayerStates]:
    """Read a text into each row, by the scan, some thousand tokens at a time.

    Args:
        rows: B texts, each (L_b,) int64 with L_b >= 1.
        state: of B rows.

    Returns:
        logits (B, V) of the token after each text, and the new state.

    Raises:
        GenerationError: there is not enough memory.
    """
    try:
        return _read_rows(model, rows, state, chunk)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and (
            "alloc" not in str(error) and "out of memory" not in str(error)
        ):
            raise
        raise GenerationError(
            f"not enough memory to read {len(rows)} prompts at once ({str(error)[:120]}); give fewer "
            "prompts at a time"
        ) from error


def _choose_prefill(model: LanguageModel) -> Callable[..., tuple[Tensor, LayerStates]]:
    """The model's own, or one that gives the same and is faster."""
    if model.embedding.weight.device.type != "cpu":
        return model.prefill  # without a second for Numba's import
    try:
        from ssmlab.generation.cpu import reader
    except Exception:  # a broken Numba fails in many ways; plain torch still works
        return model.prefill
    return model.prefill if reader.unsupported(model) else functools.partial(reader.read, model)


def _read_rows(
    model: LanguageModel, rows: Sequence[Tensor], state: LayerStates, chunk: int
) -> tuple[Tensor, LayerStates]:
    device, prefill = model.embedding.weight.device, _choose_prefill(model)
    ended: dict[int, tuple[Tensor, LayerStates]] = {}
    active, position = list(range(len(rows))), 0
    while active:
        length = max(1, chunk // len(active))
        parts = [rows[row][position : position + length] for row in active]
        if all(len(part) == len(parts[0]) for part in parts):
            logits, state = prefill(torch.stack(parts).to(device), state)
        else:
            sizes = torch.tensor([0, *(len(part) for part in parts)])
            offsets = sizes.cumsum(0).to(device=device, dtype=torch.int32)
            packed = torch.cat(parts)[None].to(device)
            logits, state = prefill(packed, state, cu_seqlens=offsets)
        position += length
        done = [i for i, row in enumerate(active) if len(rows[row]) <= position]
        if len(done) == len(active) and not ended:
            return logits, state
        for i in done:
            ended[active[i]] = (logits[i : i + 1], select(state, [i]))
        going = [i for i in range(len(active)) if i not in set(done)]
        if done and going:
            state = select(state, going)
        active = [active[i] for i in going]
    ordered = [ended[row] for row in range(len(rows))]
    return torch.cat([logits for logits, _ in ordered]), join([state for _, state in ordered])
