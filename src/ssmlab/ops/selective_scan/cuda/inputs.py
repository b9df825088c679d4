"""Tensors as the kernels take them: one element type, channels (states) or time contiguous.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab.ops.selective_scan.reference import compute_dtype

FAST_STATES = 64  # states a channel up to which the fast kernels go
CPP_NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


def is_fast(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> bool:
    """Whether the fast kernels take these: decided by shapes and dtypes alone."""
    dtype = compute_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if A.is_complex() or dtype != torch.float32:
        return False
    limit = FAST_STATES
    if element_dtype(u, delta, B, C, z) == torch.float32 and not _much_shared(u.device.index):
        limit = FAST_STATES // 2
    return A.shape[1] <= limit


@functools.cache
def _much_shared(index: int | None) -> bool:
    """Whether blocks can have the shared memory that the most states take in float32."""
    if not torch.cuda.is_available():
        return True
    properties = torch.cuda.get_device_properties(index or 0)
    return properties.shared_memory_per_block_optin >= 128 * 1024


def element_dtype(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> torch.dtype:
    """The one dtype in which the fast kernels read and write: a common 16-bit one, or float32.

    That of a constant B or C does not count: it is read as float32.
    """
    dtypes = {t.dtype for t in (u, delta, B, C, z) if t is not None and t.dim() > 2}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


@dataclass(frozen=True)
class Sizes:
    """Sizes that the kernels need, and the offsets of packed sequences (int64) or None."""

    batch: int
    length: int
    channels: int
    states: int
    sequences: int
    group_B: int  # channels that share a B
    group_C: int
    segment: int  # channels that share both
    offsets: Tensor | None

    def items(self, chunk: int) -> int:
        """Work items along time and sequences, for chunks of this length (see spans.cuh)."""
        if self.offsets is None:
            return self.batch * -(-self.length // chunk)
        return self.length // chunk + self.sequences

    def blocks(self, width: int) -> int:
        """Blocks of ``width`` channels; none crosses a group."""
        return self.channels // self.segment * -(-self.segment // width)


def sizes_of(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> Sizes:
    """The sizes of checked arguments; the offsets are checked here, on the device."""
    batch, length, channels = u.shape
    group_B, group_C = (channels // (X.shape[2] if X.dim() == 4 else 1) for X in (B, C))
    offsets = None if cu_seqlens is None else checked_offsets(cu_seqlens, length, u.device)
    sequences = batch if offsets is None else offsets.shape[0] - 1
    return Sizes(
        batch,
        length,
        channels,
        A.shape[1],
        sequences,
        group_B,
        group_C,
        math.gcd(group_B, group_C),
        offsets,
    )


def checked_offsets(cu_seqlens: Tensor, length: int, device: torch.device) -> Tensor:
    """int64 offsets on the device, asserted there: reading them here would stall the stream.

    Offsets that lie on the host already are checked at once.
    """
    if cu_seqlens.device.type == "cpu":
        from ssmlab.ops._checks import sequence_bounds

        sequence_bounds("selective_scan", cu_seqlens, length)
        return cu_seqlens.to(device, torch.int64)
    offsets = cu_seqlens.to(device, torch.int64).contiguous()
    ordered = (offsets[1:] >= offsets[:-1]).all()
    right = ordered & (offsets[0] == 0) & (offsets[-1] == length)
    torch.ops.aten._assert_async.msg(
        right,
        f"selective_scan: cu_seqlens must start with 0, never decrease and end with L = {length}",
    )
    return offsets


def rows(x: Tensor, dtype: torch.dtype, along_time: bool = False) -> Tensor:
    """In this dtype, the last dimension contiguous (or time: ``time_rows``); copied only if need be.

    The kernels take a step between rows of up to 2^26 elements, so that 16 rows fit 32 bits.
    """
    if along_time:
        return time_rows(x, dtype)
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 and x.stride(1) <= 1 << 26 else x.contiguous()


def is_along_time(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> bool:
    """Whether the fast kernels read u, delta and z as rows along time, and write y so.

    That is where u lies so, as (B, D, L), and its sizes let four steps be loaded at once. Decided by
    sizes and the order of u's strides alone: tracing must come to the same answer.
    """
    groups = math.lcm(*(X.shape[2] if X.dim() == 4 else 1 for X in (B, C)))
    length, channels = u.shape[1:]
    multiples = length % 4 == 0 and channels % (4 * groups) == 0 and A.shape[1] % 4 == 0
    return multiples and cu_seqlens is None and u.stride(1) == 1 and u.stride(2) != 1


def is_backward_along_time(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
) -> bool:
    """The same of the fast backward kernels and of what they return as gradients of these.

    Wide elements and many states would take more registers than there are: those are copied.
    """
    fits = A.shape[1] <= 16 and element_dtype(u, delta, B, C, z).itemsize == 2
    return fits and is_along_time(u, A, B, C, cu_seqlens)


def time_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """In this dtype, time contiguous and aligned for four elements; a copy only where needed."""
    x = x.detach().to(dtype)
    if x.stride(1) == 1 and _fits_four(x, (x.stride(0), x.stride(2))):
        return x
    return new_rows(x, x.dtype, along_time=True).copy_(x)


def new_rows(like: Tensor, dtype: torch.dtype, along_time: bool) -> Tensor:
    """An empty tensor (B, L, D), in memory so or, along time, as (B, D, L)."""
    if not along_time:
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    batch, length, channels = like.shape
    shape = (batch, channels, length)
    return torch.empty(shape, dtype=dtype, device=like.device).transpose(1, 2)


def _fits_four(x: Tensor, strides: Iterable[int]) -> bool:
    return x.data_ptr() % (4 * x.element_size()) == 0 and all(s % 4 == 0 for s in strides)


def dense(x: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """In this dtype and contiguous; None stays None."""
    return None if x is None else x.detach().to(dtype).contiguous()


def factor(x: Tensor, dtype: torch.dtype, aligned: bool = False) -> Tensor:
    """B or C: rows of this dtype, or (D, N) in float32 where it is constant. ``aligned``: these, of a
    multiple of four states, for loads of four elements."""
    x = rows(x, dtype) if x.dim() > 2 else x.detach().to(torch.float32).contiguous()
    if not aligned or _fits_four(x, x.stride()[:-1]):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def is_aligned(sizes: Sizes, *tensors: Tensor | None) -> bool:
    """Whether four neighbouring elements can be loaded at once anywhere in these tensors."""
    if sizes.segment % 4 or sizes.states % 4:
        return False
    return all(
        t is None
        or (
            t.data_ptr() % (4 * t.element_size()) == 0
            and all(s % 4 == 0 for s, n in zip(t.stride()[:-1], t.shape[:-1], strict=True) if n > 1)
        )
        for t in tensors
    )
