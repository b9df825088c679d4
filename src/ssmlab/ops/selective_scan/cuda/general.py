"""The general kernels: real or complex A, constant or per-step B and C, float32 or float64, any N.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

from pathlib import Path

import torch
from torch import Tensor

from ssmlab.ops._cuda import COMMON, KernelSource, load_kernel
from ssmlab.ops.selective_scan.cuda.inputs import CPP_NAMES, Sizes, dense, sizes_of
from ssmlab.ops.selective_scan.cuda.plan import SEGMENT
from ssmlab.ops.selective_scan.reference import compute_dtype, discretise, state_dtype

_FOLDER = Path(__file__).parent / "kernels"
FILES = (COMMON, *(_FOLDER / name for name in ("spans.cuh", "general.cuh")))
WIDTH = 32  # channels a block


def source(
    direction: str, real: torch.dtype, is_complex: bool, constant_B: bool, constant_C: bool
) -> KernelSource:
    """The "forward" or "backward" kernel for these kinds of arguments."""
    value = f"{'Complex' if is_complex else 'Real'}<{CPP_NAMES[real]}>"
    flags = ", ".join(str(flag).lower() for flag in (constant_B, constant_C))
    return KernelSource(FILES, f"general_{direction}<{value}, {flags}>")


def _kept_states(u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> int:
    batch, length, channels = u.shape
    if cu_seqlens is None:
        slots = batch * -(-length // SEGMENT)
    else:
        slots = length // SEGMENT + cu_seqlens.shape[0] - 1
    return slots * A.shape[1] * channels * (2 if A.is_complex() else 1)


def kept_size(
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
) -> int:
    """Numbers kept: the segments' first states (real, imaginary), then y before the gate."""
    before_gate = 0 if z is None else u.shape[0] * u.shape[1] * u.shape[2]
    return _kept_states(u, A, cu_seqlens) + before_gate


def _layout(sizes: Sizes, parts: int) -> tuple[int, int]:
    """Warps a block and slabs of states; a slab has that many warps of 4 / parts states."""
    per_warp = 4 // parts
    needed = -(-sizes.states // per_warp)
    warps = next(w for w in (1, 2, 4, 8) if w >= min(needed, 8))
    return warps, -(-needed // warps)


def _groups(X: Tensor) -> int:
    return X.shape[2] if X.dim() == 4 else 1


def _sizes(sizes: Sizes, blocks: int, slab: int, B: Tensor, C: Tensor) -> list[int]:
    return [
        sizes.sequences,
        sizes.length,
        sizes.channels,
        sizes.states,
        sizes.segment,
        sizes.group_B,
        sizes.group_C,
        blocks,
        sizes.batch * sizes.length,
        slab,
        _groups(B),
        _groups(C),
    ]


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
    softplus: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and (if ``save``) what the backward pass starts from."""
    sizes = sizes_of(u, A, B, C, cu_seqlens)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    real, device = compute_dtype(*tensors), u.device
    value, parts = state_dtype(real, A.is_complex()), 2 if A.is_complex() else 1
    states = _kept_states(u, A, cu_seqlens) if save else 0
    kept = torch.empty(kept_size(*tensors, cu_seqlens) if save else 0, dtype=real, device=device)
    u_ = dense(u, real)
    assert u_ is not None
    dt = discretise(delta.detach(), delta_bias, softplus, real).contiguous()
    A_, B_, C_, start = (_resolved(t, value) for t in (A, B, C, initial_state))
    y = torch.empty(u.shape, dtype=real, device=device)
    last = torch.empty((sizes.sequences, *A.shape), dtype=value, device=device)

    warps, slabs = _layout(sizes, parts)
    blocks = sizes.blocks(WIDTH)
    kernel = load_kernel(source("forward", real, parts == 2, B.dim() == 2, C.dim() == 2), device)
    shared = (2 * SEGMENT * warps * 4 + (2 + warps) * SEGMENT * WIDTH) * real.itemsize
    for slab in range(slabs):
        kernel(
            [
                *(u_, dt, A_, B_, C_, start, None, None),
                *(y, last, kept if save else None),
                *(None,) * 7,
                sizes.offsets,
                *_sizes(sizes, blocks, slab, B, C),
            ],
            (sizes.sequences * blocks, 1, 1),
            32 * warps,
            device=device,
            shared=shared,
        )
    if D is not None:
        y.addcmul_(u_, D.detach().to(real))
    if z is not None:
        if save:
            kept[states:] = y.view(-1)
        y *= torch.nn.functional.silu(z.detach().to(real))
    return y.to(u.dtype), last, kept


def _resolved(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else dense(x.detach().resolve_conj().resolve_neg(), dtype)


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
    softplus: bool,
) -> tuple[Tensor, ...]:
    """The gradients of the nine tensors, in order; an empty tensor for an absent one."""
    sizes = sizes_of(u, A, B, C, cu_seqlens)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    real, device = compute_dtype(*tensors), u.device
    value, parts = state_dtype(real, A.is_complex()), 2 if A.is_complex() else 1
    u_ = dense(u, real)
    assert u_ is not None
    dt = discretise(delta.detach(), delta_bias, softplus, real).contiguous()
    A_, B_, C_, dlast = (_resolved(t, value) for t in (A, B, C, grad_last))
    dy = torch.zeros_like(u_) if grad_y is None else grad_y.to(real).contiguous()
    dz = None
    if z is not None:
        gate, sigmoid = z.detach().to(real), torch.sigmoid(z.detach().to(real))
        y_pre = kept[_kept_states(u, A, cu_seqlens) :].view(u.shape)
        dz = dy * y_pre * sigmoid * (1 + gate * (1 - sigmoid))
        dy = (dy * gate * sigmoid).contiguous()

    def empty(*shape: int, dtype: torch.dtype = real) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    constant_B, constant_C = B.dim() == 2, C.dim() == 2
    per_sequence = (sizes.sequences, *A.shape)
    du, ddelta = torch.empty_like(u_), torch.empty_like(u_)
    dA = empty(*per_sequence, dtype=value)
    dB = empty(*per_sequence, dtype=value) if constant_B else None
    dC = empty(*per_sequence, dtype=value) if constant_C else None
    dh0 = empty(*per_sequence, dtype=value) if initial_state is not None else None
    blocks, steps = sizes.blocks(WIDTH), sizes.batch * sizes.length
    dBC = None
    if not (constant_B and constant_C):
        dBC = empty(blocks, steps, 2, sizes.states * parts)

    warps, slabs = _layout(sizes, parts)
    kernel = load_kernel(source("backward", real, parts == 2, constant_B, constant_C), device)
    shared = (2 * SEGMENT * warps * 4 + (3 + 2 * warps) * SEGMENT * WIDTH) * real.itemsize
    for slab in range(slabs):
        kernel(
            [
                *(u_, dt, A_, B_, C_, None, dy, dlast),
                *(None, None, kept, du, ddelta, dA, dB, dC, dBC, dh0, sizes.offsets),
                *_sizes(sizes, blocks, slab, B, C),
            ],
            (sizes.sequences * blocks, 1, 1),
            32 * warps,
            device=device,
            shared=shared,
        )

    def factor(X: Tensor, own: Tensor | None, which: int) -> Tensor:
        if own is not None:
            return own.sum(0)
        assert dBC is not None
        groups = _groups(X)
        total = dBC[:, :, which].unflatten(0, (groups, blocks // groups)).sum(1)
        total = total.transpose(0, 1).contiguous()  # (rows, G, parts N)
        if parts == 2:
            total = torch.view_as_complex(total.unflatten(-1, (sizes.states, 2)))
        return total.view(X.shape)

    if D is not None:
        du.addcmul_(dy, D.detach().to(real))
    if softplus:
        before = delta.detach().to(real)
        if delta_bias is not None:
            before = before + delta_bias.detach().to(real)
        ddelta *= torch.sigmoid(before)
    grads = (
        *(du, ddelta, dA.sum(0), factor(B, dB, 0), factor(C, dC, 1)),
        *(None if D is None else (dy * u_).sum((0, 1)), dz),
        *(None if delta_bias is None else ddelta.sum((0, 1)), dh0),
    )
    return tuple(
        torch.empty(0, device=device) if grad is None or like is None else _like(grad, like)
        for grad, like in zip(grads, tensors, strict=True)
    )


def _like(grad: Tensor, like: Tensor) -> Tensor:
    """In the dtype of ``like``, the real part where that is real; never a view."""
    if grad.is_complex() and not like.is_complex():
        grad = grad.real
    return grad.to(like.dtype).contiguous()
