"""Registers the Numba backend as a torch operator, with shapes for tracing and its gradient.

So torch.compile, torch.export and autograd see one opaque operator. Numba itself is imported only
when the operator runs.
"""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("ssmlab::causal_conv1d", mutates_args=(), device_types="cpu")
def forward_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> Tensor:
    """y (B, L, D); see :func:`ssmlab.ops.causal_conv1d.causal_conv1d`."""
    from ssmlab.ops.causal_conv1d import cpu

    return cpu.forward(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)


@forward_op.register_fake
def _(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmlab::causal_conv1d_backward", mutates_args=(), device_types="cpu")
def backward_op(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; empty (0,) for an input that was None."""
    from ssmlab.ops.causal_conv1d import cpu

    return cpu.backward(grad_y, x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)


@backward_op.register_fake
def _(grad_y, x, weight, bias, initial_state, cu_seqlens, seq_idx, silu):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
        x.new_empty(0) if initial_state is None else x.new_empty(initial_state.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.silu = silu


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    _, _, bias, initial_state, _, _ = ctx.saved_tensors
    dx, dweight, dbias, dstate = backward_op(grad_y, *ctx.saved_tensors, ctx.silu)
    return (
        dx,
        dweight,
        None if bias is None else dbias,
        None if initial_state is None else dstate,
        None,
        None,
        None,
    )


forward_op.register_autograd(_backward, setup_context=_setup_context)
