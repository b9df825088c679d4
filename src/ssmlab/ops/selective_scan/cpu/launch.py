"""From torch tensors to kernel arguments and back.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ssmlab.ops.selective_scan.cpu import real as complex_kernels
from ssmlab.ops.selective_scan.cpu import real as real_kernels
from ssmlab.ops.selective_scan.cpu.plan import Plan, make_plan, sum_slabs
from ssmlab.ops.selective_scan.cpu.threads import run_tasks
from ssmlab.ops.selective_scan.cpu.tile import Array, Inputs
from ssmlab.ops.selective_scan.operator import chunk_length, kept_shape
from ssmlab.ops.selective_scan.reference import compute_dtype

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_LOG2E = 1 / math.log(2)


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
    """y, the last state and (if ``save``) the states that the backward pass starts from."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    dtype = compute_dtype(*tensors)
    plan = make_plan(u, A.shape[1], B, C, cu_seqlens)
    kept = torch.empty(kept_shape(u, A, cu_seqlens, save), dtype=dtype)
    if cu_seqlens is not None:
        # Packed sequences keep fewer states than their total length allows.
        kept[..., plan.states_kept :, :, :].zero_()
    x = _inputs(
        plan, dtype, None, kept, chunk_length(A.shape[1]) if save else 0, *tensors, delta_softplus
    )
    y = torch.empty(u.shape, dtype=dtype)
    last = torch.empty((*_parts(A), len(plan.sequences), *A.shape), dtype=dtype)
    kernels, y_flat, last_array = _kernels(A), y.view(-1).numpy(), last.numpy()
    _run(kernels, plan, lambda task: kernels.forward(x, y_flat, last_array, task))
    return y.to(u.dtype), _join(last, A, A), kept


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
    dtype = compute_dtype(*tensors)
    if kept.shape != kept_shape(u, A, cu_seqlens, True):
        # Called without what a forward pass with ``save`` keeps: make it.
        kept = forward(*tensors, cu_seqlens, delta_softplus, True)[2]
    plan = make_plan(u, A.shape[1], B, C, cu_seqlens)
    x = _inputs(plan, dtype, grad_y, kept, chunk_length(A.shape[1]), *tensors, delta_softplus)
    kernels, parts, real = _kernels(A), _parts(A), _NUMPY[dtype]
    (batch, length, channels), n = u.shape, A.shape[1]
    size, shared = batch * length * channels, (*parts, plan.lanes, n, channels)
    per_step = (*parts, plan.slabs, batch * length, n)
    absent = (0,) * len(shared)
    grads = kernels.Gradients(
        u=np.empty(size, real),
        delta=np.empty(size, real),
        z=np.empty(0 if z is None else size, real),
        A=np.empty(shared, real),
        B=np.empty(shared if B.dim() == 2 else absent, real),
        C=np.empty(shared if C.dim() == 2 else absent, real),
        B_t=np.empty(absent if B.dim() == 2 else per_step, real),
        C_t=np.empty(absent if C.dim() == 2 else per_step, real),
        D=np.empty((plan.lanes, channels), real),
        bias=np.empty((plan.lanes, channels), real),
        h0=np.empty((*parts, len(plan.sequences), channels, n), real),
    )
    grad_last_array = _optional(grad_last, A, dtype, 3)
    _run(kernels, plan, lambda task: kernels.backward(x, grad_last_array, grads, task))

    def real_like(value: Array, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return u.new_empty(0)
        return torch.from_numpy(value).view(tensor.shape).to(tensor.dtype)

    def of_matrix(lanes: Array, tensor: Tensor) -> Tensor:
        total = np.swapaxes(lanes.sum(axis=-3), -1, -2)
        return _join(torch.from_numpy(np.ascontiguousarray(total)), tensor, A)

    def of_factor(lanes: Array, slabs: Array, groups: tuple[int, ...], tensor: Tensor) -> Tensor:
        if tensor.dim() == 2:
            return of_matrix(lanes, tensor)
        return _join(torch.from_numpy(sum_slabs(slabs, groups)), tensor, A).view(tensor.shape)

    absent_or = u.new_empty(0)
    if initial_state is not None:
        absent_or = _join(torch.from_numpy(grads.h0), initial_state, A)
    return (
        real_like(grads.u, u),
        real_like(grads.delta, delta),
        of_matrix(grads.A, A),
        of_factor(grads.B, grads.B_t, plan.slab_group_B, B),
        of_factor(grads.C, grads.C_t, plan.slab_group_C, C),
        real_like(grads.D.sum(axis=0), D),
        real_like(grads.z, z),
        real_like(grads.bias.sum(axis=0), delta_bias),
        absent_or,
    )


def _kernels(A: Tensor) -> ModuleType:
    return complex_kernels if A.is_complex() else real_kernels


def _parts(A: Tensor) -> tuple[int, ...]:
    """The leading dimension of arrays that hold real and imaginary parts: 2, or none."""
    return (2,) if A.is_complex() else ()


def _run(kernels: ModuleType, plan: Plan, kernel: Callable[[Array], None]) -> None:
    try:
        run_tasks(lambda i: kernel(plan.tasks[i]), len(plan.tasks))
    except OSError:
        # The compiled code could not be written to its cache (a full disk, a folder that went
        # away). It is only a cache: go on without. A kernel itself raises no such error.
        kernels.forget_cache()
        run_tasks(lambda i: kernel(plan.tasks[i]), len(plan.tasks))


def _inputs(
    plan: Plan,
    dtype: torch.dtype,
    grad_y: Tensor | None,
    kept: Tensor,
    chunk: int,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
) -> Inputs:
    real = _NUMPY[dtype]
    flat, strides = zip(*(_flat(t, dtype) for t in (u, delta, z, grad_y)), strict=True)
    # Scaled in float64, so that the exponent is rounded once; transposed for the kernels' loops.
    A64 = _as_parts(A, A, torch.float64).swapaxes(-1, -2)
    if A.is_complex():
        A_scaled = np.stack((A64[0] * _LOG2E, A64[1] / math.pi)).astype(real)
    else:
        A_scaled = np.ascontiguousarray((A64 * _LOG2E).astype(real))
    B_array, B_steps = _factor(B, A, dtype)
    C_array, C_steps = _factor(C, A, dtype)
    return Inputs(
        *flat,
        strides=np.array(strides, dtype=np.int64),
        A=A_scaled,
        B=B_array,
        C=C_array,
        B_t=B_steps,
        C_t=C_steps,
        D=_vector(D, dtype),
        bias=_vector(delta_bias, dtype),
        h0=_optional(initial_state, A, dtype, 3),
        kept=kept.detach().numpy(),
        sequences=plan.sequences,
        length=u.shape[1],
        chunk=chunk,
        softplus=delta_softplus,
        log2e=real(_LOG2E),
    )


def _flat(tensor: Tensor | None, dtype: torch.dtype) -> tuple[Array, tuple[int, ...]]:
    """A flat view of a tensor's storage and its strides; a copy only where the dtypes differ."""
    if tensor is None:
        return np.empty(0, _NUMPY[dtype]), (0, 0, 0)
    tensor = tensor.detach().resolve_neg().to(dtype)
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).numpy(), tensor.stride()


def _vector(tensor: Tensor | None, dtype: torch.dtype) -> Array:
    if tensor is None:
        return np.empty(0, _NUMPY[dtype])
    return tensor.detach().to(dtype).contiguous().numpy()


def _as_parts(tensor: Tensor, A: Tensor, dtype: torch.dtype) -> Array:
    """A contiguous array; if A is complex, one of real and imaginary parts, (2, ...)."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if not A.is_complex():
        return tensor.to(dtype).contiguous().numpy()
    real = tensor.real.to(dtype) if tensor.is_complex() else tensor.to(dtype)
    imaginary = tensor.imag.to(dtype) if tensor.is_complex() else torch.zeros_like(real)
    return torch.stack((real, imaginary)).numpy()


def _optional(tensor: Tensor | None, A: Tensor, dtype: torch.dtype, dims: int) -> Array:
    if tensor is None:
        return np.empty((0,) * (dims + len(_parts(A))), _NUMPY[dtype])
    return _as_parts(tensor, A, dtype)


def _factor(X: Tensor, A: Tensor, dtype: torch.dtype) -> tuple[Array, Array]:
    """B or C as the constant (N, D) and the per-step (B * L, G, N) array; one of them absent."""
    if X.dim() == 2:
        return _as_parts(X.transpose(0, 1), A, dtype), _optional(None, A, dtype, 3)
    groups = 1 if X.dim() == 3 else X.shape[2]
    steps = X.reshape(X.shape[0] * X.shape[1], groups, X.shape[-1])
    return _optional(None, A, dtype, 2), _as_parts(steps, A, dtype)


def _join(parts: Tensor, like: Tensor, A: Tensor) -> Tensor:
    """Undo ``_as_parts`` and convert to the dtype of ``like`` (the real part, if that is real)."""
    if not A.is_complex():
        return parts.to(like.dtype if not like.is_complex() else parts.dtype)
    if like.is_complex():
        return torch.complex(parts[0], parts[1]).to(like.dtype)
    return parts[0].to(like.dtype)
