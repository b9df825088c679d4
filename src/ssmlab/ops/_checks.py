"""Argument checks shared by the operators: a failure says what was given and what is expected."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

REAL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)


def shape_text(shape: Sequence[int]) -> str:
    """``(2, 3)`` for a torch.Size or any sequence of sizes."""
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"


def check_shape(
    operator: str, name: str, tensor: Tensor, expected: Sequence[int], why: str
) -> None:
    """Raise ValueError unless ``tensor`` has exactly the shape ``expected``; ``why`` spells it."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{operator}: {name} has shape {shape_text(tensor.shape)}, expected "
            f"{shape_text(expected)} = {why}; pass {name} in that shape"
        )


def check_dims(operator: str, name: str, tensor: Tensor, dims: Sequence[int], why: str) -> None:
    """Raise ValueError unless ``tensor`` has one of the numbers of dimensions ``dims``."""
    if tensor.dim() not in dims:
        allowed = " or ".join(str(n) for n in dims)
        raise ValueError(
            f"{operator}: {name} has {tensor.dim()} dimensions, shape {shape_text(tensor.shape)}; "
            f"expected {allowed}: {why}; reshape {name}"
        )


def check_dtype(
    operator: str, name: str, tensor: Tensor, allowed: Sequence[torch.dtype], why: str = ""
) -> None:
    """Raise ValueError unless the tensor's dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        given = str(tensor.dtype).removeprefix("torch.")
        because = f" ({why})" if why else ""
        raise ValueError(
            f"{operator}: {name} is {given}, expected one of {names}{because}; convert {name}"
        )


def check_device(operator: str, device: torch.device, **tensors: Tensor | None) -> None:
    """Raise ValueError unless every given tensor lies on ``device``."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(
                f"{operator}: {name} is on {tensor.device}, the first argument on {device}; "
                f"move all tensors to one device"
            )


def check_tensor(operator: str, name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{operator}: {name} is a {type(value).__name__}, expected a torch.Tensor; "
            f"convert it with torch.as_tensor"
        )


def check_cu_seqlens(operator: str, cu_seqlens: Tensor, batch: int) -> None:
    """Check what can be checked of ``cu_seqlens`` without reading its values.

    ``sequence_bounds`` checks the values, when the operator runs.
    """
    check_tensor(operator, "cu_seqlens", cu_seqlens)
    check_dims(operator, "cu_seqlens", cu_seqlens, (1,), "(number of sequences + 1,) offsets")
    check_dtype(operator, "cu_seqlens", cu_seqlens, (torch.int32, torch.int64))
    if cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"{operator}: cu_seqlens has {cu_seqlens.shape[0]} entries, expected at least 2: "
            f"0, the end of each sequence, the last one being L"
        )
    if batch != 1:
        raise ValueError(
            f"{operator}: the batch is {batch} with cu_seqlens given, expected 1; "
            f"pack all sequences along the length axis"
        )


def sequence_bounds(operator: str, cu_seqlens: Tensor, length: int) -> list[int]:
    """The offsets of packed sequences as Python ints (a device's are copied to the host).

    Raises:
        ValueError: they do not start with 0, do not end with ``length``, or decrease.
    """
    bounds = [int(offset) for offset in cu_seqlens.tolist()]
    ordered = all(a <= b for a, b in pairwise(bounds))
    if bounds[0] != 0 or bounds[-1] != length or not ordered:
        shown = ", ".join(str(offset) for offset in bounds[:8]) + (", ..." * (len(bounds) > 8))
        raise ValueError(
            f"{operator}: cu_seqlens is [{shown}] and ends with {bounds[-1]}; expected offsets "
            f"that start with 0, never decrease and end with the length {length}"
        )
    return bounds
