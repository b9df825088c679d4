"""The compiled backends as torch custom operators, so that compiling and tracing see one node.

``ssmlab::selective_scan`` returns y, the last state and the states that its backward pass starts
from; ``ssmlab::selective_scan_backward`` returns one gradient per tensor argument. What an operator
has nothing to say about (a gradient of an absent argument) is an empty tensor, since operators
return tensors only. Each runs the backend it is told, so one registration serves all backends.

Shapes: B batch, L length, D channels, N state, S packed sequences.
"""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops.selective_scan.backends import module
from ssmlab.ops.selective_scan.reference import compute_dtype, state_dtype

CHUNK = 32  # time steps between the states kept for the backward pass


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """y and the last state, through the operator; arguments are checked already."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, last, _ = torch.ops.ssmlab.selective_scan(
        *tensors, cu_seqlens, delta_softplus, save, backend
    )
    return y, last


def chunk_length(n: int) -> int:
    """Time steps between kept states, a multiple of CHUNK: more if a channel has many states.

    What is kept then takes about half as much memory as u, up to N = 64; with more states the rows
    of a chunk would no longer fit the processor's cache.
    """
    return CHUNK * min(max(1, -(-2 * n // CHUNK)), 4)


def kept_shape(u: Tensor, A: Tensor, cu_seqlens: Tensor | None, save: bool) -> tuple[int, ...]:
    """Shape of the states kept: (count, N, D), with complex A (count, 2N, D): real, imaginary parts.

    A sequence keeps one after each chunk but its last, (its length - 1) // chunk of them. That of
    packed sequences together is bounded by what one sequence of their total length would keep.
    """
    batch, length, channels = u.shape
    n = A.shape[1]
    count = (batch * ((length - 1) // chunk_length(n))) if save else 0
    return (count, 2 * n if A.is_complex() else n, channels)


@torch.library.custom_op("ssmlab::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta_softplus: bool,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    args = (u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus)
    return module(backend).forward(*args, save)


@_forward.register_fake
def _forward_fake(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta_softplus: bool,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    kind = state_dtype(dtype, A.is_complex())
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    channels, n = A.shape
    last = u.new_empty((sequences, channels, n), dtype=kind)
    if backend == "cuda":
        from ssmlab.ops.selective_scan import cuda

        tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
        shape = cuda.kept_shape(*tensors, cu_seqlens, save)
        y = cuda.new_output(*tensors, cu_seqlens)
    else:
        shape = kept_shape(u, A, cu_seqlens, save)
        y = u.new_empty(u.shape)
    kept = u.new_empty(shape, dtype=dtype)
    return y, last, kept


@torch.library.custom_op("ssmlab::selective_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    args = (u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus)
    return module(backend).backward(grad_y, grad_last, kept, *args)


@_backward.register_fake
def _backward_fake(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if backend == "cuda":
        from ssmlab.ops.selective_scan import cuda

        return cuda.new_gradients(*tensors, cu_seqlens)  # type: ignore[return-value]
    return tuple(  # type: ignore[return-value]
        u.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in tensors
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, delta_softplus, _, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2], *tensors)
    ctx.delta_softplus, ctx.backend = delta_softplus, backend


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    kept, *tensors = ctx.saved_tensors
    absent: tuple[None, ...] = (None,) * 4  # cu_seqlens, delta_softplus, save, backend
    if grad_y is None and grad_last is None:
        return (None,) * 9 + absent
    grads = torch.ops.ssmlab.selective_scan_backward(
        grad_y, grad_last, kept, *tensors, ctx.delta_softplus, ctx.backend
    )
    wanted = [
        grad if t is not None and needs else None
        for t, grad, needs in zip(tensors[:9], grads, ctx.needs_input_grad, strict=False)
    ]
    return (*wanted, *absent)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "selective_scan: a second derivative was asked of a compiled backend, which has the first "
        'only; call selective_scan with backend="reference" for it'
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)
