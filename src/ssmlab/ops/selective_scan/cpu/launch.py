"""From torch tensors to kernel arguments and back.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.ops._cpu.threads import run_tasks
from ssmlab.ops.selective_scan.cpu import kernels
from ssmlab.ops.selective_scan.cpu.plan import Plan, make_plan, sum_slabs
from ssmlab.ops.selective_scan.cpu.tile import Array, Gradients, Inputs
from ssmlab.ops.selective_scan.operator import chunk_length, kept_shape
from ssmlab.ops.selective_scan.reference import compute_dtype

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_NUMPY_STATE = {torch.float32: np.complex64, torch.float64: np.complex128}
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
    # Packed sequences keep fewer states than their total length allows.
    kept[plan.states_kept :].zero_()
    chunk = chunk_length(A.shape[1]) if save else 0
    y = torch.empty(u.shape, dtype=dtype)
    last = torch.empty((len(plan.sequences), u.shape[2], _rows(A)), dtype=dtype)
    y_flat, last_array = y.view(-1).numpy(), last.numpy()
    x = _inputs(plan, dtype, (y_flat,), None, kept, chunk, *tensors, delta_softplus)
    _run(plan, lambda *tasks: kernels.forward(x, y_flat, last_array, *tasks))
    if A.is_complex():
        last = torch.complex(*last.chunk(2, -1))
    return y.to(u.dtype), last, kept


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
    real, rows = _NUMPY[dtype], _rows(A)
    batch, length, channels = u.shape
    size, shared = u.numel(), (plan.lanes, rows, channels)
    per_step = (plan.slabs, batch * length, rows)
    const_B, const_C, absent = B.dim() == 2, C.dim() == 2, (0, 0, 0)
    grads = Gradients(
        u=np.empty(size, real),
        delta=np.empty(size, real),
        z=np.empty(0 if z is None else size, real),
        A=np.empty(shared, real),
        B=np.empty(shared if const_B else absent, real),
        C=np.empty(shared if const_C else absent, real),
        B_t=np.empty(absent if const_B else per_step, real),
        C_t=np.empty(absent if const_C else per_step, real),
        D=np.empty((plan.lanes, channels), real),
        bias=np.empty((plan.lanes, channels), real),
        h0=np.empty((len(plan.sequences), channels, rows), real),
    )
    written, chunk = (grads.u, grads.delta, grads.z), chunk_length(A.shape[1])
    x = _inputs(plan, dtype, written, grad_y, kept, chunk, *tensors, delta_softplus)
    grad_last_array = _state(grad_last, A, dtype)
    _run(plan, lambda *tasks: kernels.backward(x, grad_last_array, grads, *tasks))

    def real_like(value: Array, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return u.new_empty(0)
        return torch.from_numpy(value).view(tensor.shape).to(tensor.dtype)

    def of_matrix(lanes: Array, tensor: Tensor, times: int = 1) -> Tensor:
        total = np.ascontiguousarray(lanes.sum(axis=0).T) * real(times)
        return _join(torch.from_numpy(total), tensor, A)

    def of_steps(slabs: Array, groups: tuple[int, ...], tensor: Tensor, times: int = 1) -> Tensor:
        total = _join(torch.from_numpy(sum_slabs(slabs, groups)), tensor, A).view(tensor.shape)
        return total if times == 1 else total * times

    twice = 2 if A.is_complex() else 1
    return (
        real_like(grads.u, u),
        real_like(grads.delta, delta),
        of_matrix(grads.A, A),
        of_matrix(grads.B, B) if const_B else of_steps(grads.B_t, plan.slab_group_B, B),
        of_matrix(grads.C, C, twice)
        if const_C
        else of_steps(grads.C_t, plan.slab_group_C, C, twice),
        real_like(grads.D.sum(axis=0), D),
        real_like(grads.z, z),
        real_like(grads.bias.sum(axis=0), delta_bias),
        u.new_empty(0)
        if initial_state is None
        else _join(torch.from_numpy(grads.h0), initial_state, A),
    )


def _rows(A: Tensor) -> int:
    """Rows of a state."""
    return 2 * A.shape[1] if A.is_complex() else A.shape[1]


def _run(plan: Plan, kernel: Callable[[Array, Array], None]) -> None:
    # One call a thread: to unpack the arguments of a call takes as long as a small task.
    threads, taken = min(torch.get_num_threads(), len(plan.tasks)), np.zeros(1, np.int64)
    run_tasks(lambda _: kernel(plan.tasks, taken), threads)


def _inputs(
    plan: Plan,
    dtype: torch.dtype,
    written: tuple[Array, ...],
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
    twice = 2 if A.is_complex() else 1
    B_rows, B_steps = _factor(B, A, dtype)
    C_rows, C_steps = _factor(C, A, dtype, twice)
    return Inputs(
        *flat,
        strides=np.array(strides, dtype=np.int64),
        constants=_constants(_scaled(A), B_rows, C_rows, real),
        B_t=B_steps,
        C_t=C_steps,
        D=_vector(D, dtype),
        bias=_vector(delta_bias, dtype),
        h0=_state(initial_state, A, dtype),
        kept=kept.detach().numpy(),
        sequences=plan.sequences,
        length=u.shape[1],
        chunk=chunk,
        softplus=delta_softplus,
        log2e=real(_LOG2E),
        written=written,
        zero=_NUMPY_STATE[dtype](0) if A.is_complex() else real(0),
    )


def _constants(A: list[Array], B: Array, C: Array, real: Any) -> Array:
    """(N, columns, D): those of A, then B's and C's, which are zero where these are not constant."""
    n, channels = A[0].shape
    parts = 2 if len(A) > 1 else 1
    columns = np.empty((n, len(A) + 2 * parts, channels), real)
    for c, column in enumerate(A):
        columns[:, c] = column
    for c, rows in ((len(A), B), (len(A) + parts, C)):
        constant = rows.reshape(parts, n, channels).swapaxes(0, 1) if rows.size else 0
        columns[:, c : c + parts] = constant
    return columns


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


def _scaled(A: Tensor) -> list[Array]:
    """The columns of A, (N, D) each; scaled in float64, so that an exponent is rounded once."""
    A = A.detach().resolve_conj().resolve_neg().transpose(0, 1)
    if not A.is_complex():
        return [A.double().numpy() * _LOG2E]
    exact: Any = A.to(torch.complex128).numpy()
    turns = exact.imag / math.pi
    rounded = turns.astype(np.float32 if A.dtype != torch.complex128 else np.float64)
    return [exact.real * _LOG2E, rounded, turns - rounded]


def _as_rows(tensor: Tensor, A: Tensor, dtype: torch.dtype, dim: int = -1) -> Tensor:
    """Contiguous; if A is complex, with the imaginary parts after the real ones along ``dim``."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if not A.is_complex():
        return tensor.to(dtype).contiguous()
    real = (tensor.real if tensor.is_complex() else tensor).to(dtype)
    return torch.cat((real, tensor.imag.to(dtype) if tensor.is_complex() else 0 * real), dim)


def _state(tensor: Tensor | None, A: Tensor, dtype: torch.dtype) -> Array:
    if tensor is None:
        return np.empty((0, 0, 0), _NUMPY[dtype])
    return _as_rows(tensor, A, dtype).numpy()


def _factor(X: Tensor, A: Tensor, dtype: torch.dtype, times: int = 1) -> tuple[Array, Array]:
    """B or C times a number: constant (R, D), or per step (B * L, G, R); the other is empty."""
    if X.dim() == 2:
        rows = _as_rows(X.transpose(0, 1), A, dtype, 0).mul(times).numpy()
        return rows, np.empty((0, 0, 0), rows.dtype)
    groups = 1 if X.dim() == 3 else X.shape[2]
    rows = _as_rows(X.reshape(X.shape[0] * X.shape[1], groups, X.shape[-1]), A, dtype)
    none = np.empty((0, 0), _NUMPY[dtype])
    return none, (rows if times == 1 else rows * times).numpy()


def _join(rows: Tensor, like: Tensor, A: Tensor) -> Tensor:
    """Undo ``_as_rows`` and convert to the dtype of ``like`` (the real part, if that is real)."""
    if not A.is_complex():
        return rows.to(like.dtype)
    real, imaginary = rows.chunk(2, -1)
    if like.is_complex():
        return torch.complex(real.contiguous(), imaginary.contiguous()).to(like.dtype)
    return real.to(like.dtype).contiguous()
