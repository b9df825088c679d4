"""The public selective scan: checks its arguments, picks a backend, runs it.

Shapes: B batch, L length, D channels, N state, G groups of channels, S packed sequences.
"""

from typing import Literal, overload

from torch import Tensor

from ssmlab.ops._checks import (
    COMPLEX_DTYPES,
    REAL_DTYPES,
    check_cu_seqlens,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
)
from ssmlab.ops.selective_scan import operator
from ssmlab.ops.selective_scan.backends import available_backends, choose_backend
from ssmlab.ops.selective_scan.reference import scan_reference

__all__ = ["available_backends", "selective_scan"]

_NAME = "selective_scan"


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    *,
    return_last_state: Literal[True],
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,  y_t = C_t h_t + D u_t  over time.

    With complex A the states stand for conjugate pairs and y_t = 2 Re(C_t h_t) + D u_t. With z,
    y_t is multiplied by silu(z_t). Sums are kept in float32, in float64 if any input is of that
    precision. Differentiable in every tensor; the reference backend twice.

    Args:
        u, delta: (B, L, D), float32, float64, bfloat16 or float16. delta may be expanded.
        A: (D, N), real or complex. Negative (real parts) for a state that fades.
        B, C: each (D, N) constant, (B, L, N) per step or (B, L, G, N) with G groups of channels.
            Complex only where A is.
        D, delta_bias: (D,). z: (B, L, D).
        delta_softplus: apply softplus to delta (after its bias).
        initial_state: (B, D, N), or (S, D, N) with cu_seqlens; zeros if not given.
        return_last_state: return the state after the last step of each sequence too.
        cu_seqlens: (S + 1,) int32 or int64 offsets of S sequences packed along the length; B is 1
            then, and no state crosses a boundary.
        backend: "cpu" (compiled with Numba), "cuda" (CUDA C++ compiled at run time) or "reference"
            (plain torch, any device); by default the fastest that works for these tensors.

    Returns:
        y (B, L, D) in u's dtype; with ``return_last_state`` also the last state (B or S, D, N) in
        float32, float64 or complex. On a GPU y mostly lies in memory as u does (docs/gpu.md).

    Raises:
        ValueError: shapes, dtypes, devices or the backend do not fit.

    Source: Mamba, equation (2a), sections 3.2 (Algorithm 2) and 3.6; B is discretised by delta B,
    as in the code released with the paper.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)
    chosen = choose_backend(backend, u.device)
    if chosen == "reference":
        y, last = scan_reference(
            u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus
        )
    else:
        y, last = operator.scan(
            u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus, chosen
        )
    return (y, last) if return_last_state else y


def _check(
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
) -> None:
    for name, value in (("u", u), ("delta", delta), ("A", A), ("B", B), ("C", C)):
        check_tensor(_NAME, name, value)
    check_dims(_NAME, "u", u, (3,), "(B, L, D)")
    check_dims(_NAME, "A", A, (2,), "(D, N)")
    batch, length, channels = u.shape
    n = A.shape[1]
    if min(batch, length, channels, n) == 0:
        raise ValueError(
            f"{_NAME}: u is (B, L, D) = {tuple(u.shape)} and A (D, N) = {tuple(A.shape)}; "
            f"expected every size to be at least 1"
        )
    check_shape(_NAME, "delta", delta, (batch, length, channels), "(B, L, D) as u")
    check_shape(_NAME, "A", A, (channels, n), "(D, N), D from u")
    check_dtype(_NAME, "u", u, REAL_DTYPES)
    check_dtype(_NAME, "delta", delta, REAL_DTYPES)
    check_dtype(_NAME, "A", A, (*REAL_DTYPES, *COMPLEX_DTYPES))
    allowed = (*REAL_DTYPES, *COMPLEX_DTYPES) if A.is_complex() else REAL_DTYPES
    why = "" if A.is_complex() else "real, because A is real"
    for name, value in (("B", B), ("C", C)):
        _check_factor(name, value, batch, length, channels, n)
        check_dtype(_NAME, name, value, allowed, why)
    for name, value, shape, spelt in (
        ("D", D, (channels,), "(D,)"),
        ("z", z, (batch, length, channels), "(B, L, D) as u"),
        ("delta_bias", delta_bias, (channels,), "(D,)"),
    ):
        if value is not None:
            check_tensor(_NAME, name, value)
            check_shape(_NAME, name, value, shape, spelt)
            check_dtype(_NAME, name, value, REAL_DTYPES)
    sequences, spelt = batch, "(B, D, N)"
    if cu_seqlens is not None:
        check_cu_seqlens(_NAME, cu_seqlens, batch)
        if cu_seqlens.device.type != "cpu":  # offsets are small and may stay on the host
            check_device(_NAME, u.device, cu_seqlens=cu_seqlens)
        sequences, spelt = cu_seqlens.shape[0] - 1, "(S, D, N), S packed sequences"
    if initial_state is not None:
        check_tensor(_NAME, "initial_state", initial_state)
        check_shape(_NAME, "initial_state", initial_state, (sequences, channels, n), spelt)
        check_dtype(_NAME, "initial_state", initial_state, allowed, why)
    check_device(
        _NAME,
        u.device,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        initial_state=initial_state,
    )


def _check_factor(name: str, X: Tensor, batch: int, length: int, channels: int, n: int) -> None:
    """Check the shape of B or C."""
    check_dims(_NAME, name, X, (2, 3, 4), "(D, N) constant, (B, L, N) or (B, L, G, N) per step")
    if X.dim() == 2:
        check_shape(_NAME, name, X, (channels, n), "(D, N), constant")
    elif X.dim() == 3:
        check_shape(_NAME, name, X, (batch, length, n), "(B, L, N), per step")
    else:
        groups = X.shape[2]
        check_shape(_NAME, name, X, (batch, length, groups, n), "(B, L, G, N), per step and group")
        if groups == 0 or channels % groups:
            raise ValueError(
                f"{_NAME}: {name} has {groups} groups, which do not divide the {channels} "
                f"channels; expected a number of groups that does"
            )
