"""The residual stream between the blocks of a stack: additions and norms in one pass over memory.

A block's output is not added to the stream at once: it is handed on ("pending"), and the next norm
adds it and reads the sum. Blocks run so only where nobody could tell but by the clock.

Shapes: M model width.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from ssmlab.blocks.calls import is_plain
from ssmlab.blocks.h3 import H3
from ssmlab.blocks.hyena import Hyena
from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mlp import GatedMLP
from ssmlab.blocks.plain_mlp import PlainMLP
from ssmlab.blocks.residual import ResidualBlock, RMSNorm
from ssmlab.mixers.attention import Attention
from ssmlab.mixers.linear import Linear
from ssmlab.ops import add_rms_norm
from ssmlab.ops.add_rms_norm.cuda import works as kernels_work

# The one layer of each mixer that reads its input.
_READERS: dict[type[nn.Module], str] = {
    Attention: "in_proj",
    GatedMLP: "fc1",
    H3: "in_proj",
    Hyena: "in_proj",
    Mamba: "in_proj",
    PlainMLP: "fc1",
}


def settle(residual: Tensor, pending: Tensor | None) -> Tensor:
    """The stream with what is pending added, both (..., M)."""
    return residual if pending is None else residual + pending.to(residual.dtype)


def fuses(layer: nn.Module, residual: Tensor) -> TypeGuard[ResidualBlock]:
    """Whether ``layer`` may be run as its norm, by :func:`read_block`, and its mixer."""
    return type(layer) is ResidualBlock and _norm_fuses(layer.norm, residual) and is_plain(layer)


def read_block(
    layer: ResidualBlock, residual: Tensor, pending: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The input of a block's mixer and the stream with ``pending`` added; only if it ``fuses``."""
    name = _READERS.get(type(layer.mixer))
    reader = getattr(layer.mixer, name) if name and is_plain(layer.mixer) else None
    return _add_norm(layer.norm, residual, pending, reader)


def read_last(
    norm: nn.Module, residual: Tensor, pending: Tensor | None, reader: nn.Module | None = None
) -> Tensor:
    """The norm of the stream after the last block, for ``reader`` alone if one is given."""
    if _norm_fuses(norm, residual):
        return _add_norm(norm, residual, pending, reader)[0]
    return norm(settle(residual, pending))


def _add_norm(
    norm: nn.Module, residual: Tensor, pending: Tensor | None, reader: nn.Module | None
) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, RMSNorm)
    dtype = norm.weight.dtype
    place = residual.device.type
    # A linear layer would round its input to autocast's dtype: done here, that saves a pass.
    if (
        dtype == torch.float32
        and torch.is_autocast_enabled(place)
        and type(reader) is Linear
        and is_plain(reader)
    ):
        dtype = torch.get_autocast_dtype(place)
    return add_rms_norm(pending, residual, norm.weight, norm.eps, dtype)


def _norm_fuses(norm: nn.Module, residual: Tensor) -> bool:
    if type(norm) is not RMSNorm:
        return False
    return kernels_work(residual.device, residual.dtype, norm.weight.dtype) and is_plain(norm)
