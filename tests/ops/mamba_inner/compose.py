"""The inside of a Mamba block out of single operators, and inputs for it.

Shapes: B batch, L length, D channels, N state, R rank of Δ, M model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops import causal_conv1d, selective_scan

SIZES = {"batch": 2, "length": 37, "channels": 12, "states": 4, "rank": 3, "model": 6}
OUT_PROJ = 9  # place of out_proj_weight among the weights


def compose(xz: Tensor, weights: list[Tensor | None], cu_seqlens: Tensor | None = None) -> Tensor:
    """What ``mamba_inner`` computes; weights in the order of its arguments."""
    conv, conv_bias, x_proj, dt_proj, dt_bias, A, B, C, D, out_proj, out_bias = weights
    x, z = xz.chunk(2, dim=-1)
    u = causal_conv1d(x, conv, conv_bias, "silu", cu_seqlens=cu_seqlens)
    n = A.shape[1]
    sizes = [
        0 if dt_proj is None else dt_proj.shape[1],
        n if B is None else 0,
        n if C is None else 0,
    ]
    parts = (u, u, u) if x_proj is None else F.linear(u, x_proj).split(sizes, dim=-1)
    delta = u.new_zeros(()).expand_as(u) if dt_proj is None else F.linear(parts[0], dt_proj)
    y = selective_scan(
        *(u, delta, A, parts[1] if B is None else B, parts[2] if C is None else C, D),
        z=z,
        delta_bias=dt_bias,
        delta_softplus=True,
        cu_seqlens=cu_seqlens,
    )
    return F.linear(y, out_proj, out_bias)


def inputs(
    dtype: torch.dtype = torch.float32,
    *,
    selective: str = "dBC",
    biases: bool = True,
    width: int = 4,
    device: str = "cpu",
    seed: int = 0,
    **sizes: int,
) -> tuple[Tensor, list[Tensor | None]]:
    """xz and the weights, of which the letters in ``selective`` (d for Δ) depend on the input."""
    s = {**SIZES, **sizes}
    g = torch.Generator().manual_seed(seed)
    D, N, R, M = s["channels"], s["states"], s["rank"], s["model"]
    wide = torch.promote_types(dtype, torch.float32)

    def draw(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
        value = torch.randn(*shape, generator=g, dtype=torch.float64) * scale
        return value.to(device, kind).requires_grad_()

    def maybe(wanted: bool, *shape: int, **options) -> Tensor | None:
        return draw(*shape, **options) if wanted else None

    rank = R if "d" in selective else 0
    rows = rank + N * (("B" in selective) + ("C" in selective))
    A = (-torch.rand(D, N, generator=g, dtype=torch.float64) * 2 - 0.1).to(device, wide)
    weights = [
        draw(D, width, scale=0.5, kind=wide),
        maybe(biases, D, kind=wide),
        maybe(rows > 0, rows, D, scale=D**-0.5),
        maybe(rank > 0, D, R, scale=0.5),
        draw(D, kind=wide),
        A.requires_grad_(),
        maybe("B" not in selective, D, N, kind=wide),
        maybe("C" not in selective, D, N, kind=wide),
        draw(D, kind=wide),
        draw(M, D, scale=D**-0.5),
        maybe(biases, M),
    ]
    return draw(s["batch"], s["length"], 2 * D), weights
