"""One step of the causal convolution, for decoding.

Shape letters: B batch, D channels, W width (taps), P slots of a pool of states.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._checks import check_dims, check_tensor
from ssmlab.ops._slots import check_in_place, check_slots, hide_padding, put, take
from ssmlab.ops.causal_conv1d.backends import choose_backend
from ssmlab.ops.causal_conv1d.checks import check_activation, check_filter, check_state
from ssmlab.ops.causal_conv1d.custom_op import update_op, update_op_
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype

_NAME = "causal_conv1d_update"


def causal_conv1d_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    in_place: bool = False,
    state_indices: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One time step of :func:`causal_conv1d`, differentiable unless it is in place.

    Without gradients, on a GPU whose kernels work, it is one kernel.

    Args:
        x: (B, D), the input of this step; float32, bfloat16, float16 or float64.
        state: (B, W-1, D), the W-1 inputs before it, oldest first; converted to x's dtype. With
            ``state_indices``, a pool (P, W-1, D).
        weight: (D, W); bias: (D,) or None; activation: None, "silu" or "swish".
        in_place: write the new state to ``state``, in its dtype, and return ``state``.
        state_indices: (B,) int32 or int64, the slot of the pool in which the state of each row lies;
            negative for a row that is padding: its y is zero and nothing is written. In place
            they must differ. On a GPU neither that nor their range is checked.

    Returns:
        y (B, D) of x's dtype, and the new state of the rows (B, W-1, D) in x's dtype; in place,
        ``state`` itself.

    Raises:
        ValueError: shapes, dtypes, devices or indices that do not fit; in place with gradients.
    """
    check_tensor(_NAME, "x", x)
    check_dims(_NAME, "x", x, (2,), "(B, D), one time step")
    silu = check_activation(_NAME, activation)
    batch, channels = x.shape
    width = check_filter(_NAME, x, channels, weight, bias)
    rows, letter = batch, "B"
    if state_indices is not None:
        check_tensor(_NAME, "state", state)
        check_dims(_NAME, "state", state, (3,), "(P, W-1, D)")
        check_slots(_NAME, state, state_indices, batch, in_place)
        rows, letter = state.shape[0], "P"
    check_state(_NAME, "state", x, state, (rows, width - 1, channels), f"({letter}, W-1, D)")
    inputs = (x, state, weight, bias)
    if in_place:
        check_in_place(_NAME, *inputs)
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if (
        x.device.type == "cuda"
        and not recorded
        and state.dtype == x.dtype
        and (state.is_contiguous() or not in_place)
        and choose_backend(_NAME, x, weight, bias, None) == "cuda"
    ):
        if in_place:
            return update_op_(x, state, weight, bias, state_indices, silu), state
        return update_op(x, state.contiguous(), weight, bias, state_indices, silu)

    dtype = accumulation_dtype(x, weight, bias)
    before = state if state_indices is None else take(state, state_indices)
    window = torch.cat((before.to(x.dtype), x[:, None]), dim=1)
    y = (window.to(dtype) * weight.to(dtype).t()).sum(dim=1)
    if bias is not None:
        y = y + bias.to(dtype)
    if silu:
        y = F.silu(y)
    y, after = y.to(x.dtype), window[:, 1:].clone()
    if state_indices is not None:
        y, after = hide_padding(y, state_indices), hide_padding(after, state_indices)
    if not in_place:
        return y, after
    put(state, state_indices, after)
    return y, state
