"""Launching the kernels: which one, how large a grid, where outputs lie.

Offsets of packed sequences stay on the device: their values are not checked, so that nothing waits
and CUDA graphs can record the launch. Wrong ones give wrong numbers, never a wrong access.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

import torch
from torch import Tensor

from ssmlab.ops._cuda import KernelSource, load_kernel
from ssmlab.ops._cuda.launch import Argument
from ssmlab.ops.causal_conv1d.cuda import variants

WARPS = 8  # of a block; the kernels count on it
# Time steps a warp walks: long tiles read fewer rows twice, as long as warps are enough.
_LONG, _SHORT = 64, 32
_ENOUGH = 4096
_MOST_PARTIAL = 1024  # rows of partial sums after which tiles grow instead


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> Tensor:
    """y (B, L, D) of x's dtype, float32, bfloat16 or float16; arguments are checked already."""
    x = _rows(x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    call = _Call("forward", x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)
    call.launch(call.kernel, y=y)
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
    dx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; empty (0,) for an input that was None.

    ``dx`` is where to write that of x, maybe a part of a wider tensor; a new one if not given.
    """
    x, grad_y = _rows(x), _rows(grad_y.to(x.dtype))
    if dx is None:
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width, channels = weight.shape[1], x.shape[2]
    # A packed sequence without rows leaves its state's gradient unwritten.
    dstate = x.new_empty(0)
    if initial_state is not None:
        dstate = torch.zeros_like(initial_state, dtype=x.dtype)
    dweight = torch.zeros((channels, width), dtype=torch.float32, device=x.device)
    dbias = torch.zeros(channels, dtype=torch.float32, device=x.device)
    if x.numel():
        call = _Call(
            "backward", x, weight, bias, initial_state, cu_seqlens, seq_idx, silu, grad_y, dx
        )
        partial = call.partial()
        grad_state = None if initial_state is None else dstate
        slope = None
        if not call.is_fast:
            slope = torch.empty(x.shape, dtype=torch.float32, device=x.device)
            call.launch(variants.general("slope", x.dtype), slope=slope)
        call.launch(call.kernel, y=dx, grad_state=grad_state, partial=partial, slope=slope)
        blocks = -(-channels // 32) * (width + 1)
        finish = load_kernel(variants.finish(), x.device)
        finish(
            (partial, dweight, dbias, partial.shape[0], width, channels),
            (blocks, 1, 1),
            256,
            device=x.device,
        )
    return (
        dx,
        dweight.to(weight.dtype),
        x.new_empty(0) if bias is None else dbias.to(bias.dtype),
        dstate if initial_state is None else dstate.to(initial_state.dtype),
    )


class _Call:
    """One pass over one input: its kernel, its grid and the arguments that its kernels share."""

    def __init__(
        self,
        pass_: str,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        seq_idx: Tensor | None,
        silu: bool,
        grad_y: Tensor | None = None,
        y: Tensor | None = None,
    ) -> None:
        batch, length, channels = x.shape
        width = weight.shape[1]
        index = seq_idx if cu_seqlens is None else cu_seqlens
        self.x, self.grad = x, grad_y
        self.weight = _aligned(weight.to(torch.float32).contiguous())
        self.bias = None if bias is None else bias.to(torch.float32).contiguous()
        self.state = None
        if initial_state is not None and width > 1:
            self.state = _aligned(initial_state.to(x.dtype).contiguous())
        self.offsets = None if cu_seqlens is None else cu_seqlens.contiguous()
        self.seq_idx = None if seq_idx is None else seq_idx.contiguous()
        self.sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.wide = index is not None and index.dtype == torch.int64
        self.silu = silu

        vector = variants.channels_of(pass_, x.dtype)
        self.is_fast = (
            width in variants.FAST_WIDTHS
            and channels % vector == 0
            and all(_fits(t, vector) for t in (x, grad_y, y) if t is not None)
        )
        if self.is_fast:
            self.kernel = variants.fast(pass_, x.dtype, width, index is not None, vector)
        else:
            self.kernel = variants.general(pass_, x.dtype)
        across = _ceil(channels, 32 * (vector if self.is_fast else 1))
        self.rows = _SHORT
        if self.is_fast and across * batch * _ceil(length, _LONG) >= _ENOUGH:
            self.rows = _LONG
        if pass_ == "backward":
            # A row of partial sums a block, or a warp: enough of them and the rest is longer tiles.
            share = WARPS if self.is_fast else 1
            self.rows = max(self.rows, _ceil(batch * length, _MOST_PARTIAL * share))
        self.tiles = _ceil(length, self.rows * WARPS)
        self.blocks = across * self.tiles * batch

    def partial(self) -> Tensor:
        """Room for the sums of each block (fast kernels) or warp (the others)."""
        shape = (self.weight.shape[1] + 1, self.x.shape[2])
        count = self.x.shape[0] * self.tiles
        if self.is_fast:
            return self.x.new_empty((count, *shape), dtype=torch.float32)
        return self.x.new_zeros((count * WARPS, *shape), dtype=torch.float32)  # idle warps: zeros

    def launch(
        self,
        source: KernelSource,
        *,
        y: Tensor | None = None,
        grad_state: Tensor | None = None,
        partial: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> None:
        """Launch one kernel over the grid of this call."""
        x, grad = self.x, self.grad
        batch, length, channels = x.shape
        arguments: list[Argument] = [
            *(x, grad, self.weight, self.bias, self.state, self.offsets, self.seq_idx),
            *(y, grad_state, partial, slope),
            *(stride for t in (x, grad, y) for stride in ((0, 0) if t is None else t.stride()[:2])),
            *(batch, length, channels, self.weight.shape[1], self.sequences),
            *(int(self.wide), self.rows, int(self.silu)),
        ]
        load_kernel(source, x.device)(arguments, (self.blocks, 1, 1), 32 * WARPS, device=x.device)


def _rows(tensor: Tensor) -> Tensor:
    """``tensor`` (B, L, D) with its channels side by side in memory, copied only if they are not."""
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _fits(tensor: Tensor, vector: int) -> bool:
    """Whether every ``vector`` neighbouring channels can be loaded at once."""
    size = vector * tensor.element_size()
    strides = all(stride % vector == 0 for stride in tensor.stride()[:2])
    return strides and tensor.data_ptr() % size == 0


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def update(
    x: Tensor,
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slots: Tensor | None,
    silu: bool,
) -> Tensor:
    """One step: y (B, D); ``target`` takes the state that follows ``source``.

    The two may be one tensor, a pool of states (P, W-1, D) of x's dtype whose rows ``slots`` (B,)
    names; else target is (B, W-1, D). All contiguous but x, whose rows may lie apart.
    """
    batch, channels = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    in_place = target.data_ptr() == source.data_ptr()
    load_kernel(variants.update(x.dtype), x.device)(
        (
            *(x, source, target, weight.to(torch.float32).contiguous()),
            *(None if bias is None else bias.to(torch.float32).contiguous(), slots, y),
            *(x.stride(0), batch, channels, weight.shape[1]),
            *(int(slots is not None and slots.dtype == torch.int64), int(in_place), int(silu)),
        ),
        (_ceil(channels, 128) * batch, 1, 1),
        128,
        device=x.device,
    )
    return y
