"""The residual addition and RMSNorm of a text being read, each row in one pass over memory.

Shapes: T rows, M width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.ops._cpu import intrinsics
from ssmlab.ops._cpu.compiling import expand_sum, kernel
from ssmlab.ops._cpu.intrinsics import take
from ssmlab.ops._cpu.threads import run_tasks

_ROWS = 16  # that a thread takes at once


def add_norm(
    pending: Tensor | None, residual: Tensor, weight: Tensor, eps: float, y: Tensor
) -> None:
    """residual += pending, and y = residual / sqrt(mean(residual²) + eps) * weight.

    All float32 and contiguous: (T, M), but the weight (M,).
    """
    rows, width = residual.shape
    given = np.empty((0, width), np.float32) if pending is None else pending.numpy()
    arrays = given, residual.numpy(), weight.detach().numpy(), np.float32(eps), y.numpy()
    taken = np.zeros(1, np.int64)
    threads = min(torch.get_num_threads(), -(-rows // _ROWS))
    run_tasks(lambda _: _add_norm(*arrays, taken), threads)


@expand_sum
def _sum_of_squares(h: Any, t: int) -> Any:
    total = h.dtype.type(0)
    for k in range(h.shape[1]):
        total += h[t, k] * h[t, k]
    return total


@kernel(__file__, str(intrinsics.__file__))
def _add_norm(pending: Any, h: Any, weight: Any, eps: Any, y: Any, taken: Any) -> None:
    """Takes rows, counted in taken[0], until there are no more; nothing pending has no rows."""
    rows, width = h.shape
    one, number = h.dtype.type(1), h.dtype.type(h.shape[1])
    block = take(taken)
    while block * _ROWS < rows:
        for t in range(block * _ROWS, min(rows, block * _ROWS + _ROWS)):
            if pending.shape[0] > 0:
                for k in range(width):
                    h[t, k] += pending[t, k]
            scale = one / np.sqrt(_sum_of_squares(h, t) / number + eps)
            for k in range(width):
                y[t, k] = h[t, k] * scale * weight[k]
        block = take(taken)
