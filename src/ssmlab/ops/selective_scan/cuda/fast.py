"""The fast kernels: real A, B and C, per step or constant, sums in float32.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor

from ssmlab.ops._cuda import Kernel, KernelSource, load_kernel
from ssmlab.ops.selective_scan.cuda import plan as plans
from ssmlab.ops.selective_scan.cuda.inputs import (
    Sizes,
    dense,
    element_dtype,
    factor,
    is_aligned,
    is_along_time,
    is_backward_along_time,
    new_rows,
    rows,
    sizes_of,
)
from ssmlab.ops.selective_scan.cuda.plan import SEGMENT, BackwardPlan, ForwardPlan
from ssmlab.ops.selective_scan.cuda.sources import (
    backward_source,
    chunks_source,
    finish_source,
    forward_source,
)

OUTPUT, OPENING, REVERSE = 0, 1, 2  # the forward kernel's modes
_FEW_CHUNKS = 16  # up to which a block scans over the chunks itself, without a kernel between


@functools.cache
def _device(index: int | None) -> plans.Device:
    properties = torch.cuda.get_device_properties(index or 0)
    capability = properties.major, properties.minor
    return plans.Device(properties.multi_processor_count, capability)


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


def _strides(along_time: bool, *tensors: Tensor) -> list[int]:
    """Elements from one sequence to the next and from one row to the next."""
    return [t.stride(i) for t in tensors for i in (0, 2 if along_time else 1)]


def _constant(B: Tensor, C: Tensor) -> tuple[bool, bool]:
    return B.dim() == 2, C.dim() == 2


def _factor_strides(X: Tensor) -> list[int]:
    if X.dim() == 2:
        return [0, 0, 0]
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
    """y, laid out as u; the last state and (if ``save``) what the backward pass starts from."""
    sizes = sizes_of(u, A, B, C, cu_seqlens)
    result_dtype, dtype = u.dtype, element_dtype(u, delta, B, C, z)
    plan = plan or plans.plan_forward(sizes, _device(u.device.index), dtype.itemsize)
    kept_floats = (
        kept_size(u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens) if save else 0
    )
    kept = torch.empty(kept_floats, dtype=torch.float32, device=u.device)
    y_pre = kept[_kept_states(u, A, cu_seqlens) :] if save else None

    along_time = is_along_time(u, A, B, C, cu_seqlens)
    y = new_rows(u, dtype, along_time)
    u, delta = (rows(x, dtype, along_time) for x in (u, delta))
    B, C = (factor(X, dtype, aligned=along_time) for X in (B, C))
    constant = _constant(B, C)
    z = None if z is None else rows(z, dtype, along_time)
    A_, D_, bias, start = (dense(t) for t in (A, D, delta_bias, initial_state))
    last = torch.empty((sizes.sequences, *A.shape), dtype=torch.float32, device=u.device)
    items, blocks = sizes.items(plan.chunk), sizes.blocks(plan.channels)
    aligned = along_time or is_aligned(sizes, u, delta, z, B, C)

    def launch(mode: int, states: Tensor | None, chunk_sum: Tensor | None) -> None:
        source = forward_source(
            plan, dtype, mode, softplus, z is not None, save, aligned, constant, along_time
        )
        _kernel(source, u)(
            [
                *(u, delta, z, B, C, None, A_, D_, bias, start),
                *(y, y_pre, last, kept if save else None, states, chunk_sum, sizes.offsets),
                *_strides(along_time, u, delta, u if z is None else z),
                *_factor_strides(B),
                *_factor_strides(C),
                *(0, 0),
                *_sizes(sizes, plan.chunk, blocks),
                int(mode == OUTPUT and states is not None),
            ],
            (items * blocks, 1, 1),
            plan.threads,
            device=u.device,
            shared=plan.shared(mode == REVERSE, dtype.itemsize),
        )

    states = chunk_sum = None
    if plan.chunk < sizes.length:
        states, chunk_sum = _chunk_buffers(sizes, items, u.device)
        launch(OPENING, states, chunk_sum)
        if not _few_chunks(sizes, plan.chunk):
            # What starts the sequences is in their first chunks' states already.
            scan_over_chunks(sizes, plan.chunk, A_, None, states, chunk_sum, None, reverse=False)
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

    in_time = is_backward_along_time(u, delta, A, B, C, z, cu_seqlens)
    plan = plans.along_time(plan, properties) if in_time else plan
    u, delta = (rows(x, dtype, in_time) for x in (u, delta))
    B, C = (factor(X, dtype, aligned=in_time) for X in (B, C))
    constant = _constant(B, C)
    z = None if z is None else rows(z, dtype, in_time)
    dout = new_rows(u, dtype, in_time).zero_() if grad_y is None else rows(grad_y, dtype, in_time)
    A_, D_, bias, dlast = (dense(t) for t in (A, D, delta_bias, grad_last))
    items, blocks = sizes.items(plan.chunk), sizes.blocks(plan.channels)
    aligned = in_time or is_aligned(sizes, u, delta, z, B, C, dout)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    # Packed sequences leave gaps between items, which must not add to the sums below.
    parts = torch.empty if sizes.offsets is None else torch.zeros
    du, ddelta = (new_rows(u, dtype, in_time) for _ in range(2))
    dz = None if z is None else new_rows(u, dtype, in_time)
    dA, fixed_dB, fixed_dC = (
        parts((items, sizes.states, sizes.channels), device=device) if wanted else None
        for wanted in (True, *constant)
    )
    dD, dbias = (parts((items, sizes.channels), device=device) for _ in range(2))
    steps = sizes.batch * sizes.length
    dBC = None if all(constant) else empty(blocks, steps, 2, sizes.states)
    dh0 = None if initial_state is None else empty(sizes.sequences, *A.shape)

    strides = [
        *_strides(in_time, u, delta, u if z is None else z),
        *_factor_strides(B),
        *_factor_strides(C),
        *_strides(in_time, dout),
    ]
    states = chunk_sum = None
    scanned = False  # over chunks, by a kernel of its own
    if plan.chunk < sizes.length:
        shape = reverse_plan or plans.plan_forward(sizes, properties, dtype.itemsize)
        shape = replace(shape, chunk=plan.chunk)
        states, chunk_sum = _chunk_buffers(sizes, items, device)
        state_blocks = sizes.blocks(shape.channels)
        source = forward_source(
            shape, dtype, REVERSE, softplus, z is not None, False, aligned, constant, in_time
        )
        _kernel(source, u)(
            [
                *(u, delta, z, B, C, dout, A_, D_, bias, None),
                *(None, None, None, None, states, chunk_sum, sizes.offsets),
                *strides,
                *_sizes(sizes, plan.chunk, state_blocks),
                0,
            ],
            (items * state_blocks, 1, 1),
            shape.threads,
            device=device,
            shared=shape.shared(True, dtype.itemsize),
        )
        scanned = not _few_chunks(sizes, plan.chunk)
        if scanned:
            scan_over_chunks(sizes, plan.chunk, A_, dlast, states, chunk_sum, dh0, reverse=True)
            chunk_sum = None

    source = backward_source(plan, dtype, softplus, z is not None, aligned, constant, in_time)
    _kernel(source, u)(
        [
            *(u, delta, z, B, C, dout, y_pre, A_, D_, bias, kept, states, chunk_sum, dlast),
            *(du, ddelta, dz, dBC, dA, fixed_dB, fixed_dC, dD, dbias),
            *(None if scanned else dh0, sizes.offsets),
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
    dB, dC = (
        empty(*X.shape, dtype=torch.float32 if fixed else dtype)
        for X, fixed in zip((B, C), constant, strict=True)
    )
    out_A, out_D, out_bias = empty(*A.shape), empty(sizes.channels), empty(sizes.channels)
    quads = steps * 2 * -(-sizes.states // 4)
    blocks_BC = 0 if dBC is None else -(-quads // 256)
    blocks_A, blocks_D = -(-A.numel() // 256), -(-sizes.channels // 256)
    _kernel(finish_source(dtype, sizes.states % 4 == 0), u)(
        [
            *(dBC, dA, fixed_dB, fixed_dC, dD, dbias),
            *(None if fixed else X for X, fixed in zip((dB, dC), constant, strict=True)),
            out_A,
            *(X if fixed else None for X, fixed in zip((dB, dC), constant, strict=True)),
            *(out_D, out_bias),
            *(steps, sizes.states, sizes.channels, items, blocks, groups_B, groups_C),
            *(blocks_BC, blocks_A),
        ],
        (blocks_BC + 3 * blocks_A + blocks_D, 1, 1),
        256,
        device=device,
    )
    grads = (du, ddelta, out_A, dB, dC, out_D, dz, out_bias, dh0)
    return tuple(
        torch.empty(0, device=device) if grad is None or tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, given, strict=True)
    )
