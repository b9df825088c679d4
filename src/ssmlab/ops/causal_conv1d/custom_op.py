"""Registers the compiled backends as torch operators, with shapes for tracing and their gradient.

So torch.compile, torch.export and autograd see one opaque operator. Each runs the backend that it is
told, which is imported only then.
"""

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def module(backend: str) -> ModuleType:
    """The module of a compiled backend, "cpu" or "cuda": it has ``forward`` and ``backward``."""
    return importlib.import_module(f"ssmlab.ops.causal_conv1d.{backend}")


@torch.library.custom_op("ssmlab::causal_conv1d", mutates_args=())
def forward_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    backend: str = "cpu",
) -> Tensor:
    """y (B, L, D); see :func:`ssmlab.ops.causal_conv1d.causal_conv1d`."""
    return module(backend).forward(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)


@forward_op.register_fake
def _(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu, backend="cpu"):
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmlab::causal_conv1d_backward", mutates_args=())
def backward_op(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; empty (0,) for an input that was None."""
    args = (grad_y, x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)
    return module(backend).backward(*args)


@backward_op.register_fake
def _(grad_y, x, weight, bias, initial_state, cu_seqlens, seq_idx, silu, backend="cpu"):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
        x.new_empty(0) if initial_state is None else x.new_empty(initial_state.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, silu, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.silu, ctx.backend = silu, backend


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    _, _, bias, initial_state, _, _ = ctx.saved_tensors
    dx, dweight, dbias, dstate = backward_op(grad_y, *ctx.saved_tensors, ctx.silu, ctx.backend)
    return (
        dx,
        dweight,
        None if bias is None else dbias,
        None if initial_state is None else dstate,
        None,
        None,
        None,
        None,
    )


forward_op.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("ssmlab::causal_conv1d_update", mutates_args=())
def update_op(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slots: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """One step on a GPU: y (B, D) and the new states (B, W-1, D) of the rows."""
    target = state.new_empty((x.shape[0], *state.shape[1:]))
    y = module("cuda").update(x, state, target, weight, bias, slots, silu)
    return y, target


@update_op.register_fake
def _(x, state, weight, bias, slots, silu):
    return x.new_empty(x.shape), state.new_empty((x.shape[0], *state.shape[1:]))


@torch.library.custom_op("ssmlab::causal_conv1d_update_", mutates_args=("state",))
def update_op_(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slots: Tensor | None,
    silu: bool,
) -> Tensor:
    """As ``update_op``, the states moved on in place."""
    return module("cuda").update(x, state, state, weight, bias, slots, silu)


@update_op_.register_fake
def _(x, state, weight, bias, slots, silu):
    return x.new_empty(x.shape)
