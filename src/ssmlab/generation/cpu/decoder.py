"""The CPU decoder: a model's weights by address, a batch's states, one compiled call a step.

Shapes: B rows, M model width, D channels, N state, W taps, V vocabulary.
"""

import functools
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmlab.blocks.mamba import Mamba, MambaState
from ssmlab.generation.cpu import fetching, kernel
from ssmlab.generation.cpu.constants import addresses, make_constants
from ssmlab.mixers.s6 import S6
from ssmlab.models.language_model import LanguageModel, LayerStates
from ssmlab.models.plain import not_plain_mamba
from ssmlab.ops._cpu.compiling import address_of
from ssmlab.ops._cpu.intrinsics import LINE
from ssmlab.ops._cpu.team import find_team

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_locks: dict[int, threading.Lock] = {}


def unsupported(model: LanguageModel) -> str | None:
    """Why this decoder cannot run ``model``; None if it can."""
    if os.name != "posix":
        return "it needs a POSIX system"
    on_cpu, weights = model.embedding.weight.device.type == "cpu", list(model.parameters())
    if not on_cpu or any(p.dtype != torch.float32 for p in weights):
        return "it needs float32 weights on the CPU"
    if not all(p.is_contiguous() for p in weights):
        return "it needs contiguous weights"
    return not_plain_mamba(model)


class CpuDecoder:
    """Steps a batch in place: made from a state, asked for it back at the end.

    Weights are read where they are: changes in place count from the next step on, but for A
    and the convolution, which are copied. One step at a time in a process.

    Arguments:
        model: float32, on the CPU; :func:`unsupported` must have said None.
        state: of B rows.
    """

    def __init__(self, model: LanguageModel, state: LayerStates) -> None:
        self.model = model
        self._kept: list[Any] = []
        self._table = self._make_table()
        channels = model.config.mamba.d_inner(model.config.d_model)
        self.threads = max(1, min(torch.get_num_threads(), channels // LINE))
        self._weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
        self._set_state(state)

    def step(self, input_ids: Tensor) -> Tensor:
        """input_ids (B,) int64 -> logits (B, V) of the token after each, in fresh memory."""
        with _lock():
            self._buffers.ids[:] = input_ids.detach().numpy()
            way = self._trial.way() if self._trial else 0
            self._sizes = self._sizes._replace(ahead=way)
            start = time.perf_counter()
            if not self._run_on_team():
                self._run_on_pool()
            if self._trial:
                self._trial.add(way, time.perf_counter() - start)
        return torch.from_numpy(self._buffers.logits.copy())

    def _run_on_team(self) -> bool:
        """Whether torch's threads could be had."""
        team = find_team() if self.threads > 1 else None
        if team is None:
            return False
        call = kernel.call_table(self._buffers, self._sizes, team.size, team.number)
        team.start(_entry(), call.ctypes.data, self.threads, 0)
        return not call[kernel.TOO_FEW]

    def _run_on_pool(self) -> None:
        helpers: list[Future[None]] = []
        complete = False
        try:
            for thread in range(1, self.threads):
                # One by one, so that an interruption finds all that were started.
                arguments = (self._buffers, self._sizes, thread)
                helpers.append(_pool(self.threads).submit(kernel.decode, *arguments))
            kernel.decode(self._buffers, self._sizes, 0)
            complete = True
        finally:
            # Ctrl-C between two of these lines must not leave threads waiting for ever.
            self._buffers.counter[1] = not complete
            for helper in helpers:
                helper.result()
            self._buffers.counter[:] = 0

    def state(self) -> LayerStates:
        """The state after the last step, in fresh memory, as the model's own ``step`` has it."""
        conv = torch.from_numpy(self._buffers.conv)
        ssm = torch.from_numpy(self._buffers.ssm)
        return [
            MambaState(
                conv[i].clone(), ssm[i].transpose(1, 2).clone(memory_format=torch.contiguous_format)
            )
            for i in range(len(self._table))
        ]

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch alone."""
        self._make_buffers(self._buffers.conv[:, rows], self._buffers.ssm[:, rows])

    def row_state(self, row: int) -> LayerStates:
        """The state of one row, as a batch of one."""
        conv = torch.from_numpy(self._buffers.conv[:, row : row + 1].copy())
        ssm = torch.from_numpy(self._buffers.ssm[:, row : row + 1].copy())
        return [
            MambaState(conv[i], ssm[i].transpose(1, 2).contiguous())
            for i in range(len(self._table))
        ]

    def _set_state(self, state: LayerStates) -> None:
        conv = torch.stack([layer.conv for layer in state]).detach().float().numpy()
        ssm = torch.stack([layer.ssm for layer in state]).detach().float()
        self._make_buffers(conv, ssm.transpose(2, 3).contiguous().numpy())

    def _make_buffers(self, conv: Any, ssm: Any) -> None:
        config, block = self.model.config, self.model.config.mamba
        batch, threads = conv.shape[1], self.threads
        self._sizes = size = kernel.Sizes(
            config.d_model,
            block.d_inner(config.d_model),
            block.ssm.d_state,
            block.dt_rank(config.d_model),
            block.d_conv,
            config.vocab_size,
            len(self._table),
            batch,
            threads,
            ahead=0,
        )
        self._trial = fetching.find_trial(self._weight_bytes, batch, threads)
        signals = size.rank + 2 * size.states

        def empty(*shape: int) -> Any:
            return np.empty(shape, np.float32)

        self._buffers = kernel.Buffers(
            ids=np.zeros(batch, np.int64),
            embedding=_array(self.model.embedding.weight),
            head=_array(self.model.lm_head.weight),
            norm_f=_array(self.model.norm_f.weight),
            eps=np.full(1, config.norm_eps, np.float32),
            table=self._table,
            conv=np.ascontiguousarray(conv),
            ssm=np.ascontiguousarray(ssm),
            residual=empty(threads, batch, size.model),
            normed=empty(threads, batch, size.model),
            xz=empty(batch, 2 * size.channels),
            low_rank=empty(threads, batch, signals),
            signals=empty(threads, batch, signals),
            delta=empty(batch, size.channels),
            out=empty(batch, size.model),
            logits=empty(batch, size.vocabulary),
            counter=np.zeros(2, np.int64),
            slices=_cuts(size.channels, threads),
            widths=_cuts(size.model, threads),
            rows=_cuts(size.vocabulary, threads),
        )

    def _make_table(self) -> Any:
        A, taps = make_constants(self.model)
        table = np.array([self._addresses(layer) for layer in self.model.layers], np.int64)
        for column, array in ((kernel.A, A), (kernel.CONV, taps)):
            table[:, column] = addresses(array)
            self._kept.append(array)
        return table

    def _addresses(self, layer: Any) -> list[int]:
        """A row of the table, without what is made anew."""
        mixer: Mamba = layer.mixer
        ssm = mixer.ssm
        assert isinstance(ssm, S6)
        assert ssm.x_proj is not None
        tensors: dict[int, Tensor | None] = {
            kernel.NORM: layer.norm.weight,
            kernel.IN: mixer.in_proj.weight,
            kernel.IN_BIAS: mixer.in_proj.bias,
            kernel.CONV_BIAS: mixer.conv1d.bias,
            kernel.X: ssm.x_proj.weight,
            kernel.DT: ssm.dt_proj.weight,
            kernel.DT_BIAS: ssm.dt_proj.bias,
            kernel.SKIP: ssm.D,
            kernel.OUT: mixer.out_proj.weight,
            kernel.OUT_BIAS: mixer.out_proj.bias,
        }
        kept = [tensors.get(column) for column in range(kernel.COLUMNS)]
        # A view keeps the memory alive even if the model is given other parameters meanwhile.
        self._kept += [tensor.detach() for tensor in kept if tensor is not None]
        return [0 if tensor is None else tensor.data_ptr() for tensor in kept]


def _array(parameter: Tensor) -> Any:
    return parameter.detach().numpy()


def _cuts(count: int, threads: int) -> Any:
    """Bounds that give each thread a share of whole cache lines."""
    lines = -(-count // LINE)
    return np.minimum(np.arange(threads + 1) * lines // threads * LINE, count).astype(np.int64)


@functools.cache
def _entry() -> int:
    return address_of(kernel.enter, *kernel.SOURCES)


def _lock() -> threading.Lock:
    # All threads of a step must run at once, so a process makes one step at a time. A forked child
    # may have got its parent's lock closed: it makes its own.
    return _locks.setdefault(os.getpid(), threading.Lock())


def _pool(threads: int) -> ThreadPoolExecutor:
    # A forked child has no threads of its parent's pool: it gets its own.
    key = (os.getpid(), threads)
    if key not in _pools:
        helpers = max(1, threads - 1)
        pool = ThreadPoolExecutor(helpers, thread_name_prefix="ssmlab-decode")
        # A thread that cannot be made must show now, not when the others wait for it.
        together = threading.Barrier(helpers)
        for started in [pool.submit(together.wait) for _ in range(helpers)]:
            started.result()
        _pools[key] = pool
    return _pools[key]
