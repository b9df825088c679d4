"""One step of the selective scan, for decoding token by token.

Shapes: B batch, D channels, N state, G groups of channels, P slots of a pool of states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops._checks import (
    COMPLEX_DTYPES,
    REAL_DTYPES,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
)
from ssmlab.ops._slots import check_in_place, check_slots, hide_padding, put, take
from ssmlab.ops.selective_scan import step_operator
from ssmlab.ops.selective_scan.reference import compute_dtype, discretise, state_dtype

_NAME = "selective_scan_update"


def selective_scan_update(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    constant_B: bool | None = None,
    constant_C: bool | None = None,
    in_place: bool = False,
    state_indices: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advance the recurrence of :func:`selective_scan` by one time step.

    Differentiable in every tensor unless it is in place. Without gradients, on a GPU whose kernels
    work, it is one kernel.

    Args:
        state: (B, D, N), real, or complex where A is. With ``state_indices``, a pool (P, D, N).
        u, delta: (B, D).
        A: (D, N), real or complex.
        B, C: (D, N) constant, (B, N) of this step, or (B, G, N) grouped.
        D, delta_bias: (D,). z: (B, D).
        delta_softplus: apply softplus to delta (after its bias).
        constant_B, constant_C: whether a two-dimensional B (C) is the constant (D, N) or this
            step's (B, N). Needed only where batch == D: there None means this step's.
        in_place: write the new state to ``state``, in its dtype, and return ``state``.
        state_indices: (B,) int32 or int64, the slot of the pool in which the state of each row lies;
            negative for a row that is padding: its y is zero and nothing is written. In place
            they must differ. On a GPU neither that nor their range is checked.

    Returns:
        y (B, D) in u's dtype, and the new state of the rows (B, D, N) in float32, or float64 or
        complex; in place, ``state`` itself.

    Raises:
        ValueError: shapes, dtypes, devices or indices do not fit; in place with gradients.

    Source: Mamba, section 2 (equation 2a) and section 3.2 (Algorithm 2), one step.
    """
    for name, value in (("state", state), ("u", u), ("delta", delta), ("A", A), ("B", B), ("C", C)):
        check_tensor(_NAME, name, value)
    check_dims(_NAME, "u", u, (2,), "(B, D), one time step")
    check_dims(_NAME, "A", A, (2,), "(D, N)")
    batch, channels = u.shape
    n = A.shape[1]
    check_shape(_NAME, "A", A, (channels, n), "(D, N), D from u")
    check_shape(_NAME, "delta", delta, (batch, channels), "(B, D) as u")
    rows, letter = batch, "B"
    if state_indices is not None:
        check_dims(_NAME, "state", state, (3,), "(P, D, N)")
        check_slots(_NAME, state, state_indices, batch, in_place)
        rows, letter = state.shape[0], "P"
    check_shape(_NAME, "state", state, (rows, channels, n), f"({letter}, D, N)")
    for name, value, shape, why in (
        ("D", D, (channels,), "(D,)"),
        ("z", z, (batch, channels), "(B, D) as u"),
        ("delta_bias", delta_bias, (channels,), "(D,)"),
    ):
        if value is not None:
            check_tensor(_NAME, name, value)
            check_shape(_NAME, name, value, shape, why)
            check_dtype(_NAME, name, value, REAL_DTYPES)
    for name, value in (("u", u), ("delta", delta)):
        check_dtype(_NAME, name, value, REAL_DTYPES)
    allowed = (*REAL_DTYPES, *COMPLEX_DTYPES) if A.is_complex() else REAL_DTYPES
    why = "" if A.is_complex() else "real, because A is real"
    check_dtype(_NAME, "A", A, (*REAL_DTYPES, *COMPLEX_DTYPES))
    for name, value in (("state", state), ("B", B), ("C", C)):
        check_dtype(_NAME, name, value, allowed, why)
    check_device(
        _NAME, u.device, state=state, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias
    )

    inputs = (state, u, delta, A, B, C, D, z, delta_bias)
    if in_place:
        check_in_place(_NAME, *inputs)
    B = _factor("B", B, batch, channels, n, constant_B)
    C = _factor("C", C, batch, channels, n, constant_C)
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if (
        not recorded
        and compute_dtype(*inputs) == torch.float32
        and step_operator.works(_NAME, state, u, A, delta, B, C, z)
    ):
        rest = (state_indices, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        if not in_place:
            # The functional step answers in float32 whatever the state came in.
            return step_operator.update_op(state.to(torch.float32).contiguous(), *rest)
        if state.is_contiguous():
            return step_operator.update_op_(state, *rest), state

    before = state if state_indices is None else take(state, state_indices)
    y, after = _step(before, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if state_indices is not None:
        y, after = hide_padding(y, state_indices), hide_padding(after, state_indices)
    if not in_place:
        return y, after
    put(state, state_indices, after)
    return y, state


def _step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """The step in plain torch; B and C are (B, G, N), or constant (1, D, N)."""
    channels = u.shape[1]
    dtype = compute_dtype(state, u, delta, A, B, C, D, z, delta_bias)
    kind = state_dtype(dtype, A.is_complex())
    u_, dt = u.to(dtype), discretise(delta, delta_bias, delta_softplus, dtype)
    B, C = (_spread(X.to(kind), channels) for X in (B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A.to(kind))
    h = decay * state.to(kind) + (dt * u_).unsqueeze(-1) * B
    y = (h * C).sum(-1)
    y = 2 * y.real if y.is_complex() else y
    if D is not None:
        y = y + u_ * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h


def _spread(X: Tensor, channels: int) -> Tensor:
    """(B, G, N) or (1, D, N), broadcastable to (B, D, N)."""
    groups = X.shape[1]
    return X if groups in (1, channels) else X.repeat_interleave(channels // groups, dim=1)


def _factor(
    name: str, X: Tensor, batch: int, channels: int, n: int, constant: bool | None
) -> Tensor:
    """B or C as (B, G, N), or (1, D, N) if constant."""
    check_dims(_NAME, name, X, (2, 3), "(D, N), (B, N) or (B, G, N)")
    if X.dim() == 3:
        groups = X.shape[1]
        check_shape(_NAME, name, X, (batch, groups, n), "(B, G, N)")
        if groups == 0 or channels % groups:
            raise ValueError(
                f"{_NAME}: {name} has {groups} groups, which do not divide the {channels} "
                f"channels; expected a number of groups that does"
            )
        return X
    if constant is None:
        constant = X.shape[0] == channels and X.shape[0] != batch
    if constant:
        check_shape(_NAME, name, X, (channels, n), "(D, N), constant")
        return X.unsqueeze(0)
    check_shape(
        _NAME, name, X, (batch, n), f"(B, N) of this step (a constant would be ({channels}, {n}))"
    )
    return X.unsqueeze(1)
