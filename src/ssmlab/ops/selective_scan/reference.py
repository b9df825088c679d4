"""The selective scan as a plain loop of torch ops: any device, any dtype, twice differentiable.

It is what every other backend is tested against, so it favours being obviously right over speed.

Shapes: B batch, L length, D channels, N state, G groups of channels, S packed sequences.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops._checks import sequence_bounds


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The real dtype to compute in: float64 if any tensor is of that precision, else float32."""
    double = (torch.float64, torch.complex128)
    is_double = any(tensor is not None and tensor.dtype in double for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def state_dtype(real: torch.dtype, is_complex: bool) -> torch.dtype:
    """The dtype of the state for a real compute dtype."""
    if not is_complex:
        return real
    return torch.complex128 if real == torch.float64 else torch.complex64


def discretise(
    delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool, dtype: torch.dtype
) -> Tensor:
    """The step size: delta, plus its bias, through softplus, in the compute dtype."""
    delta = delta.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    return F.softplus(delta) if delta_softplus else delta


def scan_reference(
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
) -> tuple[Tensor, Tensor]:
    """y (B, L, D) in u's dtype and the last state (B or S, D, N), for checked arguments."""
    batch, length, channels = u.shape
    dtype = compute_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    state = state_dtype(dtype, A.is_complex())
    u_, dt = u.to(dtype), discretise(delta, delta_bias, delta_softplus, dtype)
    A, B, C = A.to(state), B.to(state), C.to(state)

    if cu_seqlens is None:
        h = _initial(initial_state, batch, channels, A.shape[1], state, u.device)
        ys, h = _scan(u_, dt, A, B, C, h)
    else:
        bounds = sequence_bounds("selective_scan", cu_seqlens, length)
        pieces, states = [], []
        for i, (start, end) in enumerate(pairwise(bounds)):
            own = None if initial_state is None else initial_state[i : i + 1]
            h = _initial(own, 1, channels, A.shape[1], state, u.device)
            part = slice(start, end)
            # Constant B and C have no time axis to cut.
            B_i = B if B.dim() == 2 else B[:, part]
            C_i = C if C.dim() == 2 else C[:, part]
            y_i, h = _scan(u_[:, part], dt[:, part], A, B_i, C_i, h)
            pieces.append(y_i)
            states.append(h)
        ys, h = torch.cat(pieces, 1), torch.cat(states, 0)

    if D is not None:
        ys = ys + u_ * D.to(dtype)
    if z is not None:
        ys = ys * F.silu(z.to(dtype))
    return ys.to(u.dtype), h


def _initial(
    given: Tensor | None,
    batch: int,
    channels: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    if given is None:
        return torch.zeros(batch, channels, n, dtype=dtype, device=device)
    return given.to(dtype, copy=True)  # a copy: the last state of an empty sequence is this tensor


def _steps(X: Tensor, length: int, channels: int) -> Sequence[Tensor]:
    """The factor of each step, broadcastable to (B, D, N)."""
    if X.dim() == 2:
        return [X] * length
    if X.dim() == 3:
        return X.unsqueeze(2).unbind(1)
    return X.repeat_interleave(channels // X.shape[2], dim=2).unbind(1)


def _scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    (_, length, channels), ys = u.shape, []
    # Cut into steps once: the gradient of each single index would be as long as the whole.
    steps = zip(
        dt.unsqueeze(-1).unbind(1),
        (dt * u).unsqueeze(-1).unbind(1),
        _steps(B, length, channels),
        _steps(C, length, channels),
        strict=True,
    )
    for dt_t, kick, B_t, C_t in steps:
        h = torch.exp(dt_t * A) * h + kick * B_t
        y = (h * C_t).sum(-1)
        ys.append(2 * y.real if y.is_complex() else y)
    return (torch.stack(ys, 1) if ys else u.new_zeros(u.shape)), h
