"""Tensors as the kernels take them: one element type, channels (or states) contiguous.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

import functools
import math
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
    per_step = B.dim() > 2 and C.dim() > 2
    if A.is_complex() or not per_step or dtype != torch.float32:
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
    """The one dtype in which the fast kernels read and write: a common 16-bit one, or float32."""
    dtypes = {t.dtype for t in (u, delta, B, C, z) if t is not None}
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


def rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """In this dtype, the last dimension contiguous; a copy only where needed.

    The kernels take a step between rows of up to 2^26 elements, so that 16 rows fit 32 bits.
    """
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 and x.stride(1) <= 1 << 26 else x.contiguous()


def dense(x: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """In this dtype and contiguous; None stays None."""
    return None if x is None else x.detach().to(dtype).contiguous()


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
