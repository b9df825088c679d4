"""The residual addition and norm as torch custom operators, with shapes for tracing and gradients.

Shapes: T rows, M width.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssmlab.ops._cuda import unavailable_reason, warn_once
from ssmlab.ops.add_rms_norm import cuda, reference


def _backend(device: torch.device, *dtypes: torch.dtype) -> ModuleType:
    if cuda.works(device, *dtypes):
        return cuda
    if device.type == "cuda" and torch.float64 not in dtypes:
        warn_once("add_rms_norm", str(unavailable_reason(device.index)))
    return reference


@torch.library.custom_op("ssmlab::add_rms_norm", mutates_args=())
def _forward(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y (..., M), residual + x (empty without x: an output may not be an input) and 1/rms (T,)."""
    shape, width = residual.shape, residual.shape[-1]
    dtypes = [t.dtype for t in (x, residual, weight) if t is not None]
    y, total, rstd = _backend(residual.device, *dtypes, out_dtype).forward(
        None if x is None else x.contiguous().view(-1, width),
        residual.contiguous().view(-1, width),
        weight.contiguous(),
        eps,
        out_dtype,
    )
    return y.view(shape), total if x is None else total.view(shape), rstd


@_forward.register_fake
def _(x, residual, weight, eps, out_dtype):
    wide = reference.accumulation_dtype(x, residual, weight)
    return (
        residual.new_empty(residual.shape, dtype=out_dtype),
        residual.new_empty(0 if x is None else residual.shape),
        residual.new_empty(residual.shape.numel() // residual.shape[-1], dtype=wide),
    )


@torch.library.custom_op("ssmlab::add_rms_norm_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dsum: Tensor | None,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    x_dtype: torch.dtype | None,
    wants_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty if ``x_dtype`` is None), residual and weight (empty unless wanted)."""
    shape, width = total.shape, total.shape[-1]
    dtypes = [dy.dtype, total.dtype, rstd.dtype, weight.dtype]
    dx, dresidual, dweight = _backend(total.device, *dtypes, x_dtype or dy.dtype).backward(
        dy.contiguous().view(-1, width),
        None if dsum is None else dsum.contiguous().view(-1, width),
        total.contiguous().view(-1, width),
        rstd,
        weight.contiguous(),
        x_dtype,
        wants_weight,
    )
    return dx if x_dtype is None else dx.view(shape), dresidual.view(shape), dweight


@_backward.register_fake
def _(dy, dsum, total, rstd, weight, x_dtype, wants_weight):
    return (
        total.new_empty(0 if x_dtype is None else total.shape, dtype=x_dtype),
        total.new_empty(total.shape),
        weight.new_empty(weight.shape if wants_weight else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, _, _ = inputs
    _, total, rstd = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(residual if x is None else total, rstd, weight)
    ctx.x_dtype = None if x is None else x.dtype


def _differentiate(
    ctx: Any, dy: Tensor | None, dsum: Tensor | None, _rstd: Tensor | None
) -> tuple[Tensor | None, ...]:
    total, rstd, weight = ctx.saved_tensors
    wants_x, wants_residual, wants_weight = ctx.needs_input_grad[:3]
    x_dtype = ctx.x_dtype if wants_x else None
    if x_dtype is None and ctx.x_dtype is None:
        dsum = None  # of the empty tensor
    if dy is None:  # y takes no part in what is differentiated
        dresidual, dweight = dsum, None
        dx = dsum if x_dtype is None or dsum is None else dsum.to(x_dtype)
    else:
        own = None if x_dtype == total.dtype else x_dtype
        dx, dresidual, dweight = _backward(dy, dsum, total, rstd, weight, own, wants_weight)
        if own is None:
            dx = dresidual  # the same numbers
    return (
        dx if wants_x else None,
        dresidual if wants_residual else None,
        dweight if wants_weight else None,
        None,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def run(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """y and the sum through the operator; arguments are checked already."""
    y, total, _ = torch.ops.ssmlab.add_rms_norm(x, residual, weight, eps, out_dtype)
    return y, residual if x is None else total
