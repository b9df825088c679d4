"""Toeplitz attention as a torch custom operator with a first derivative.

Kept for the backward pass: q, k, v and the taps.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from ssmlab.ops._products import is_narrow
from ssmlab.ops.toeplitz_attention import outer, scores

Form = Literal["scores", "outer", "fft"]


@torch.library.custom_op("ssmlab::toeplitz_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, taps: Tensor, form: str, dtype: torch.dtype
) -> Tensor:
    """y; products take operands of ``dtype``, sums and the mask are of the taps'."""
    with torch.autocast(q.device.type, enabled=False):
        if form == "scores":
            return scores.forward(q, k, v, taps, dtype)
        return outer.forward(q, k, v, taps, dtype, form == "fft")


@_forward.register_fake
def _(q, k, v, taps, form, dtype):
    return v.new_empty(v.shape)


@torch.library.custom_op("ssmlab::toeplitz_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, taps: Tensor, form: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        if form == "scores":
            return scores.backward(grad, q, k, v, taps, dtype)
        return outer.backward(grad, q, k, v, taps, dtype, form == "fft")


@_backward.register_fake
def _(grad, q, k, v, taps, form, dtype):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, taps))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, form, dtype = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (form, dtype)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.ssmlab.toeplitz_attention_backward(grad, *ctx.saved_tensors, *ctx.options)
    wanted = zip(grads, ctx.needs_input_grad[:4], strict=True)
    return (*(grad if needs else None for grad, needs in wanted), None, None)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "toeplitz_attention: a second derivative was asked, and there is the first only; take "
        "toeplitz_attention_reference for it"
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


def run(
    q: Tensor, k: Tensor, v: Tensor, taps: Tensor, form: Form, dtype: torch.dtype | None = None
) -> Tensor:
    """y through the operator in a form; arguments are checked already. ``dtype``: of the operands of
    products, where it is not to be the usual."""
    if form == "fft":
        dtype = taps.dtype
    elif dtype is None:
        dtype = q.dtype if is_narrow(q, taps.dtype) else taps.dtype
    return torch.ops.ssmlab.toeplitz_attention(q, k, v, taps, form, dtype)
