"""What the kernels read in another form than a checkpoint has it: A, and the convolutions' taps.

Shapes: D channels, N state, W taps.
"""

from typing import Any

import numpy as np
import torch
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from ssmlab.blocks.mamba import Mamba
from ssmlab.generation.cpu import sync
from ssmlab.generation.cpu.sync import pointer
from ssmlab.mixers.s6 import S6
from ssmlab.models.language_model import LanguageModel
from ssmlab.ops._cpu import intrinsics
from ssmlab.ops._cpu.compiling import kernel
from ssmlab.ops._cpu.intrinsics import take
from ssmlab.ops._cpu.maths import exp
from ssmlab.ops._cpu.threads import run_tasks
from ssmlab.ops.selective_scan.cpu.tile import Array

_CHANNELS = 128  # of a task
_LOG2E = 1.4426950408889634


def make_constants(model: LanguageModel) -> tuple[Array, Array]:
    """As the weights are now, float32.

    Returns:
        A log2(e), which makes an exponential a power of 2, (blocks, N, D); the taps (blocks, W, D).
    """
    ssms, taps = [], []
    for layer in model.layers:
        mixer = layer.mixer
        assert isinstance(mixer, Mamba)
        assert isinstance(mixer.ssm, S6)
        ssms.append(mixer.ssm.A_log)
        taps.append(mixer.conv1d.weight)
    channels, states = ssms[0].shape
    blocks, width = len(ssms), taps[0].shape[2]
    given = np.array([[tensor.data_ptr() for tensor in kind] for kind in (ssms, taps)], np.int64)
    A = np.empty((blocks, states, channels), np.float32)
    out = np.empty((blocks, width, channels), np.float32)
    taken = np.zeros(1, np.int64)
    tasks = blocks * -(-channels // _CHANNELS)
    run_tasks(
        lambda _: _transform(given, A, out, taken, tasks), min(torch.get_num_threads(), tasks)
    )
    return A, out


def addresses(array: Array) -> Array:
    """Where the parts of an array (blocks, ...) lie, one for each block."""
    return array.ctypes.data + np.arange(len(array)) * array.strides[0]


@kernel(__file__, *(str(m.__file__) for m in (intrinsics, sync)))
def _transform(given: Any, A: Any, taps: Any, taken: Any, tasks: Any) -> None:
    """Takes tasks, counted in taken[0], until there are no more."""
    blocks, N, D = A.shape
    W = taps.shape[1]
    exact = np.empty(_CHANNELS * N, np.float64)
    task = take(taken)
    while task < tasks:
        block, d0 = task % blocks, task // blocks * _CHANNELS
        d1 = min(d0 + _CHANNELS, D)
        # In float64, so that an exponent is rounded once.
        rows = carray(pointer(given[0, block]), (D * N,))[d0 * N : d1 * N]
        for i in range(rows.shape[0]):
            exact[i] = -exp(np.float64(rows[i])) * _LOG2E
        weight = carray(pointer(given[1, block]), (D, W))
        for n in range(N):
            for d in range(d0, d1):
                A[block, n, d] = np.float32(exact[(d - d0) * N + n])
        for w in range(W):
            for d in range(d0, d1):
                taps[block, w, d] = weight[d, w]
        task = take(taken)
