"""The causal depthwise convolution in plain torch: any device and float type, differentiable twice.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 when any tensor is float64, else float32."""
    wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def run_starts(seq_idx: Tensor) -> Tensor:
    """First position (B, L) of the run of equal ``seq_idx`` that each position stands in."""
    position = torch.arange(seq_idx.shape[1], device=seq_idx.device).expand_as(seq_idx)
    changes = seq_idx[:, 1:] != seq_idx[:, :-1]
    changes = F.pad(changes, (1, 0), value=True)
    return torch.where(changes, position, 0).cummax(dim=1).values


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> Tensor:
    """y (B, L, D) of x's dtype; the arguments are checked already."""
    width = weight.shape[1]
    dtype = accumulation_dtype(x, weight, bias)
    if cu_seqlens is not None:
        windows = _packed_windows(x, width, initial_state, cu_seqlens)
    else:
        windows = _windows(x, width, initial_state, seq_idx)
    taps = weight.to(dtype)
    y = torch.zeros(x.shape, dtype=dtype, device=x.device)
    if bias is not None:
        y = y + bias.to(dtype)
    for k in range(width):
        y = y + taps[:, k] * windows[k].to(dtype)
    if silu:
        y = F.silu(y)
    if seq_idx is not None:
        y = torch.where((seq_idx >= 0)[..., None], y, 0)
    return y.to(x.dtype)


def final_state(
    x: Tensor, width: int, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The last W-1 rows of every sequence, (B, W-1, D) or (S, W-1, D), of x's dtype.

    Where a sequence is shorter than that, the newest rows of its initial state come first.
    """
    batch, length, channels = x.shape
    if cu_seqlens is None:
        if length >= width - 1:
            return x[:, length - (width - 1) :].clone()
        if initial_state is None:
            initial_state = x.new_zeros(batch, width - 1, channels)
        return torch.cat((initial_state[:, length:], x), dim=1)
    offsets = cu_seqlens.to(torch.int64)
    slots = torch.arange(width - 1, device=x.device)
    local = (offsets[1:] - offsets[:-1])[:, None] - (width - 1) + slots
    rows = x[0][(offsets[:-1, None] + local).clamp(min=0)]
    if initial_state is None:
        return torch.where((local >= 0)[..., None], rows, 0)
    index = torch.arange(local.shape[0], device=x.device)[:, None]
    older = initial_state[index, (local + width - 1).clamp(max=width - 2)]
    return torch.where((local >= 0)[..., None], rows, older)


def _windows(
    x: Tensor, width: int, initial_state: Tensor | None, seq_idx: Tensor | None
) -> list[Tensor]:
    """What each tap sees: W tensors (B, L, D)."""
    batch, length, channels = x.shape
    if initial_state is None:
        initial_state = x.new_zeros(batch, width - 1, channels)
    padded = torch.cat((initial_state, x), dim=1)
    taps = [padded[:, k : k + length] for k in range(width)]
    if seq_idx is not None:
        reach = torch.arange(length, device=x.device) - run_starts(seq_idx)
        taps = [
            torch.where((reach >= width - 1 - k)[..., None], tap, 0) for k, tap in enumerate(taps)
        ]
    return taps


def _packed_windows(
    x: Tensor, width: int, initial_state: Tensor | None, cu_seqlens: Tensor
) -> list[Tensor]:
    """As ``_windows`` for sequences packed along L."""
    _, length, channels = x.shape
    sequences = cu_seqlens.shape[0] - 1
    if initial_state is None:
        initial_state = x.new_zeros(sequences, width - 1, channels)
    offsets = cu_seqlens.to(torch.int64)
    position = torch.arange(length, device=x.device)
    sequence = torch.searchsorted(offsets, position, right=True) - 1
    local = position - offsets[sequence]
    # Rows of x first, then the rows of every sequence's initial state; a tap is a row of these.
    rows = torch.cat((x[0], initial_state.reshape(-1, channels)))
    taps = []
    for k in range(width):
        lag = width - 1 - k
        in_state = length + sequence * (width - 1) + local + k
        taps.append(rows[torch.where(local >= lag, position - lag, in_state)][None])
    return taps
