"""Forward and backward of the inside of a Mamba block, out of the compiled backends' passes.

Shapes: B batch, L length, D channels, K what the state is kept as (N reals, or N/2 complex numbers),
R rank of Δ, P = R + N + N rows of x_proj, M model width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops.causal_conv1d import custom_op as conv
from ssmlab.ops.selective_scan import backends as scan


class Weights(NamedTuple):
    """The parameters, in the order that the operators take them; see ``mamba_inner``."""

    conv: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor | None
    dt_proj: Tensor | None
    dt_bias: Tensor
    A: Tensor
    B: Tensor | None
    C: Tensor | None
    D: Tensor
    out_proj: Tensor
    out_bias: Tensor | None

    def sizes(self) -> tuple[int, int, int]:
        """Rows of x_proj for Δ, B and C, each 0 where that is not made from the input."""
        n = self.A.shape[1] * (2 if self.A.is_complex() else 1)
        rank = 0 if self.dt_proj is None else self.dt_proj.shape[1]
        return rank, n if self.B is None else 0, n if self.C is None else 0


class Signals(NamedTuple):
    """What the scan takes: u (B, L, D) out of the convolution and what is made from it."""

    u: Tensor
    low: Tensor | None  # (B, L, P), x_proj's output
    delta: Tensor  # (B, L, D)
    B: Tensor
    C: Tensor


def signals(x: Tensor, weights: Weights, cu_seqlens: Tensor | None, backend: str) -> Signals:
    """Convolution and projections of x (B, L, D): cheap next to the memory that they fill."""
    u = conv.module(backend).forward(
        x, weights.conv, weights.conv_bias, None, cu_seqlens, None, True
    )
    low, parts = None, (u, u, u)
    if weights.x_proj is not None:
        low = F.linear(u, weights.x_proj)
        parts = low.split(weights.sizes(), dim=-1)
    if weights.dt_proj is None:
        delta = u.new_zeros(()).expand_as(u)
    else:
        delta = F.linear(parts[0], weights.dt_proj)
    B = _pairs(parts[1], weights) if weights.B is None else weights.B
    C = _pairs(parts[2], weights) if weights.C is None else weights.C
    return Signals(u, low, delta, B, C)


def _pairs(factor: Tensor, weights: Weights) -> Tensor:
    """Complex numbers out of neighbouring reals, where A is complex."""
    if not weights.A.is_complex():
        return factor
    wide = factor.to(torch.promote_types(factor.dtype, torch.float32))
    return torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())


def _unpairs(grad: Tensor, low: Tensor) -> Tensor:
    """A gradient of what ``_pairs`` made, as one of low's columns."""
    return (torch.view_as_real(grad).flatten(-2) if grad.is_complex() else grad).to(low.dtype)


def run_scan(
    s: Signals, z: Tensor, weights: Weights, cu_seqlens: Tensor | None, save: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """y (B, L, D), gated, and the states that the backward pass of the scan starts from."""
    y, _, kept = scan.module(backend).forward(
        *(s.u, s.delta, weights.A, s.B, s.C, weights.D, z, weights.dt_bias, None, cu_seqlens),
        True,
        save,
    )
    return y, kept


def forward(
    xz: Tensor, weights: Weights, cu_seqlens: Tensor | None, keep_scan: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The output (B, L, M), and y and states if ``keep_scan``, else two empty tensors."""
    x, z = xz.chunk(2, dim=-1)
    y, kept = run_scan(
        signals(x, weights, cu_seqlens, backend), z, weights, cu_seqlens, keep_scan, backend
    )
    out = F.linear(y, weights.out_proj, weights.out_bias)
    return (out, y, kept) if keep_scan else (out, y.new_empty(0), y.new_empty(0))


def backward(
    grad: Tensor,
    y: Tensor,
    kept: Tensor,
    xz: Tensor,
    weights: Weights,
    cu_seqlens: Tensor | None,
    keep_scan: bool,
    backend: str,
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of xz and of the weights, each of what it belongs to in dtype and shape."""
    x, z = xz.chunk(2, dim=-1)
    s = signals(x, weights, cu_seqlens, backend)
    if not keep_scan:
        y, kept = run_scan(s, z, weights, cu_seqlens, True, backend)

    grad = grad.to(y.dtype)
    dy = grad @ weights.out_proj
    dout_proj = _rows(grad).t() @ _rows(y)
    dout_bias = None if weights.out_bias is None else _rows(grad).sum(0)
    del y
    du, ddelta, dA, dB, dC, dD, dz, ddt_bias, _ = scan.module(backend).backward(
        *(dy, None, kept, s.u, s.delta, weights.A, s.B, s.C, weights.D, z, weights.dt_bias),
        *(None, cu_seqlens, True),
    )
    del dy, kept
    ddt_proj = dx_proj = None
    if s.low is not None and weights.x_proj is not None:
        parts = []
        if weights.dt_proj is not None:
            low_rank = s.low[..., : weights.dt_proj.shape[1]]
            parts.append(ddelta @ weights.dt_proj)
            ddt_proj = _rows(ddelta).t() @ _rows(low_rank)
        parts += [_unpairs(dB, s.low)] if weights.B is None else []
        parts += [_unpairs(dC, s.low)] if weights.C is None else []
        dlow = _rows(torch.cat(parts, dim=-1))
        dx_proj = dlow.t() @ _rows(s.u)
        du = torch.addmm(_rows(du), dlow, weights.x_proj).view_as(s.u)
    dxz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    dx_half, dz_half = dxz.chunk(2, dim=-1)
    _copy(dz, dz_half)
    del ddelta, dz
    dconv, dconv_bias = _conv_backward(du, x, weights, cu_seqlens, dx_half, backend)
    return dxz, [
        *(dconv, dconv_bias, dx_proj, ddt_proj, ddt_bias, dA),
        *(dB if weights.B is not None else None, dC if weights.C is not None else None),
        *(dD, dout_proj, dout_bias),
    ]


def _conv_backward(
    du: Tensor,
    x: Tensor,
    weights: Weights,
    cu_seqlens: Tensor | None,
    dx: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the filter and its bias; that of x is written to ``dx``, half of a tensor."""
    module = conv.module(backend)
    args = (du, x, weights.conv, weights.conv_bias, None, cu_seqlens, None, True)
    if backend == "cuda":
        _, dweight, dbias, _ = module.backward(*args, dx=dx)
    else:
        written, dweight, dbias, _ = module.backward(*args)
        dx.copy_(written)
    return dweight, None if weights.conv_bias is None else dbias


def _copy(source: Tensor, half: Tensor) -> None:
    """Write ``source`` to a half of wider rows, 16 bytes at a time where that divides them."""
    wide = torch.complex128
    per = wide.itemsize // source.element_size()
    fits = source.is_contiguous() and not any(
        place % per for place in (source.shape[-1], half.storage_offset(), *half.stride()[:-1])
    )
    if fits and source.is_cuda:
        source, half = source.view(wide), half.view(wide)
    half.copy_(source)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
