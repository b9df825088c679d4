"""The causal convolution on the CPU: tensors in, Numba kernels, tensors out.

Rows of all sequences stand one after another, so batches, packed sequences and runs of ``seq_idx``
are all the same to the kernels: segments of rows, between which nothing passes.

Shape letters: B batch, L length, D channels, W width (taps).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.ops._checks import sequence_bounds
from ssmlab.ops._cpu.threads import run_tasks
from ssmlab.ops.causal_conv1d import kernels
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype

# How the kernels see an element: bfloat16 as uint16, float16 as int16 (Numba has neither).
_ELEMENT = {
    torch.float32: np.float32(1),
    torch.float64: np.float64(1),
    torch.bfloat16: np.uint16(1),
    torch.float16: np.int16(1),
}

# A thread's share: below this many elements handing over costs more than it saves.
_GRAIN = 1 << 15
_SHARES_PER_THREAD = 2


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> Tensor:
    """y (B, L, D) of x's dtype; shapes and dtypes are checked already."""
    dtype = accumulation_dtype(x, weight, bias)
    given, x = x.dtype, _rows(x, dtype)
    taps, offset, state = _parameters(weight, bias, initial_state, x, dtype)
    y = torch.empty(x.shape, dtype=x.dtype)
    _launch(
        kernels.forward,
        x,
        weight.shape[1],
        silu,
        *_segments(x, cu_seqlens, seq_idx),
        (_address(taps), _address(offset), _address(state), _address(y)),
        (_ELEMENT[x.dtype], _ELEMENT[dtype]),
    )
    return y.to(given)


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; empty (0,) for an input that was None."""
    dtype = accumulation_dtype(x, weight, bias)
    given, x, grad_y = x.dtype, _rows(x, dtype), _rows(grad_y, dtype)
    taps, offset, state = _parameters(weight, bias, initial_state, x, dtype)
    width = weight.shape[1]
    dx = torch.empty(x.shape, dtype=x.dtype)
    dstate = torch.empty(0, dtype=x.dtype) if state is None else torch.zeros_like(state)
    # Every block of rows leaves a sum of its own; added below in an order that is always the same.
    blocks = -(-x.shape[0] * x.shape[1] // kernels.ROWS)
    partial = torch.empty((blocks, width + 1, x.shape[2]), dtype=dtype)
    _launch(
        kernels.backward,
        x,
        width,
        silu,
        *_segments(x, cu_seqlens, seq_idx),
        (
            _address(taps),
            _address(offset),
            _address(state),
            _address(grad_y),
            grad_y.stride(0),
            grad_y.stride(1),
            _address(dx),
            _address(dstate),
            _address(partial),
        ),
        (_ELEMENT[x.dtype], _ELEMENT[dtype]),
    )
    total = partial.sum(dim=0)
    dweight = total[:width].t().contiguous().to(weight.dtype)
    dbias = torch.empty(0, dtype=given) if bias is None else total[width].to(bias.dtype, copy=True)
    return dx.to(given), dweight, dbias, dstate.to(given)


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` (B, L, D) with its channels side by side in memory, copied only if they are not.

    Narrower than a float64 sum it is widened first, so that no kernels are needed for mixtures.
    """
    if dtype == torch.float64:
        tensor = tensor.to(dtype)
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def _parameters(
    weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, x: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weight (W, D) and bias in the dtype of the sums, the state in that of x; all contiguous."""
    taps = weight.t().to(dtype).contiguous()
    offset = None if bias is None else bias.to(dtype).contiguous()
    return taps, offset, None if initial_state is None else initial_state.to(x.dtype).contiguous()


def _segments(
    x: Tensor, cu_seqlens: Tensor | None, seq_idx: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Where segments begin among the B*L rows (int64, with the end), and which are padding."""
    batch, length, _ = x.shape
    if cu_seqlens is not None:
        bounds = np.array(sequence_bounds("causal_conv1d", cu_seqlens, length), dtype=np.int64)
    elif seq_idx is not None:
        index = np.ascontiguousarray(seq_idx.numpy())
        begins = np.ones(index.shape, dtype=bool)
        np.not_equal(index[:, 1:], index[:, :-1], out=begins[:, 1:])
        bounds = np.append(np.flatnonzero(begins), batch * length)
        return bounds, index.reshape(-1)[bounds[:-1]] < 0
    else:
        bounds = np.arange(batch + 1, dtype=np.int64) * length
    return bounds, np.zeros(bounds.shape[0] - 1, dtype=bool)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _launch(
    kernel: Callable[..., None],
    x: Tensor,
    width: int,
    silu: bool,
    bounds: np.ndarray,
    skip: np.ndarray,
    addresses: tuple[int, ...],
    elements: tuple[Any, Any],
) -> None:
    """Run a kernel over all blocks of rows and channels, on as many threads as torch uses.

    Where the blocks are parted between threads changes nothing in what they compute.
    """
    batch, length, channels = x.shape
    if batch == 0 or channels == 0:
        return
    tasks = kernels.tasks(batch * length, channels)
    threads = min(torch.get_num_threads(), -(-x.numel() // _GRAIN))
    shares = min(tasks, _SHARES_PER_THREAD * threads if threads > 1 else 1)
    shape = (batch * length, length, channels, width, int(silu))
    source = (x.data_ptr(), x.stride(0), x.stride(1))

    def run(share: int) -> None:
        first, end = share * tasks // shares, (share + 1) * tasks // shares
        kernel(first, end, shape, bounds, skip, source, addresses, *elements)

    run_tasks(run, shares)
