"""The inside of a Mamba block as one function: convolution, SiLU, projections, scan, gate, output.

Shapes: B batch, L length, D channels, W width of the convolution, K what the state is kept as (N
reals, or N/2 complex numbers), R rank of Δ, M model width, S packed sequences.
"""

from typing import Literal

import torch
from torch import Tensor

from ssmlab.ops._checks import (
    check_cu_seqlens,
    check_device,
    check_dims,
    check_shape,
    check_tensor,
    shape_text,
)
from ssmlab.ops._constants import constant_when_compiled
from ssmlab.ops.mamba_inner import operator
from ssmlab.ops.mamba_inner.passes import Weights
from ssmlab.ops.selective_scan.backends import choose_backend

_NAME = "mamba_inner"
RECOMPUTE = ("inputs", "scan")


@constant_when_compiled
def inner_backend(device: torch.device, dtype: torch.dtype, asked: str | None = None) -> str | None:
    """The compiled backend that the fused block runs on, None where there is none.

    Args:
        device: where the tensors are.
        dtype: of xz.
        asked: a backend by name, instead of the fastest.

    Raises:
        ValueError: the backend asked for is unknown or does not work there.
    """
    chosen = choose_backend(asked, device)
    # The convolution's kernels for a GPU have no float64.
    narrow = device.type != "cuda" or dtype != torch.float64
    return chosen if narrow and chosen != "reference" else None


def mamba_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj_weight: Tensor | None,
    dt_proj_weight: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    recompute: Literal["inputs", "scan"] = "scan",
    backend: str | None = None,
) -> Tensor:
    """out_proj(scan(u, Δ, A, B, C, D) * silu(z)) with u = silu(conv(x)), (x, z) the halves of xz.

    The same numbers as the operators one after another, with less kept for the backward pass. Of
    what depends on the input it keeps, per channel of xz: xz itself and, with ``recompute``
    "inputs", the scan's gated output and some of its states; u, Δ, B and C are made again. With
    "scan", the scan is run again as well and only xz is kept: 8 bytes per token and channel of the
    model in bfloat16 for a block that expands by 2. Under autocast, xz and the projections are
    converted as ``torch.nn.Linear`` would.

    Args:
        xz: (B, L, 2D), float32, bfloat16 or float16; on the CPU float64 too.
        conv_weight: (D, W); conv_bias: (D,) or None.
        x_proj_weight: (R + N + N, D): rows for Δ, B, C in that order, without those that are
            constant; None if all are.
        dt_proj_weight: (D, R), None for a Δ that does not depend on the input; dt_bias: (D,), added
            before the softplus.
        A: (D, K), real or complex. B, C: None where made from the input, else constant (D, K);
            complex ones are made from pairs of neighbouring rows of x_proj.
        D: (D,). out_proj_weight: (M, D); out_proj_bias: (M,) or None.
        cu_seqlens: (S + 1,) int32 or int64 offsets of S sequences packed along the length, B = 1.
        recompute: "inputs" or "scan", what the backward pass makes again.
        backend: "cpu" or "cuda"; by default that of xz's device.

    Returns:
        (B, L, M), in the dtype of xz (autocast's under autocast).

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or no compiled backend works there.

    Source: arXiv 2312.00752, section 3.4, figure 3 (the block) and appendix D (what is made again).
    """
    weights = Weights(
        *(conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_bias),
        *(A, B, C, D, out_proj_weight, out_proj_bias),
    )
    _check(xz, weights, cu_seqlens, recompute)
    chosen = inner_backend(xz.device, xz.dtype, backend)
    if chosen is None:
        raise ValueError(
            f"{_NAME}: no compiled backend works for {xz.dtype} on {xz.device}; use the operators "
            f"one after another"
        )
    if torch.is_autocast_enabled(xz.device.type):
        dtype = torch.get_autocast_dtype(xz.device.type)
        xz = xz.to(dtype)
        linear = (x_proj_weight, dt_proj_weight, out_proj_weight, out_proj_bias)
        cast = [None if w is None else w.to(dtype) for w in linear]
        weights = weights._replace(
            x_proj=cast[0], dt_proj=cast[1], out_proj=cast[2], out_bias=cast[3]
        )
    needs = any(t is not None and t.requires_grad for t in (xz, *weights))
    keep_scan = recompute == "inputs" and torch.is_grad_enabled() and needs
    return operator.run(xz, weights, cu_seqlens, keep_scan, chosen)


def _check(xz: Tensor, weights: Weights, cu_seqlens: Tensor | None, recompute: str) -> None:
    check_tensor(_NAME, "xz", xz)
    check_dims(_NAME, "xz", xz, (3,), "(B, L, 2D)")
    check_dims(_NAME, "A", weights.A, (2,), "(D, K)")
    channels, states = weights.A.shape
    batch, length, _ = xz.shape
    if min(batch, length) == 0:
        raise ValueError(
            f"{_NAME}: xz is (B, L, 2D) = {shape_text(xz.shape)}; expected every size to be at "
            f"least 1"
        )
    check_shape(_NAME, "xz", xz, (batch, length, 2 * channels), "(B, L, 2D), D from A")
    rows = sum(weights.sizes())
    width, model = weights.conv.shape[-1], weights.out_proj.shape[0]
    rank = 0 if weights.dt_proj is None else weights.dt_proj.shape[-1]
    for name, value, shape, why in (
        ("conv_weight", weights.conv, (channels, width), "(D, W), D from A"),
        ("conv_bias", weights.conv_bias, (channels,), "(D,)"),
        ("x_proj_weight", weights.x_proj, (rows, channels), "(rows for Δ, B and C, D)"),
        ("dt_proj_weight", weights.dt_proj, (channels, rank), "(D, R)"),
        ("dt_bias", weights.dt_bias, (channels,), "(D,)"),
        ("B", weights.B, (channels, states), "(D, K), constant"),
        ("C", weights.C, (channels, states), "(D, K), constant"),
        ("D", weights.D, (channels,), "(D,)"),
        ("out_proj_weight", weights.out_proj, (model, channels), "(M, D)"),
        ("out_proj_bias", weights.out_bias, (model,), "(M,)"),
    ):
        if value is not None:
            check_tensor(_NAME, name, value)
            check_shape(_NAME, name, value, shape, why)
    if weights.x_proj is None and rows:
        raise ValueError(
            f"{_NAME}: x_proj_weight is None, expected ({rows}, {channels}): Δ, B or C is made from "
            f"the input; pass it, or constant B and C and no dt_proj_weight"
        )
    if cu_seqlens is not None:
        check_cu_seqlens(_NAME, cu_seqlens, batch)
    if recompute not in RECOMPUTE:
        raise ValueError(
            f"{_NAME}: recompute is {recompute!r}, expected one of {', '.join(RECOMPUTE)}"
        )
    check_device(_NAME, xz.device, **dict(zip(Weights._fields, weights, strict=True)))
