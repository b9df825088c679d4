"""The inside of a Mamba block as torch custom operators: compiling and autograd see one node.

An operator and not a function of traced operators: a compiler that sees the same convolution in the
forward and the backward pass would keep its result instead of making it twice.
"""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops.mamba_inner import passes
from ssmlab.ops.mamba_inner.passes import Weights
from ssmlab.ops.selective_scan import operator as _scan  # noqa: F401, registers what is traced
from ssmlab.ops.selective_scan.reference import compute_dtype, state_dtype


@torch.library.custom_op("ssmlab::mamba_inner", mutates_args=())
def _forward(
    xz: Tensor,
    conv: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor | None,
    dt_proj: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor,
    out_proj: Tensor,
    out_bias: Tensor | None,
    cu_seqlens: Tensor | None,
    keep_scan: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = Weights(conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias)
    return passes.forward(xz, weights, cu_seqlens, keep_scan, backend)


@_forward.register_fake
def _(
    xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias, cu_seqlens,
    keep_scan, backend,
):  # fmt: skip
    out = xz.new_empty((*xz.shape[:2], out_proj.shape[0]))
    if not keep_scan:
        return out, xz.new_empty(0), xz.new_empty(0)
    x, z = xz.chunk(2, dim=-1)
    # What the scan keeps is its backend's business: its own tracing says how much that is.
    factor = xz.new_empty((*xz.shape[:2], A.shape[1]), dtype=_factor_dtype(xz, A))
    y, _, kept = torch.ops.ssmlab.selective_scan(
        *(torch.empty_like(x), torch.empty_like(x), A),
        *(factor if B is None else B, factor if C is None else C, D, z, dt_bias),
        *(None, cu_seqlens, True, True, backend),
    )
    return out, y, kept


def _factor_dtype(xz: Tensor, A: Tensor) -> torch.dtype:
    return state_dtype(compute_dtype(xz), True) if A.is_complex() else xz.dtype


@torch.library.custom_op("ssmlab::mamba_inner_backward", mutates_args=())
def _backward(
    grad: Tensor,
    y: Tensor,
    kept: Tensor,
    xz: Tensor,
    conv: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor | None,
    dt_proj: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor,
    out_proj: Tensor,
    out_bias: Tensor | None,
    cu_seqlens: Tensor | None,
    keep_scan: bool,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:
    weights = Weights(conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias)
    dxz, grads = passes.backward(grad, y, kept, xz, weights, cu_seqlens, keep_scan, backend)
    # Operators return tensors only: an empty one stands for a parameter that is not there.
    return (dxz, *(xz.new_empty(0) if g is None else g for g in grads))  # type: ignore[return-value]


@_backward.register_fake
def _(
    grad, y, kept, xz, conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias,
    cu_seqlens, keep_scan, backend,
):  # fmt: skip
    weights = (conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias)
    return tuple(
        xz.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (xz, *weights)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, keep_scan, backend = inputs
    _, y, kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(y, kept)
    ctx.save_for_backward(y, kept, *tensors)
    ctx.keep_scan, ctx.backend = keep_scan, backend


def _differentiate(
    ctx: Any, grad: Tensor | None, _y: Tensor | None, _kept: Tensor | None
) -> tuple[Tensor | None, ...]:
    y, kept, *tensors = ctx.saved_tensors
    if grad is None:
        return (None,) * (len(tensors) + 2)
    grads = torch.ops.ssmlab.mamba_inner_backward(
        grad, y, kept, *tensors, ctx.keep_scan, ctx.backend
    )
    wanted = [
        g if t is not None and needs else None
        for t, g, needs in zip(tensors[:-1], grads, ctx.needs_input_grad, strict=False)
    ]
    return (*wanted, None, None, None)  # cu_seqlens, keep_scan, backend


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "mamba_inner: a second derivative was asked of the fused Mamba block, which has the first "
        'only; set recompute="none" in MambaConfig and use the reference backend for it'
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


def run(
    xz: Tensor, weights: Weights, cu_seqlens: Tensor | None, keep_scan: bool, backend: str
) -> Tensor:
    """The output (B, L, M) through the operator; arguments are checked already."""
    return torch.ops.ssmlab.mamba_inner(xz, *weights, cu_seqlens, keep_scan, backend)[0]
