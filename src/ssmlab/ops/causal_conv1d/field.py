"""A drop-in for the field's ``causal_conv1d_fn``: channels before time.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import torch
from torch import Tensor

from ssmlab.ops.causal_conv1d.api import masked_causal_conv1d
from ssmlab.ops.causal_conv1d.reference import final_state


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
        seq_idx: (B, L) int32, the sequence that each position belongs to; nothing crosses a
            change of it, and positions where it is negative are padding: y is zero there. It
            goes with neither initial nor final states.
        initial_states: (B, D, W-1), the inputs before the first, oldest first.
        return_final_states: also return the last W-1 inputs, (B, D, W-1).
        final_states_out: (B, D, W-1), where to write those; needs return_final_states.
        activation: None, "silu" or "swish".

    Returns:
        y (B, D, L), or (y, final states).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; seq_idx together with states.
    """
    if x.ndim != 3:
        raise ValueError(f"x must have 3 dimensions (B, D, L), got shape {tuple(x.shape)}")
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError(
            "seq_idx cannot be combined with initial_states or return_final_states; "
            "use causal_conv1d with cu_seqlens, whose states are one per sequence"
        )
    if final_states_out is not None and not return_final_states:
        raise ValueError("final_states_out was given without return_final_states=True; set both")
    expected = (x.shape[0], x.shape[1], weight.shape[-1] - 1)
    for name, states in (
        ("initial_states", initial_states),
        ("final_states_out", final_states_out),
    ):
        if states is not None and tuple(states.shape) != expected:
            raise ValueError(
                f"{name} must have shape (B, D, W-1) = {expected}, got {tuple(states.shape)}"
            )
    state = None if initial_states is None else initial_states.transpose(1, 2)
    y = masked_causal_conv1d(
        x.transpose(1, 2), weight, bias, activation, state, None, seq_idx, None
    ).transpose(1, 2)
    if not return_final_states:
        return y
    if state is not None:
        state = state.to(x.dtype)
    last = final_state(x.transpose(1, 2), weight.shape[1], state, None).transpose(1, 2)
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(last)
        return y, final_states_out
    return y, last
