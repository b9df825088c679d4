"""The cuda backend: CUDA C++ kernels behind the operator's forward and backward.

Real A with B and C per step or constant, in float32, bfloat16 or float16, and N up to 64 runs on the
fast kernels; anything else (complex A, float64, larger N) on general ones.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import torch
from torch import Tensor

from ssmlab.ops.selective_scan.cuda import fast, general
from ssmlab.ops.selective_scan.cuda.inputs import (
    is_along_time,
    is_backward_along_time,
    is_fast,
    new_rows,
)

__all__ = ["backward", "forward", "kept_shape", "new_gradients", "new_output"]


def kept_shape(
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
    save: bool,
) -> tuple[int, ...]:
    """Shape of what forward keeps: one flat tensor of the compute dtype, for backward to read."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if not save:
        return (0,)
    path = fast if is_fast(*tensors) else general
    return (path.kept_size(*tensors, cu_seqlens),)


def new_output(
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
) -> Tensor:
    """An empty y, laid out in memory as forward returns it."""
    fast_ones = is_fast(u, delta, A, B, C, D, z, delta_bias, initial_state)
    return new_rows(u, u.dtype, fast_ones and is_along_time(u, A, B, C, cu_seqlens))


def new_gradients(
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
) -> tuple[Tensor, ...]:
    """Empty gradients, laid out in memory as backward returns them."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    along_time = is_fast(*tensors) and is_backward_along_time(u, delta, A, B, C, z, cu_seqlens)

    def empty(i: int, t: Tensor | None) -> Tensor:
        if t is None:
            return u.new_empty(0)
        if along_time and i in (0, 1, 6):
            return new_rows(t, t.dtype, along_time=True)
        return torch.empty_like(t, memory_format=torch.contiguous_format)

    return tuple(empty(i, t) for i, t in enumerate(tensors))


def forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and (if ``save``) what the backward pass starts from."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    path = fast if is_fast(*tensors) else general
    return path.forward(*tensors, cu_seqlens, delta_softplus, save)


def backward(
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
) -> tuple[Tensor, ...]:
    """The gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, in that order.

    That of an absent argument is an empty tensor.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if kept.shape != kept_shape(*tensors, cu_seqlens, True):
        # Called without what a forward pass with ``save`` keeps: make it.
        kept = forward(*tensors, cu_seqlens, delta_softplus, True)[2]
    path = fast if is_fast(*tensors) else general
    return path.backward(grad_y, grad_last, kept, *tensors, cu_seqlens, delta_softplus)
