"""The causal convolution on the CPU: tensors in, Numba kernels, tensors out.

Rows of all sequences stand one after another, so batches, packed sequences and runs of ``seq_idx``
are all the same to the kernels: segments of rows, between which nothing passes.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ssmlab.ops.causal_conv1d import kernels
from ssmlab.ops.causal_conv1d.checks import check_offsets
from ssmlab.ops.causal_conv1d.reference import accumulation_dtype

# How the kernels see an element: bfloat16 as uint16, float16 as int16 (Numba has neither).
_ELEMENT = {
    torch.float32: np.float32(1),
    torch.float64: np.float64(1),
    torch.bfloat16: np.uint16(1),
    torch.float16: np.int16(1),
}

_forked = False


def _after_fork() -> None:
    # Numba's pool of threads does not survive a fork: the child computes in one thread.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
    x = _rows(x)
    taps, offset, state = _parameters(weight, bias, initial_state, dtype)
    y = torch.empty(x.shape, dtype=x.dtype)
    _launch(
        (kernels.forward, kernels.forward_serial),
        x,
        weight.shape[1],
        silu,
        *_segments(x, cu_seqlens, seq_idx),
        (_address(taps), _address(offset), _address(state), _address(y)),
        (_ELEMENT[x.dtype], _ELEMENT[dtype]),
    )
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and initial state; empty (0,) for an input that was None."""
    dtype = accumulation_dtype(x, weight, bias)
    x, grad_y = _rows(x), _rows(grad_y)
    taps, offset, state = _parameters(weight, bias, initial_state, dtype)
    width = weight.shape[1]
    dx = torch.empty(x.shape, dtype=x.dtype)
    dstate = torch.empty(0, dtype=x.dtype) if state is None else torch.zeros_like(state)
    # Every block of rows leaves a sum of its own; added below in an order that is always the same.
    blocks = -(-x.shape[0] * x.shape[1] // kernels.ROWS)
    partial = torch.empty((blocks, width + 1, x.shape[2]), dtype=dtype)
    _launch(
        (kernels.backward, kernels.backward_serial),
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
    dweight = total[:width].t().to(weight.dtype, memory_format=torch.contiguous_format)
    dbias = (
        torch.empty(0, dtype=x.dtype) if bias is None else total[width].to(bias.dtype, copy=True)
    )
    return dx, dweight, dbias, dstate


def _rows(tensor: Tensor) -> Tensor:
    """``tensor`` (B, L, D) with its channels side by side in memory, copied only if they are not."""
    return tensor if tensor.stride(2) == 1 or tensor.shape[2] == 1 else tensor.contiguous()


def _parameters(
    weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weight (W, D) and bias in the dtype of the sums, and the state; all contiguous."""
    taps = weight.t().to(dtype, memory_format=torch.contiguous_format).contiguous()
    offset = None if bias is None else bias.to(dtype).contiguous()
    return taps, offset, None if initial_state is None else initial_state.contiguous()


def _segments(
    x: Tensor, cu_seqlens: Tensor | None, seq_idx: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Where segments begin among the B*L rows (int64, with the end), and which are padding."""
    batch, length, _ = x.shape
    if cu_seqlens is not None:
        check_offsets(cu_seqlens, length)
        bounds = cu_seqlens.numpy().astype(np.int64)
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
    variants: tuple[Callable[..., None], Callable[..., None]],
    x: Tensor,
    width: int,
    silu: bool,
    bounds: np.ndarray,
    skip: np.ndarray,
    addresses: tuple[int, ...],
    elements: tuple[Any, Any],
) -> None:
    """Run a kernel over all blocks of rows and channels, on as many threads as torch uses."""
    batch, length, channels = x.shape
    if batch == 0 or channels == 0:
        return
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    parallel, serial = variants
    kernel = serial if _forked or threads == 1 else parallel
    if kernel is parallel:
        numba.set_num_threads(threads)
    shape = (batch * length, length, channels, width, int(silu))
    source = (x.data_ptr(), x.stride(0), x.stride(1))
    kernels.call(kernel, shape, bounds, skip, source, addresses, *elements)
