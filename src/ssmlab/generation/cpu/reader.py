"""Reading a text into a state on the CPU: products and kernels one after the other, in memory that
all blocks share.

What it saves: between two products the model's own way calls Python a few hundred times for each
block, with all its data pushed out of the caches by the product before.

Shapes: B texts, L length, T tokens of all, M model width, D channels, N state, R rank of Δ, W taps,
V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.blocks.calls import is_plain
from ssmlab.blocks.mamba import Mamba, MambaState
from ssmlab.blocks.residual import RMSNorm
from ssmlab.generation.cpu import decoder
from ssmlab.generation.cpu.norm import add_norm
from ssmlab.mixers.s6 import S6
from ssmlab.models.language_model import LanguageModel, LayerStates
from ssmlab.ops.causal_conv1d import cpu as convolution
from ssmlab.ops.causal_conv1d.reference import final_state
from ssmlab.ops.selective_scan.cpu import launch as scan


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


class _Buffers(NamedTuple):
    """What blocks write one after another: (T, ...) each."""

    normed: Tensor  # M
    xz: Tensor  # 2D: the inputs of the convolution, the gate
    x: Tensor  # D
    signals: Tensor  # R + 2N: Δ's low rank, B, C
    delta: Tensor  # D; then the scan's y, which takes the place of the Δ it was made from
    out: Tensor  # M


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
    batch, length = input_ids.shape
    if cu_seqlens is None:
        last = torch.arange(1, batch + 1, device=input_ids.device) * length - 1
    else:
        last = cu_seqlens[1:].long() - 1
    residual, pending = F.embedding(input_ids.flatten(), model.embedding.weight), None
    buffers, states = _make_buffers(model, len(residual)), []
    for index, (layer, before) in enumerate(zip(model.layers, state, strict=True)):
        norm, mixer = layer.norm, layer.mixer
        assert isinstance(norm, RMSNorm)
        assert isinstance(mixer, Mamba)
        add_norm(pending, residual, norm.weight, norm.eps, buffers.normed)
        # Of the last block only what the tokens after the texts are made from is of use.
        final = index == len(model.layers) - 1
        states.append(_mix(mixer, buffers, (batch, length), before, cu_seqlens, gated=not final))
        if final:
            residual = residual[last] + _last_output(mixer, buffers, last)
        else:
            pending = _product(buffers.delta, mixer.out_proj, buffers.out)
    return model.head(residual), states


def _make_buffers(model: LanguageModel, tokens: int) -> _Buffers:
    block, width = model.config.mamba, model.config.d_model
    channels = block.d_inner(width)
    signals = block.dt_rank(width) + 2 * block.ssm.d_state
    sizes = width, 2 * channels, channels, signals, channels, width
    return _Buffers(*(model.embedding.weight.new_empty(tokens, size) for size in sizes))


def _mix(
    mixer: Mamba,
    buffers: _Buffers,
    shape: tuple[int, int],
    before: MambaState,
    cu_seqlens: Tensor | None,
    gated: bool,
) -> MambaState:
    """From what is normed to the output of the scan, which is left in ``buffers.delta``."""
    ssm, conv1d = mixer.ssm, mixer.conv1d
    assert isinstance(ssm, S6)
    assert ssm.x_proj is not None
    assert ssm.dt_proj.weight is not None
    _, _, x, signals, delta, _ = buffers
    channels = x.shape[1]
    if gated:
        xz = _product(buffers.normed, mixer.in_proj, buffers.xz)
        inputs, z = xz.view(*shape, -1).chunk(2, -1)
    else:
        half = buffers.xz.view(-1)[: x.numel()].view_as(x)
        inputs = _product(buffers.normed, mixer.in_proj, half, 0, channels).view(*shape, -1)
        z = None
    weight, past = conv1d.weight.squeeze(1), before.conv.float()
    convolved = convolution.forward(
        *(inputs, weight, conv1d.bias, past, cu_seqlens, None, True), out=x.view(*shape, -1)
    )
    rank, n, _, _ = ssm.sizes
    _product(x, ssm.x_proj, signals)
    torch.mm(signals[:, :rank], ssm.dt_proj.weight.t(), out=delta)
    _, B, C = signals.view(*shape, -1).split((rank, n, n), dim=-1)
    steps, bias, state = delta.view(*shape, -1), ssm.dt_proj.bias, before.ssm.float()
    _, last, _ = scan.forward(
        *(convolved, steps, ssm.constants()[0], B, C, ssm.D, z, bias, state, cu_seqlens),
        delta_softplus=True,
        save=False,
        out=steps,
    )
    return MambaState(final_state(inputs, weight.shape[1], past, cu_seqlens), last)


def _last_output(mixer: Mamba, buffers: _Buffers, rows: Tensor) -> Tensor:
    """The block's output (S, M) at some rows, from the scan's without its gate."""
    channels = buffers.x.shape[1]
    z = _product(buffers.normed[rows], mixer.in_proj, None, channels, 2 * channels)
    return _product(buffers.delta[rows] * F.silu(z), mixer.out_proj)


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
