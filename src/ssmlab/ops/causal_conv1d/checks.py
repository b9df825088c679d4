"""Argument checks of the causal convolution: what was given, what was expected, what to do.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

import itertools

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_activation(activation: str | None) -> bool:
    """True for SiLU, False for none."""
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation must be None, 'silu' or 'swish', got {activation!r}")
    return activation is not None


def check_same_device(x: Tensor, **others: Tensor | None) -> None:
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(
                f"{name} is on {tensor.device} but x is on {x.device}; "
                f"move it with {name}.to(x.device)"
            )


def check_float(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS:
        raise ValueError(
            f"{name} must be float32, bfloat16, float16 or float64, got {tensor.dtype}"
        )


def check_filter(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """x (..., D), weight (D, W), bias (D,): floating point, of fitting shapes, on one device."""
    channels = x.shape[-1]
    check_float("x", x)
    if weight.ndim != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        hint = ""
        if weight.ndim == 3 and weight.shape[1] == 1:
            hint = "; for the weight of a depthwise nn.Conv1d, (D, 1, W), pass weight.squeeze(1)"
        raise ValueError(
            f"weight must have shape (D, W) with D = {channels} and W >= 1, "
            f"got {tuple(weight.shape)}{hint}"
        )
    check_float("weight", weight)
    if bias is not None:
        if tuple(bias.shape) != (channels,):
            raise ValueError(f"bias must have shape (D,) = ({channels},), got {tuple(bias.shape)}")
        check_float("bias", bias)
    check_same_device(x, weight=weight, bias=bias)


def check_state(x: Tensor, width: int, initial_state: Tensor | None, sequences: int | None) -> None:
    """initial_state (B, W-1, D), or (S, W-1, D) when ``sequences`` = S is given."""
    if initial_state is None:
        return
    letter, count = ("B", x.shape[0]) if sequences is None else ("S", sequences)
    expected = (count, width - 1, x.shape[2])
    if tuple(initial_state.shape) != expected:
        raise ValueError(
            f"initial_state must have shape ({letter}, W-1, D) = {expected}, "
            f"got {tuple(initial_state.shape)}"
        )
    check_float("initial_state", initial_state)
    check_same_device(x, initial_state=initial_state)


def check_cu_seqlens(x: Tensor, cu_seqlens: Tensor | None) -> None:
    """Shape and dtype; the values are checked by :func:`check_offsets` where they can be read."""
    if cu_seqlens is None:
        return
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype != torch.int32:
        raise ValueError(
            "cu_seqlens must be an int32 tensor (S+1,) of offsets 0, ..., L, "
            f"got {cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}"
        )
    if x.shape[0] != 1:
        raise ValueError(
            f"cu_seqlens packs sequences along L and needs batch size 1, got {x.shape[0]}; "
            "reshape x to (1, B*L, D) and give the offsets of every sequence"
        )
    check_same_device(x, cu_seqlens=cu_seqlens)


def check_offsets(cu_seqlens: Tensor, length: int) -> None:
    """The values of cu_seqlens: from 0 to L, never falling. Reads the tensor."""
    values = cu_seqlens.tolist()
    rising = all(a <= b for a, b in itertools.pairwise(values))
    if values[0] != 0 or values[-1] != length or not rising:
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise ValueError(
            f"cu_seqlens must rise from 0 to L = {length}, got [{shown}] ending in {values[-1]}"
        )


def check_seq_idx(x: Tensor, seq_idx: Tensor | None) -> None:
    """seq_idx (B, L) int32."""
    if seq_idx is None:
        return
    if tuple(seq_idx.shape) != tuple(x.shape[:2]) or seq_idx.dtype != torch.int32:
        raise ValueError(
            f"seq_idx must be an int32 tensor of shape (B, L) = {tuple(x.shape[:2])}, "
            f"got {seq_idx.dtype} of shape {tuple(seq_idx.shape)}"
        )
    check_same_device(x, seq_idx=seq_idx)
