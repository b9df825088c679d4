"""The Mamba block run as one operator that makes most of it again in the backward pass.

Shapes: B batch, L length, M model width, D channels.
"""

from types import NoneType
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ssmlab.mixers.linear import Linear
from ssmlab.mixers.s6 import S6
from ssmlab.ops import mamba_inner
from ssmlab.ops.mamba_inner import inner_backend

if TYPE_CHECKING:
    from ssmlab.blocks.mamba import Mamba


def recompute_level(block: "Mamba", xz: Tensor) -> Literal["inputs", "scan"] | None:
    """What ``block`` makes again for in_proj's output ``xz``; None where it runs unfused."""
    level = block.config.recompute
    if level == "auto":
        level = "scan" if xz.device.type == "cuda" else "none"
    ssm = block.ssm
    if level == "none" or not torch.is_grad_enabled() or type(ssm) is not S6:
        return None
    if ssm.config.selective_A:  # the operator has no such factor
        return None
    # A projection that somebody replaced or wrapped must be called, not read.
    if type(ssm.x_proj) not in (Linear, NoneType) or type(block.out_proj) is not Linear:
        return None
    backend = inner_backend(xz.device, xz.dtype)
    return None if backend is None else level


def run_fused(
    block: "Mamba", xz: Tensor, cu_seqlens: Tensor | None, level: Literal["inputs", "scan"]
) -> Tensor:
    """xz (B, L, 2D) -> y (B, L, M): all of ``block`` after in_proj."""
    ssm = block.ssm
    assert isinstance(ssm, S6)
    A, B, C = ssm.constants()
    return mamba_inner(
        xz,
        block.conv1d.weight.squeeze(1),
        block.conv1d.bias,
        None if ssm.x_proj is None else ssm.x_proj.weight,
        ssm.dt_proj.weight,
        ssm.dt_proj.bias,
        *(A, B, C, ssm.D),
        block.out_proj.weight,
        block.out_proj.bias,
        cu_seqlens,
        recompute=level,
    )
