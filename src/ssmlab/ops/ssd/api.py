"""The chunked matrix form of SSD in torch, for any device: plain, with any number of derivatives, and
for 16-bit numbers through an operator.

Shapes: B batch, L length, H heads, P channels of a head, G groups of heads, N state, T steps of a
chunk.
"""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops._checks import (
    REAL_DTYPES,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
)
from ssmlab.ops.ssd import operator

_NAME = "ssd"


@overload
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    *,
    chunk_size: int = 64,
) -> Tensor: ...
@overload
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    return_last_state: Literal[True],
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]: ...
def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    *,
    chunk_size: int = 64,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ,  y_t = h_t C_t + D x_t  over time.

    Within a chunk the outputs are one masked matrix product, as in linear attention; between chunks
    the state goes on, once a chunk. Sums are kept in float32 (float64 if x is).

    With x in bfloat16 or float16, matrix products on a GPU take operands of that type, decays and the
    recurrence between chunks are in float32, the backward pass makes the chunks' matrices again from
    the inputs and the states between chunks, and there is a first derivative only. Otherwise there is
    any number of them.

    Args:
        x: (B, L, H, P). delta: (B, L, H), positive. A: (H,), negative.
        B, C: (B, L, G, N), G dividing H. D: (H,) or None.
        initial_state: (B, H, P, N), zeros if not given.
        return_last_state: return the state after the last step too.
        chunk_size: T; memory grows with B L H T, time with L T + L / T.

    Returns:
        y (B, L, H, P) in x's dtype, or (y, last state (B, H, P, N)).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.

    Source: arXiv 2405.21060, section 6 (block decomposition of the 1-semiseparable matrix).
    """
    _check(x, delta, A, B, C, D, initial_state)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"{_NAME}: chunk_size: expected a whole number >= 1, got {chunk_size!r}")
    run = operator.run if x.dtype in (torch.bfloat16, torch.float16) else _plain
    y, last = run(x, delta, A, B, C, D, initial_state, chunk_size)
    return (y, last) if return_last_state else y


def _plain(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, width = x.shape
    groups = B.shape[2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    steps = min(chunk_size, length)
    chunks = -(-length // steps)

    def chunked(t: Tensor) -> Tensor:
        # Steps added at the end have Δ = 0: they change no state.
        padding = [0, 0] * (t.dim() - 2) + [0, chunks * steps - length]
        return F.pad(t.to(dtype), padding).unflatten(1, (chunks, steps))

    dt = chunked(delta)  # (B, chunks, T, H)
    by_group = (groups, heads // groups)
    u = (dt.unsqueeze(-1) * chunked(x)).unflatten(3, by_group)  # (B, chunks, T, G, R, P)
    B_, C_ = chunked(B), chunked(C)  # (B, chunks, T, G, N)
    passed = (
        (dt * A.to(dtype)).cumsum(2).unflatten(3, by_group)
    )  # log decay since the chunk's start

    # Within chunks: y_t = Σ_{s <= t} (C_t · B_s) exp(passed_t - passed_s) u_s.
    earlier = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
    between = passed.unsqueeze(3) - passed.unsqueeze(2)  # (B, chunks, t, s, G, R)
    decay = between.masked_fill(~earlier[:, :, None, None], -torch.inf).exp()
    scores = torch.einsum("bctgn,bcsgn->bctsg", C_, B_).unsqueeze(-1) * decay
    y = torch.einsum("bctsgr,bcsgrp->bctgrp", scores, u)

    # From chunk to chunk.
    whole = passed[:, :, -1:]
    added = torch.einsum("bcsgn,bcsgrp->bcgrpn", B_, u * (whole - passed).exp().unsqueeze(-1))
    kept = whole.squeeze(2).exp()[..., None, None]
    if initial_state is None:
        h = torch.zeros_like(added[:, 0])
    else:
        h = initial_state.to(dtype).unflatten(1, by_group)
    before = []
    for chunk in range(chunks):
        before.append(h)
        h = kept[:, chunk] * h + added[:, chunk]
    carried = torch.einsum("bctgn,bcgrpn->bctgrp", C_, torch.stack(before, 1))
    y = y + carried * passed.exp().unsqueeze(-1)

    y = y.reshape(batch, chunks * steps, heads, width)[:, :length]
    if D is not None:
        y = y + D.to(dtype)[:, None] * x.to(dtype)
    return y.to(x.dtype), h.flatten(1, 2)


def ssd_update(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`ssd`; functional and differentiable.

    Args:
        state: (B, H, P, N). x: (B, H, P). delta: (B, H). A: (H,). B, C: (B, G, N). D: (H,) or None.

    Returns:
        y (B, H, P) in x's dtype and the new state (B, H, P, N).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_tensor("ssd_update", "x", x)
    check_dims("ssd_update", "x", x, (3,), "(B, H, P), one time step")
    _check(x[:, None], delta[:, None], A, B[:, None], C[:, None], D, state)
    dtype = torch.promote_types(x.dtype, torch.float32)
    repeat = x.shape[1] // B.shape[1]
    wide, dt = x.to(dtype), delta.to(dtype)
    B_, C_ = (f.to(dtype).repeat_interleave(repeat, 1).unsqueeze(2) for f in (B, C))
    h = torch.exp(dt * A.to(dtype))[..., None, None] * state.to(dtype)
    h = h + (dt.unsqueeze(-1) * wide).unsqueeze(-1) * B_
    y = (h * C_).sum(-1)
    if D is not None:
        y = y + D.to(dtype)[:, None] * wide
    return y.to(x.dtype), h


def _check(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    given = {"x": x, "delta": delta, "A": A, "B": B, "C": C}
    optional = {"D": D, "initial_state": initial_state}
    given |= {name: t for name, t in optional.items() if t is not None}
    for name, value in given.items():
        check_tensor(_NAME, name, value)
        check_dtype(_NAME, name, value, REAL_DTYPES)
    check_dims(_NAME, "x", x, (4,), "(B, L, H, P)")
    check_dims(_NAME, "B", B, (4,), "(B, L, G, N)")
    batch, length, heads, width = x.shape
    groups, n = B.shape[2:]
    if min(*x.shape, groups, n) == 0 or heads % groups:
        raise ValueError(
            f"{_NAME}: x is (B, L, H, P) = {tuple(x.shape)} and B (B, L, G, N) = {tuple(B.shape)}; "
            "expected every size to be at least 1 and G to divide H"
        )
    check_shape(_NAME, "delta", delta, (batch, length, heads), "(B, L, H)")
    check_shape(_NAME, "A", A, (heads,), "(H,), one decay a head")
    for name, value in (("B", B), ("C", C)):
        check_shape(_NAME, name, value, (batch, length, groups, n), "(B, L, G, N)")
    if D is not None:
        check_shape(_NAME, "D", D, (heads,), "(H,)")
    if initial_state is not None:
        check_shape(_NAME, "initial_state", initial_state, (batch, heads, width, n), "(B, H, P, N)")
    check_device(_NAME, x.device, **{k: v for k, v in given.items() if k != "x"})
