"""Launching the kernels: which one, how many warps a row, how large a grid.

Shapes: T rows, M width.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ssmlab.ops._cuda import KernelSource, load_kernel, unavailable_reason
from ssmlab.ops.add_rms_norm.cuda import variants

_WARPS = 8  # of a block, unless a row has more
_MOST_WARPS = 16  # of a row; the kernels' MOST_THREADS


def works(device: torch.device, *dtypes: torch.dtype) -> bool:
    """Whether the kernels run on ``device`` for tensors of these dtypes."""
    known = all(dtype in variants.NAMES for dtype in dtypes)
    return device.type == "cuda" and known and unavailable_reason(device.index) is None


def forward(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the sum (empty without x) and the rows' 1/rms (T,); x and residual (T, M) are contiguous."""
    y = torch.empty(residual.shape, dtype=out_dtype, device=residual.device)
    total = torch.empty(
        residual.shape if x is not None else (0,), dtype=residual.dtype, device=y.device
    )
    rstd = torch.empty(residual.shape[0], dtype=torch.float32, device=y.device)
    if y.numel():
        added = None if x is None else total
        types = (out_dtype if x is None else x.dtype, residual.dtype, out_dtype)
        plan = _plan("forward", types, residual.shape[1], x, residual, weight, y, added)
        load_kernel(plan.source, y.device)(
            (
                *(x, residual, weight, y, added, rstd, *residual.shape, plan.warps),
                *_codes(weight.dtype, *types),
                float(eps),
            ),
            (-(-residual.shape[0] // plan.groups), 1, 1),
            plan.threads,
            device=y.device,
        )
    return y, total, rstd


def backward(
    dy: Tensor,
    dsum: Tensor | None,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    x_dtype: torch.dtype | None,
    wants_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty if ``x_dtype`` is None), residual and weight (empty unless wanted).

    dy, dsum (that which comes through the sum itself) and the sum (T, M) are contiguous.
    """
    rows, width = total.shape
    dresidual = torch.empty_like(total)
    dx = total.new_empty(total.shape if x_dtype else (0,), dtype=x_dtype)
    dweight = torch.zeros_like(weight) if wants_weight else weight.new_empty(0)
    if total.numel():
        types = (x_dtype or dy.dtype, total.dtype, dy.dtype)
        out = dx if x_dtype else None
        plan = _plan("backward", types, width, dy, dsum, total, weight, dresidual, out)
        blocks = min(-(-rows // plan.groups), plan.resident * _multiprocessors(total.device.index))
        partial = None
        if wants_weight:
            parts = blocks if plan.is_fast else blocks * plan.groups
            partial = torch.empty((parts, width), dtype=torch.float32, device=total.device)
        load_kernel(plan.source, total.device)(
            (
                *(dy, dsum, total, weight, rstd, dresidual, out, partial),
                *(rows, width, plan.warps, *_codes(weight.dtype, *types)),
            ),
            (blocks, 1, 1),
            plan.threads,
            device=total.device,
            shared=4 * width if plan.is_fast and plan.groups > 1 else 0,
        )
        if partial is not None:
            load_kernel(variants.finish(), total.device)(
                (partial, dweight, *partial.shape, *_codes(weight.dtype)),
                (-(-width // 32), 1, 1),
                1024,
                device=total.device,
            )
    return dx, dresidual, dweight


class _Plan(NamedTuple):
    source: KernelSource
    is_fast: bool
    warps: int  # a row
    groups: int  # rows a block has at a time
    elements: int  # of a row in a thread's registers

    @property
    def threads(self) -> int:
        return 32 * self.warps * self.groups

    @property
    def resident(self) -> int:
        """Blocks of the backward pass that registers leave room for on a multiprocessor.

        They walk all rows: more would wait, and leave more parts of the weight's gradient.
        """
        threads = {4: 1024, 8: 768}.get(self.elements, 512) if self.is_fast else 1024
        return max(1, threads // self.threads)


def _plan(pass_: str, types: variants.Types, width: int, *tensors: Tensor | None) -> _Plan:
    """The kernel for rows of ``width``, and how a block is shared out."""
    aligned = all(t is None or t.data_ptr() % 16 == 0 for t in tensors)
    vector = variants.vector_of(types)
    warps, vectors = _share(width // vector, variants.most_vectors(types))
    is_fast = aligned and width % vector == 0 and variants.are_fast(types) and warps <= _MOST_WARPS
    if is_fast:
        source = variants.fast(pass_, types, vectors)
    else:
        vector = 4 if aligned and width % 4 == 0 else 1
        source = variants.general(pass_, vector)
        warps = min(_WARPS, _share(width // vector, 4)[0])
    return _Plan(source, is_fast, warps, max(1, _WARPS // warps), vector * vectors)


@functools.cache
def _share(vectors: int, most: int) -> tuple[int, int]:
    """Warps a row, a power of two, and vectors a thread, at most ``most`` of them."""
    warps = 1
    while warps * 32 * most < vectors:
        warps *= 2
    return warps, max(1, -(-vectors // (32 * warps)))


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def _codes(*dtypes: torch.dtype) -> tuple[int, ...]:
    return tuple(variants.CODES[dtype] for dtype in dtypes)
