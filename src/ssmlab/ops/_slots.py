"""States of a decoding step that lie in slots of a pool: checks, reading and writing.

Shapes: B batch, P slots of the pool.
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import check_device, check_dtype, check_shape, check_tensor


def check_slots(operator: str, state: Tensor, indices: Tensor, batch: int, in_place: bool) -> None:
    """Check ``indices`` (B,); its values on the CPU only, since reading a GPU's would wait for it.

    Raises:
        ValueError: shape or dtype do not fit, an index is beyond the pool, or a slot is named twice
            in a step in place.
    """
    check_tensor(operator, "state_indices", indices)
    check_shape(operator, "state_indices", indices, (batch,), "(B,), a slot for each row")
    check_dtype(operator, "state_indices", indices, (torch.int32, torch.int64))
    check_device(operator, state.device, state_indices=indices)
    if indices.device.type != "cpu" or torch.compiler.is_compiling():
        return
    values = [slot for slot in indices.tolist() if slot >= 0]
    if values and max(values) >= state.shape[0]:
        raise ValueError(
            f"{operator}: state_indices names slot {max(values)}, the pool has {state.shape[0]}; "
            f"give 0 to {state.shape[0] - 1}, or a negative number for a row that is padding"
        )
    if in_place and len(set(values)) < len(values):
        raise ValueError(
            f"{operator}: state_indices names a slot twice, expected different ones: both rows "
            f"would write there"
        )


def check_in_place(operator: str, *tensors: Tensor | None) -> None:
    """Refuse a step in place that autograd would have to differentiate.

    Raises:
        ValueError: gradients are recorded and a tensor wants one.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise ValueError(
            f"{operator}: in_place is True and a tensor requires gradients; a step in place is not "
            f"differentiable, so call it under torch.no_grad(), or with in_place=False"
        )


def take(state: Tensor, indices: Tensor) -> Tensor:
    """The states of the rows, (B, ...); anything for padding."""
    return state[indices.clamp(min=0).to(torch.int64)]


def hide_padding(value: Tensor, indices: Tensor) -> Tensor:
    """``value`` (B, ...) with zeros in the rows that are padding."""
    return torch.where((indices >= 0).view(-1, *(1,) * (value.dim() - 1)), value, 0)


def put(state: Tensor, indices: Tensor | None, new: Tensor) -> None:
    """Write the rows' new states to where they came from; padding writes nothing."""
    if indices is None:
        state.copy_(new)
        return
    # One slot more takes what padding writes, so that nothing is read on the host.
    grown = torch.cat((state, state[:1]))
    grown[torch.where(indices >= 0, indices, state.shape[0]).to(torch.int64)] = new.to(state.dtype)
    state.copy_(grown[:-1])
