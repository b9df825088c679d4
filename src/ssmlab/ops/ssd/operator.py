"""The chunked SSD of 16-bit numbers as a torch custom operator with a first derivative.

Kept for the backward pass: the inputs, and the states before chunks.
"""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops._products import is_narrow
from ssmlab.ops.ssd import chunked


@torch.library.custom_op("ssmlab::ssd", mutates_args=())
def _forward(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states before chunks; products take operands of ``dtype``."""
    with torch.autocast(x.device.type, enabled=False):
        return chunked.forward(x, delta, A, B, C, D, initial_state, chunk_size, dtype)


@_forward.register_fake
def _(x, delta, A, B, C, D, initial_state, chunk_size, dtype):
    batch, length, heads, width = x.shape
    n, chunks = B.shape[3], -(-length // min(chunk_size, length))
    wide = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, heads, width, n), dtype=wide),
        x.new_empty((chunks, batch, heads, n, width), dtype=dtype),
    )


@torch.library.custom_op("ssmlab::ssd_backward", mutates_args=())
def _backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    before: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    chunk_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        grads = chunked.backward(grad_y, grad_last, before, x, delta, A, B, C, D, chunk_size, dtype)
    dx, ddelta, dA, dB, dC, dD, dinitial = grads
    return (
        dx,
        ddelta.to(delta.dtype),
        dA.to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        dD if D is None else dD.to(D.dtype),
        dinitial,
    )


@_backward.register_fake
def _(grad_y, grad_last, before, x, delta, A, B, C, D, chunk_size, dtype):
    batch, _, heads, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    return (
        *(t.new_empty(t.shape) for t in (x, delta, A, B, C)),
        x.new_empty(heads, dtype=wide if D is None else D.dtype),
        x.new_empty((batch, heads, width, B.shape[3]), dtype=wide),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, initial_state, chunk_size, dtype = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2], *tensors)
    ctx.state_dtype = None if initial_state is None else initial_state.dtype
    ctx.options = (chunk_size, dtype)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_last is None:
        return (None,) * 9
    *grads, dinitial = torch.ops.ssmlab.ssd_backward(
        grad_y, grad_last, *ctx.saved_tensors, *ctx.options
    )
    if ctx.state_dtype is not None:
        dinitial = dinitial.to(ctx.state_dtype)
    wanted = (
        grad if needs else None
        for grad, needs in zip((*grads, dinitial), ctx.needs_input_grad, strict=False)
    )
    return (*wanted, None, None)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "ssd: a second derivative was asked with x of 16 bits, where there is the first only; give x "
        "in float32 or float64 for it"
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


def run(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """y and the last state through the operator; arguments are checked already."""
    wide = torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype if is_narrow(x, wide) else wide
    return torch.ops.ssmlab.ssd(x, delta, A, B, C, D, initial_state, chunk_size, dtype)[:2]
