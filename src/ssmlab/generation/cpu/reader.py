"""Reading texts into a state on the CPU: products and kernels one after the other, in memory that
all blocks share.

What it saves: between two products the model's own way calls Python a few hundred times for each
block, with all its data pushed out of the caches by the product before.

Shapes: B rows, L length, T tokens of all, S texts, M model width, D channels, N state, R rank of Δ,
W taps, V vocabulary.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.blocks.calls import is_plain
from ssmlab.blocks.mamba import Mamba, MambaState
from ssmlab.blocks.residual import RMSNorm
from ssmlab.generation.cpu import decoder, reading
from ssmlab.generation.cpu.constants import addresses, make_constants
from ssmlab.mixers.s6 import S6
from ssmlab.models.language_model import LanguageModel, LayerStates
from ssmlab.ops._checks import sequence_bounds
from ssmlab.ops._cpu.threads import run_entry
from ssmlab.ops.causal_conv1d import kernels as convolution
from ssmlab.ops.selective_scan.cpu.plan import plan_of
from ssmlab.ops.selective_scan.cpu.tile import Array


def unsupported(model: LanguageModel) -> str | None:
    """Why this cannot read for ``model``; None if it can."""
    if torch.is_grad_enabled():
        return "gradients are enabled"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is enabled"
    if "prefill" in vars(model):
        return "its prefill was replaced"
    for module in model.modules():
        if not is_plain(module):
            return "a hook watches a module, or its call was replaced"
        if type(module).__module__.partition(".")[0] not in ("ssmlab", "torch"):
            return f"it has a {type(module).__name__} of yours"
    return decoder.unsupported(model)


def read(
    model: LanguageModel, input_ids: Tensor, state: LayerStates, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, LayerStates]:
    """As ``model.prefill``: :func:`unsupported` must have said None.

    Args:
        input_ids: (B, L) int64.
        state: of B rows, or with ``cu_seqlens`` of S; not written to.
        cu_seqlens: (S+1,) int32 offsets of S texts packed along L, with B = 1.

    Returns:
        logits (B or S, V) of the token after each text, and the new state.
    """
    run = _Run(model, input_ids, state, cu_seqlens)
    for block in range(len(model.layers) - 1):
        run.read(block)
    return run.end()


class _Tensors(NamedTuple):
    """What blocks write one after another: (T, ...) each."""

    residual: Tensor  # M
    normed: Tensor  # M
    xz: Tensor  # 2D: the inputs of the convolution, the gate
    x: Tensor  # D
    signals: Tensor  # R + 2N: Δ's low rank, B, C
    delta: Tensor  # D; then the scan's y, which takes the place of the Δ it was made from


class _Run:
    """One text, or several, on their way through the blocks."""

    def __init__(
        self,
        model: LanguageModel,
        input_ids: Tensor,
        before: LayerStates,
        cu_seqlens: Tensor | None,
    ) -> None:
        self.model, self._layers = model, list[Any](model.layers)
        batch, length = input_ids.shape
        if cu_seqlens is None:
            bounds = range(0, batch * length + 1, length)
        else:
            bounds = sequence_bounds("reading", cu_seqlens, length)
        self._bounds = np.array(bounds, np.int64)
        residual = F.embedding(input_ids.flatten(), model.embedding.weight)
        self._tensors = _make_tensors(model, residual)
        # Addresses keep nothing alive: all that the table names is kept here.
        self._before = [
            MambaState(s.conv.float().contiguous(), s.ssm.float().contiguous()) for s in before
        ]
        self._after = [MambaState(*map(torch.empty_like, s)) for s in self._before]
        self._constants = make_constants(model)
        self._table = self._make_table(batch, length, cu_seqlens is not None)

    def read(self, block: int) -> None:
        """Add to the residual stream what a block gives."""
        residual, normed, xz, _, _, y = self._tensors
        mixer = self._layers[block].mixer
        self._launch(reading.norm, block, reading.NORM_TASKS)
        _product(normed, mixer.in_proj, xz)
        self._mix(block)
        weight, bias = mixer.out_proj.weight, mixer.out_proj.bias
        residual.addmm_(y, weight.t())
        if bias is not None:
            residual += bias

    def end(self) -> tuple[Tensor, LayerStates]:
        """Of the last block only what the tokens after the texts are made from."""
        residual, normed, xz, x, _, y = self._tensors
        block, channels = len(self._layers) - 1, x.shape[1]
        mixer = self._layers[block].mixer
        last = torch.from_numpy(self._bounds[1:] - 1)
        self._launch(reading.norm, block, reading.NORM_TASKS)
        half = xz.view(-1)[: x.numel()].view_as(x)
        _product(normed, mixer.in_proj, half, 0, channels)
        self._mix(block)
        z = _product(normed[last], mixer.in_proj, None, channels, 2 * channels)
        out = _product(y[last] * F.silu(z), mixer.out_proj)
        return self.model.head(residual[last] + out), self._after

    def _mix(self, block: int) -> None:
        """From what in_proj gave to the output of the scan, which takes the place of delta."""
        _, _, _, x, signals, delta = self._tensors
        ssm = self._layers[block].mixer.ssm
        self._launch(reading.convolve, block, reading.CONV_TASKS)
        _product(x, ssm.x_proj, signals)
        torch.mm(signals[:, : ssm.sizes[0]], ssm.dt_proj.weight.t(), out=delta)
        self._launch(reading.scan, block, reading.SCAN_TASKS)

    def _launch(self, function: Any, block: int, tasks: int) -> None:
        row = self._table[block]
        run_entry(reading.entry(function), row.ctypes.data, int(row[tasks]))

    def _make_table(self, batch: int, length: int, packed: bool) -> Array:
        """A row for each block; see ``reading``."""
        tokens, width = self._tensors.residual.shape
        ssm = self._layers[0].mixer.ssm
        channels, states = ssm.A_log.shape
        bounds = tuple(self._bounds.tolist()) if packed else None
        self._plan = plan_of(batch, length, channels, states, bounds=bounds)
        A, taps = self._constants
        self._eps = np.array([layer.norm.eps for layer in self._layers], np.float32)
        shared = {
            reading.TOKENS: tokens,
            reading.LENGTH: length,
            reading.TEXTS: len(self._bounds) - 1,
            reading.MODEL: width,
            reading.CHANNELS: channels,
            reading.STATES: states,
            reading.RANK: ssm.sizes[0],
            reading.TAPS: taps.shape[1],
            reading.NORM_TASKS: -(-tokens // reading.NORM_ROWS),
            reading.CONV_TASKS: convolution.tasks(tokens, channels),
            reading.SCAN_TASKS: len(self._plan.tasks),
            reading.RESIDUAL: self._tensors.residual.data_ptr(),
            reading.NORMED: self._tensors.normed.data_ptr(),
            reading.SIGNALS: self._tensors.signals.data_ptr(),
            reading.X: self._tensors.x.data_ptr(),
            reading.DELTA: self._tensors.delta.data_ptr(),
            reading.BOUNDS: self._bounds.ctypes.data,
            reading.SEQUENCES: self._plan.sequences.ctypes.data,
            reading.SCAN_PLAN: self._plan.tasks.ctypes.data,
            reading.XZ: self._tensors.xz.data_ptr(),
            reading.ROW: 2 * channels,
            reading.GATED: 1,
        }
        table = np.zeros((len(self._layers), reading.COLUMNS), np.int64)
        table[:, list(shared)] = list(shared.values())
        table[-1, [reading.ROW, reading.GATED]] = channels, 0
        for column, array in ((reading.A, A), (reading.TAPS_AT, taps), (reading.EPS, self._eps)):
            table[:, column] = addresses(array)
        own = reading.NORM, reading.CONV_BIAS, reading.SKIP, reading.DT_BIAS
        table[:, list(own)] = [_addresses(layer) for layer in self._layers]
        before = reading.CONV_BEFORE, reading.SSM_BEFORE
        after = reading.CONV_AFTER, reading.SSM_AFTER
        for columns, values in ((before, self._before), (after, self._after)):
            table[:, list(columns)] = [[t.data_ptr() for t in state] for state in values]
        return table


def _addresses(layer: Any) -> list[int]:
    norm, mixer = layer.norm, layer.mixer
    assert isinstance(norm, RMSNorm)
    assert isinstance(mixer, Mamba)
    ssm = mixer.ssm
    assert isinstance(ssm, S6)
    tensors = norm.weight, mixer.conv1d.bias, ssm.D, ssm.dt_proj.bias
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _make_tensors(model: LanguageModel, residual: Tensor) -> _Tensors:
    block, width = model.config.mamba, model.config.d_model
    channels = block.d_inner(width)
    signals = block.dt_rank(width) + 2 * block.ssm.d_state
    sizes = width, 2 * channels, channels, signals, channels
    return _Tensors(residual, *(residual.new_empty(len(residual), size) for size in sizes))


def _product(
    x: Tensor,
    layer: torch.nn.Linear,
    out: Tensor | None = None,
    first: int = 0,
    end: int | None = None,
) -> Tensor:
    """x (T, K) through a linear layer, or through the rows ``first`` to ``end`` of its weight."""
    weight = layer.weight[first:end].t()
    bias: Tensor | None = layer.bias
    if bias is None:
        return torch.mm(x, weight, out=out)
    return torch.addmm(bias[first:end], x, weight, out=out)
