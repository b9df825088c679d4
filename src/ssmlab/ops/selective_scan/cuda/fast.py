"""The fast kernels: real A, B and C per step, sums in float32.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import functools
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ssmlab.ops._cuda import COMMON, Kernel, KernelSource, load_kernel
from ssmlab.ops.selective_scan.cuda import plan as plans
from ssmlab.ops.selective_scan.cuda.inputs import (
    CPP_NAMES,
    Sizes,
    dense,
    element_dtype,
    is_aligned,
    rows,
    sizes_of,
)
from ssmlab.ops.selective_scan.cuda.plan import SEGMENT, BackwardPlan, ForwardPlan

_FOLDER = Path(__file__).parent / "kernels"
_SHARED = (COMMON, _FOLDER / "spans.cuh", _FOLDER / "forward_shape.cuh")
FORWARD_FILES = (*_SHARED, _FOLDER / "forward.cuh")
BACKWARD_FILES = (*_SHARED, _FOLDER / "backward_shape.cuh", _FOLDER / "backward.cuh")
SUM_FILES = (*_SHARED, _FOLDER / "sums.cuh")
OUTPUT, STATE, REVERSE = 0, 1, 2  # the forward kernel's modes
_FEW_CHUNKS = 16  # up to which a block scans over the chunks itself, without a kernel between


@functools.cache
def _device(index: int | None) -> plans.Device:
    properties = torch.cuda.get_device_properties(index or 0)
    capability = properties.major, properties.minor
    return plans.Device(properties.multi_processor_count, capability)


def forward_source(
    plan: ForwardPlan,
    dtype: torch.dtype,
    mode: int,
    softplus: bool,
    gate: bool,
    save: bool,
    aligned: bool,
) -> KernelSource:
    """The forward kernel of a layout."""
    flags = ", ".join(str(flag).lower() for flag in (softplus, gate, save, aligned))
    name = f"scan_forward<{CPP_NAMES[dtype]}, {plan.cpp()}, {mode}, {flags}, {plan.min_blocks}>"
    return KernelSource(FORWARD_FILES, name)


def backward_source(
    plan: BackwardPlan, dtype: torch.dtype, softplus: bool, gate: bool, aligned: bool
) -> KernelSource:
    """The backward kernel of a layout."""
    flags = ", ".join(str(flag).lower() for flag in (softplus, gate, aligned))
    name = f"scan_backward<{CPP_NAMES[dtype]}, {plan.cpp()}, {flags}, {plan.min_blocks}>"
    return KernelSource(BACKWARD_FILES, name)


def chunks_source(reverse: bool) -> KernelSource:
    """The kernel that scans over chunks."""
    return KernelSource(SUM_FILES, f"scan_chunks<{str(reverse).lower()}>")


def finish_source(dtype: torch.dtype, aligned: bool) -> KernelSource:
    """The kernel that adds what blocks and items left of dA, dB, dC, dD and dbias."""
    return KernelSource(SUM_FILES, f"scan_finish<{CPP_NAMES[dtype]}, {str(aligned).lower()}>")


def _kernel(source: KernelSource, like: Tensor) -> Kernel:
    return load_kernel(source, like.device)


def _kept_states(u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> int:
    """Floats for the states at the starts of segments."""
    batch, length, channels = u.shape
    if cu_seqlens is None:
        slots = batch * -(-length // SEGMENT)
    else:
        slots = length // SEGMENT + cu_seqlens.shape[0] - 1
    return slots * A.shape[1] * channels


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
    """Floats kept: the segments' first states, then y before the gate (in the element dtype)."""
    before_gate = 0
    if z is not None:
        size = element_dtype(u, delta, B, C, z).itemsize
        before_gate = (u.shape[0] * u.shape[1] * u.shape[2] * size + 3) // 4
    return _kept_states(u, A, cu_seqlens) + before_gate


def _strides(*tensors: Tensor) -> list[int]:
    return [t.stride(i) for t in tensors for i in (0, 1)]


def _factor_strides(X: Tensor) -> list[int]:
    return [X.stride(0), X.stride(1), X.stride(2) if X.dim() == 4 else 0]


def _sizes(sizes: Sizes, chunk: int, blocks: int) -> list[int]:
    return [
        sizes.sequences,
        sizes.length,
        sizes.channels,
        sizes.states,
        sizes.segment,
        sizes.group_B,
        sizes.group_C,
        chunk,
        blocks,
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
    plan: ForwardPlan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and (if ``save``) what the backward pass starts from."""
    sizes = sizes_of(u, A, B, C, cu_seqlens)
    result_dtype, dtype = u.dtype, element_dtype(u, delta, B, C, z)
    plan = plan or plans.plan_forward(sizes, _device(u.device.index), dtype.itemsize)
    kept_floats = (
        kept_size(u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens) if save else 0
    )
    kept = torch.empty(kept_floats, dtype=torch.float32, device=u.device)
    y_pre = kept[_kept_states(u, A, cu_seqlens) :] if save else None

    u, delta, B, C = (rows(t, dtype) for t in (u, delta, B, C))
    z = None if z is None else rows(z, dtype)
    A_, D_, bias, start = (dense(t) for t in (A, D, delta_bias, initial_state))
    y = torch.empty(u.shape, dtype=dtype, device=u.device)
    last = torch.empty((sizes.sequences, *A.shape), dtype=torch.float32, device=u.device)
    items, blocks = sizes.items(plan.chunk), sizes.blocks(plan.channels)
    aligned = is_aligned(sizes, u, delta, z, B, C)

    def launch(mode: int, states: Tensor | None, chunk_sum: Tensor | None) -> None:
        source = forward_source(
            plan,
            dtype,
            mode,
            softplus,
            z is not None and mode == OUTPUT,
            save and not mode,
            aligned,
        )
        _kernel(source, u)(
            [
                *(u, delta, z, B, C, None, A_, D_, bias, start),
                *(y, y_pre, last, kept if save else None, states, chunk_sum, sizes.offsets),
                *_strides(u, delta, u if z is None else z),
                *_factor_strides(B),
                *_factor_strides(C),
                *(0, 0),
                *_sizes(sizes, plan.chunk, blocks),
            ],
            (items * blocks, 1, 1),
            plan.threads,
            device=u.device,
            shared=plan.shared(mode, dtype.itemsize),
        )

    states = chunk_sum = None
    if plan.chunk < sizes.length:
        states, chunk_sum = _chunk_buffers(sizes, items, u.device)
        launch(STATE, states, chunk_sum)
        if not _few_chunks(sizes, plan.chunk):
            scan_over_chunks(sizes, plan.chunk, A_, start, states, chunk_sum, None, reverse=False)
            chunk_sum = None
    launch(OUTPUT, states, chunk_sum)
    return y.to(result_dtype), last, kept


def _few_chunks(sizes: Sizes, chunk: int) -> bool:
    return -(-sizes.length // chunk) <= _FEW_CHUNKS


def _chunk_buffers(sizes: Sizes, items: int, device: torch.device) -> tuple[Tensor, Tensor]:
    states = torch.empty((items, sizes.states, sizes.channels), device=device)
    return states, torch.empty((items, sizes.channels), device=device)


def scan_over_chunks(
    sizes: Sizes,
    chunk: int,
    A: Tensor | None,
    start: Tensor | None,
    states: Tensor,
    chunk_sum: Tensor,
    first: Tensor | None,
    *,
    reverse: bool,
) -> None:
    """Turn the chunks' own states into the states that they start from, in place."""
    count = sizes.sequences * sizes.states * sizes.channels
    _kernel(chunks_source(reverse), states)(
        [
            *(A, start, chunk_sum, states, first, sizes.offsets),
            *(sizes.sequences, sizes.length, sizes.channels, sizes.states, chunk),
        ],
        (-(-count // 256), 1, 1),
        256,
        device=states.device,
    )


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
    plan: BackwardPlan | None = None,
    reverse_plan: ForwardPlan | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of the nine tensors, in order; an empty tensor for an absent one."""
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    sizes = sizes_of(u, A, B, C, cu_seqlens)
    properties = _device(u.device.index)
    dtype, device = element_dtype(u, delta, B, C, z), u.device
    plan = plan or plans.plan_backward(sizes, properties, dtype.itemsize)
    y_pre = kept[_kept_states(u, A, cu_seqlens) :]

    u, delta, B, C = (rows(t, dtype) for t in (u, delta, B, C))
    z = None if z is None else rows(z, dtype)
    dout = torch.zeros_like(u) if grad_y is None else rows(grad_y, dtype)
    A_, D_, bias, dlast = (dense(t) for t in (A, D, delta_bias, grad_last))
    items, blocks = sizes.items(plan.chunk), sizes.blocks(plan.channels)
    aligned = is_aligned(sizes, u, delta, z, B, C, dout)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    # Packed sequences leave gaps between items, which must not add to the sums below.
    parts = torch.empty if sizes.offsets is None else torch.zeros
    du, ddelta = empty(*u.shape, dtype=dtype), empty(*u.shape, dtype=dtype)
    dz = None if z is None else empty(*u.shape, dtype=dtype)
    dA = parts((items, sizes.states, sizes.channels), device=device)
    dD, dbias = (parts((items, sizes.channels), device=device) for _ in range(2))
    steps = sizes.batch * sizes.length
    dBC = empty(blocks, steps, 2, sizes.states)
    dh0 = None if initial_state is None else empty(sizes.sequences, *A.shape)

    strides = [
        *_strides(u, delta, u if z is None else z),
        *_factor_strides(B),
        *_factor_strides(C),
        *_strides(dout),
    ]
    states = chunk_sum = None
    scanned = False  # over chunks, by a kernel of its own
    if plan.chunk < sizes.length:
        shape = reverse_plan or plans.plan_forward(sizes, properties, dtype.itemsize)
        shape = replace(shape, chunk=plan.chunk)
        states, chunk_sum = _chunk_buffers(sizes, items, device)
        state_blocks = sizes.blocks(shape.channels)
        _kernel(forward_source(shape, dtype, REVERSE, softplus, z is not None, False, aligned), u)(
            [
                *(u, delta, z, B, C, dout, A_, D_, bias, None),
                *(None, None, None, None, states, chunk_sum, sizes.offsets),
                *strides,
                *_sizes(sizes, plan.chunk, state_blocks),
            ],
            (items * state_blocks, 1, 1),
            shape.threads,
            device=device,
            shared=shape.shared(REVERSE, dtype.itemsize),
        )
        scanned = not _few_chunks(sizes, plan.chunk)
        if scanned:
            scan_over_chunks(sizes, plan.chunk, A_, dlast, states, chunk_sum, dh0, reverse=True)
            chunk_sum = None

    _kernel(backward_source(plan, dtype, softplus, z is not None, aligned), u)(
        [
            *(u, delta, z, B, C, dout, y_pre, A_, D_, bias, kept, states, chunk_sum, dlast),
            *(du, ddelta, dz, dBC, dA, dD, dbias, None if scanned else dh0, sizes.offsets),
            *strides,
            *_sizes(sizes, plan.chunk, blocks),
            steps,
        ],
        (items * blocks, 1, 1),
        plan.threads,
        device=device,
        shared=plan.shared(dtype.itemsize),
    )

    groups_B, groups_C = (X.shape[2] if X.dim() == 4 else 1 for X in (B, C))
    dB, dC = empty(*B.shape, dtype=dtype), empty(*C.shape, dtype=dtype)
    out_A, out_D, out_bias = empty(*A.shape), empty(sizes.channels), empty(sizes.channels)
    blocks_BC = -(-steps * 2 * -(-sizes.states // 4) // 256)
    blocks_A, blocks_D = -(-A.numel() // 256), -(-sizes.channels // 256)
    _kernel(finish_source(dtype, sizes.states % 4 == 0), u)(
        [
            *(dBC, dA, dD, dbias, dB, dC, out_A, out_D, out_bias),
            *(steps, sizes.states, sizes.channels, items, blocks, groups_B, groups_C),
            *(blocks_BC, blocks_A),
        ],
        (blocks_BC + blocks_A + blocks_D, 1, 1),
        256,
        device=device,
    )
    grads = (du, ddelta, out_A, dB, dC, out_D, dz, out_bias, dh0)
    return tuple(
        torch.empty(0, device=device)
        if grad is None or tensor is None
        else grad.to(tensor.dtype).contiguous()
        for grad, tensor in zip(grads, given, strict=True)
    )
