"""The chunked matrix form of SSD and its gradients, written out: few passes, little kept.

Shapes: c chunks, b batch, H heads, P channels of a head, G groups of heads, R heads of a group,
N state, T steps of a chunk. Chunks come first, so that states before and after chunks, and some
chunks at a time, are contiguous.

With p_t = Σ_{j <= t} Δ_j A since the chunk's start, and S the state before the chunk (N, P):

    y = [M  C e^p] [x; S],            M_ts = (C_t · B_s) e^(p_t - p_s) Δ_s for s <= t, D more at s = t
    S' = e^(p_T) S + K x,             K_ns = B_sn e^(p_T - p_s) Δ_s

and with g the gradient by S', backwards: dx = [M; K]ᵀ [dy; g], d[M; K] = [dy; g] xᵀ. So one
product makes y, one dx, and one the gradients of M and K. Products take operands of ``dtype``;
exponents, sums over steps and the recurrence of states are in ``wide``.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops._products import batched_product, entry_dtype

# Entries of the chunks' matrices (H T T each) that are in memory at a time.
_ENTRIES = {"cuda": 1 << 26, "cpu": 1 << 20}

# Δ in the logarithm is at least this, so that a Δ of 0 has a gradient too.
_LEAST = 1e-30


class Signals(NamedTuple):
    """Of all chunks, steps last: what is linear in the length and small."""

    delta: Tensor  # (c, b, H, T) wide
    passed: Tensor  # (c, b, H, T): p
    left: Tensor  # (c, b, H, T): p_t - p_T >= 0
    log_weight: Tensor  # (c, b, H, T): log(e^(p_T - p_s) Δ_s)
    B: Tensor  # (c, b, G, T, N) dtype
    C: Tensor  # (c, b, G, T, N) dtype


def forward(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, L, H, P), the last state (b, H, P, N), and the states before chunks (c, b, H, N, P)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    batch, length, heads, width = x.shape
    steps, n = min(chunk_size, length), B.shape[3]
    s = _signals(delta, A, B, C, steps, wide, dtype)
    chunks = s.delta.shape[0]
    # [x; S]: a copy is needed anyway, as the heads come before the steps in a product.
    right = x.new_empty((chunks, batch, heads, steps + n, width), dtype=dtype)
    _copy_chunks(right[..., :steps, :], x)

    states = x.new_empty((chunks + 1, batch, heads, n, width), dtype=wide)
    if initial_state is None:
        states[0].zero_()
    else:
        states[0].copy_(initial_state.transpose(-1, -2))
    K = x.new_empty((chunks, batch, heads, n, steps), dtype=dtype)
    _weigh(K, s.B.transpose(-1, -2), s.log_weight.exp().unsqueeze(-2))
    batched_product(K, right[..., :steps, :], states[1:])
    del K
    kept = s.passed[..., -1, None, None].exp()
    for chunk in range(chunks):
        states[chunk + 1].addcmul_(kept[chunk], states[chunk])
    before = states[:-1].to(dtype, copy=True)
    right[..., steps:, :].copy_(before)
    last = states[-1].transpose(-1, -2).contiguous()
    del states

    y = x.new_empty((batch, chunks * steps, heads, width))
    for part in _parts(chunks, batch * heads * steps * steps, x.device):
        decay, scores = _decay(s, part), _scores(s, part, wide)
        left = x.new_empty((*decay.shape[:-1], steps + n), dtype=dtype)
        M = left[..., :steps]
        _weigh(M, scores, decay)
        del decay
        if D is not None:
            _add_skip(M, scores, s.delta[part], D)
        _weigh(left[..., steps:], s.C[part], s.passed[part].exp().unsqueeze(-1))
        outputs = x.new_empty((*left.shape[:-1], width), dtype=dtype)
        batched_product(left, right[part], outputs)
        _by_chunk(y, steps)[part].copy_(outputs)
    return y[:, :length].contiguous(), last, before


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    before: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    chunk_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, delta, A, B, C, D (zeros without D) and the initial state, in ``wide`` but for
    x's; B's and C's and delta's are (b, L, ...)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    entry = entry_dtype(dtype, wide)  # of the gradients of the entries, sums over channels
    batch, length, heads, width = x.shape
    steps, n = min(chunk_size, length), B.shape[3]
    s = _signals(delta, A, B, C, steps, wide, dtype)
    chunks, groups = s.delta.shape[0], B.shape[2]
    carry = s.passed.exp()

    # [dy; g], first with the gradient by the states from behind.
    right = x.new_empty((chunks, batch, heads, steps + n, width), dtype=dtype)
    if grad_y is None:
        right[..., :steps, :].zero_()
    else:
        _copy_chunks(right[..., :steps, :], grad_y)
    dy = right[..., :steps, :]
    dstates = x.new_empty((chunks + 1, batch, heads, n, width), dtype=wide)
    if grad_last is None:
        dstates[-1].zero_()
    else:
        dstates[-1].copy_(grad_last.transpose(-1, -2))
    carried = x.new_empty((chunks, batch, heads, steps, n), dtype=dtype)
    _weigh(carried, s.C, carry.unsqueeze(-1))
    batched_product(carried.transpose(-1, -2), dy, dstates[:-1])
    kept = s.passed[..., -1, None, None].exp()
    for chunk in reversed(range(chunks)):
        dstates[chunk].addcmul_(kept[chunk], dstates[chunk + 1])
    right[..., steps:, :].copy_(dstates[1:])
    dinitial = dstates[0].transpose(-1, -2).contiguous()
    del dstates

    # Of what goes on through the whole chunk, and of C e^p.
    dwhole = torch.mul(
        right[..., steps:, :], before, out=before.new_empty(before.shape, dtype=entry)
    )
    dwhole = dwhole.sum((-1, -2), dtype=wide) * kept[..., 0, 0]
    dcarried = carried.new_empty(carried.shape, dtype=entry)
    batched_product(dy, before.transpose(-1, -2), dcarried)
    _grouped(dcarried, groups).mul_(_grouped(carry.unsqueeze(-1), groups))
    dC = _grouped(dcarried, groups).sum(3, dtype=wide)
    _grouped(dcarried, groups).mul_(s.C.unsqueeze(3))
    dpassed = dcarried.sum(-1, dtype=wide)  # (c, b, H, T)
    del carried, dcarried

    dx = x.new_empty((batch, chunks * steps, heads, width))
    dB = torch.empty_like(dC)
    dlog = torch.empty_like(dpassed)  # by log Δ
    dD = x.new_zeros(heads, dtype=wide)
    for part in _parts(chunks, batch * heads * steps * steps, x.device):
        decay, scores = _decay(s, part), _scores(s, part, wide)
        left = x.new_empty((*decay.shape[:-2], steps + n, steps), dtype=dtype)
        M, K = left[..., :steps, :], left[..., steps:, :]
        _weigh(M, scores, decay)
        weight = s.log_weight[part].exp().unsqueeze(-2)
        _weigh(K, s.B[part].transpose(-1, -2), weight)
        inputs = x.new_empty((*decay.shape[:-1], width), dtype=dtype)
        _copy_chunks(inputs, x, part)
        dleft = left.new_empty(left.shape, dtype=entry)
        batched_product(right[part], inputs.transpose(-1, -2), dleft)
        dM, dK = dleft[..., :steps, :], dleft[..., steps:, :]

        # By the exponents. M's diagonal has none, and would drown in D what Δ gets of it.
        exponents = torch.mul(dM, M, out=dM.new_empty(dM.shape, dtype=entry))
        exponents.diagonal(dim1=-2, dim2=-1).zero_()
        to_later = exponents.sum(-2, dtype=wide)
        dpassed[part] += exponents.sum(-1, dtype=wide) - to_later
        del exponents
        own = dM.diagonal(dim1=-2, dim2=-1).to(wide)
        dD += own.sum((0, 1, 3))
        own = own * s.delta[part].clamp(min=_LEAST)
        _grouped(own, groups).mul_(scores.diagonal(dim1=-2, dim2=-1).unsqueeze(3))
        dlog[part] = to_later + own

        # By B and C: of the scores, which the heads of a group share, and of K.
        dM.mul_(decay)
        del decay
        dscores = _grouped(dM, groups).sum(3, dtype=wide).tril_().to(dtype)
        dK.mul_(weight)
        batched_product(dscores.transpose(-1, -2), s.C[part], dB[part])
        dB[part] += _grouped(dK, groups).sum(3, dtype=wide).transpose(-1, -2)
        more = torch.empty_like(dC[part])
        batched_product(dscores, s.B[part], more)
        dC[part] += more
        _grouped(dK, groups).mul_(s.B[part].transpose(-1, -2).unsqueeze(3))
        of_weight = dK.sum(-2, dtype=wide)
        dlog[part] += of_weight
        dpassed[part] -= of_weight
        dwhole[part] += of_weight.sum(-1)
        del dleft, dM, dK

        if D is not None:
            _add_skip(M, scores, s.delta[part], D)
        # The inputs are used up: their room takes the gradients.
        batched_product(left.transpose(-1, -2), right[part], inputs)
        _by_chunk(dx, steps)[part].copy_(inputs)

    dpassed[..., -1] += dwhole
    dsteps = dpassed.flip(-1).cumsum(-1).flip(-1)  # by Δ A
    dA = (dsteps * s.delta).sum((0, 1, 3))
    ddelta = dsteps * A.to(wide)[:, None] + dlog / s.delta.clamp(min=_LEAST)

    def whole(t: Tensor) -> Tensor:
        """(c, b, X, T, ...) -> (b, L, X, ...)."""
        return t.transpose(2, 3).transpose(0, 1).flatten(1, 2)[:, :length].contiguous()

    return dx[:, :length].contiguous(), whole(ddelta), dA, whole(dB), whole(dC), dD, dinitial


def _signals(
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    steps: int,
    wide: torch.dtype,
    dtype: torch.dtype,
) -> Signals:
    # Steps added at the end have Δ = 0 and x = 0: they change no state.
    dt = _padded(delta.to(wide), steps).permute(1, 0, 3, 2).contiguous()
    passed = (dt * A.to(wide)[:, None]).cumsum(-1)
    left = passed - passed[..., -1:]
    log_weight = dt.clamp(min=_LEAST).log_().sub_(left)
    B_, C_ = (_padded(t.to(dtype), steps).permute(1, 0, 3, 2, 4).contiguous() for t in (B, C))
    return Signals(dt, passed, left, log_weight, B_, C_)


def _padded(t: Tensor, steps: int) -> Tensor:
    """(b, L, ...) -> (b, c, T, ...), zeros at the end."""
    short = -t.shape[1] % steps
    if short:
        t = F.pad(t, [0, 0] * (t.dim() - 2) + [0, short])
    return t.unflatten(1, (-1, steps))


def _by_chunk(t: Tensor, steps: int) -> Tensor:
    """(b, c T, H, P) as (c, b, H, T, P), a view."""
    return t.unflatten(1, (-1, steps)).permute(1, 0, 3, 2, 4)


def _copy_chunks(to: Tensor, t: Tensor, part: slice = slice(None)) -> None:
    """(b, L, H, P) into (c, b, H, T, P), the chunks of ``part`` or all."""
    to.copy_(_padded(t, to.shape[3]).permute(1, 0, 3, 2, 4)[part])


def _parts(chunks: int, entries: int, device: torch.device) -> Iterator[slice]:
    """Some chunks at a time, of ``entries`` each."""
    count = max(1, _ENTRIES.get(device.type, 1 << 20) // entries)
    return (slice(start, min(start + count, chunks)) for start in range(0, chunks, count))


def _grouped(t: Tensor, groups: int) -> Tensor:
    """(c, b, H, ...) -> (c, b, G, R, ...)."""
    return t.unflatten(2, (groups, -1))


def _weigh(to: Tensor, shared: Tensor, weight: Tensor) -> None:
    """``to`` (c, b, H, ...) = what a group shares (c, b, G, ...) times the weight of a head."""
    groups = shared.shape[2]
    torch.mul(_grouped(weight, groups), shared.unsqueeze(3), out=_grouped(to, groups))


def _decay(s: Signals, part: slice) -> Tensor:
    """e^(p_t - p_s) Δ_s, (c, b, H, T, T); where s > t, what is finite and at most Δ_s.

    p_t - p_s = (p_t - p_T) - (p_s - p_T). Without the first term, as s > t has it here, the exponent
    is that of the way from s to the chunk's end: one pass, and nothing to mask before the exp.
    """
    earlier = s.left.new_ones(s.left.shape[-1], s.left.shape[-1]).tril_()
    log = s.log_weight[part].unsqueeze(-2)
    return torch.addcmul(log, s.left[part].unsqueeze(-1), earlier).exp_()


def _scores(s: Signals, part: slice, wide: torch.dtype) -> Tensor:
    """C_t · B_s for s <= t, else 0: (c, b, G, T, T)."""
    B, C = s.B[part], s.C[part]
    scores = C.new_empty((*C.shape[:-1], C.shape[-2]), dtype=wide)
    batched_product(C, B.transpose(-1, -2), scores)
    return scores.tril_()


def _add_skip(M: Tensor, scores: Tensor, delta: Tensor, D: Tensor) -> None:
    """Put D on M's diagonal, rounded once."""
    own = _grouped(delta, scores.shape[2]) * scores.diagonal(dim1=-2, dim2=-1).unsqueeze(3)
    M.diagonal(dim1=-2, dim2=-1).copy_(own.flatten(2, 3) + D.to(own.dtype)[:, None])
