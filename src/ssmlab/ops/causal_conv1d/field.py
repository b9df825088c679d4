"""A drop-in for the field's ``causal_conv1d_fn``: channels before time.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import check_dims, check_tensor
from ssmlab.ops.causal_conv1d.api import masked_causal_conv1d
from ssmlab.ops.causal_conv1d.checks import check_filter, check_state
from ssmlab.ops.causal_conv1d.reference import final_state

_NAME = "causal_conv1d_fn"


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`causal_conv1d` in the layout and with the arguments that published code calls.

    Args:
        x: (B, D, L). Channels-last memory (the transpose of a contiguous (B, L, D)) is fastest.
        weight: (D, W); bias: (D,) or None.
        seq_idx: (B, L) int32 or int64, the sequence that each position belongs to; nothing crosses a
            change of it, and positions where it is negative are padding: y is zero there. It
            goes with neither initial nor final states.
        initial_states: (B, D, W-1), the inputs before the first, oldest first.
        return_final_states: also return the last W-1 inputs, (B, D, W-1).
        final_states_out: (B, D, W-1), where to write those, without their gradient; needs
            return_final_states.
        activation: None, "silu" or "swish".

    Returns:
        y (B, D, L), or (y, final states): ``final_states_out`` itself where it was given.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; seq_idx together with states.
    """
    check_tensor(_NAME, "x", x)
    check_dims(_NAME, "x", x, (3,), "(B, D, L)")
    batch, channels, _ = x.shape
    width = check_filter(_NAME, x, channels, weight, bias)
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError(
            f"{_NAME}: seq_idx is given together with initial or final states, expected one or "
            f"the other; use causal_conv1d with cu_seqlens, whose states are one per sequence"
        )
    if final_states_out is not None and not return_final_states:
        raise ValueError(
            f"{_NAME}: final_states_out is given but return_final_states is False; set it to True"
        )
    for name, states in (
        ("initial_states", initial_states),
        ("final_states_out", final_states_out),
    ):
        if states is not None:
            check_state(_NAME, name, x, states, (batch, channels, width - 1), "(B, D, W-1)")
    state = None if initial_states is None else initial_states.transpose(1, 2).to(x.dtype)
    x = x.transpose(1, 2)
    y = masked_causal_conv1d(
        _NAME, x, weight, bias, activation, state, None, seq_idx, None
    ).transpose(1, 2)
    if not return_final_states:
        return y
    last = final_state(x, width, state, None).transpose(1, 2)
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(last)
        return y, final_states_out
    return y, last
