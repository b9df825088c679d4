"""Toeplitz attention: arguments checked, and the way to compute it chosen.

Shapes: B batch, L length, H heads, E width of q and k, F width of v, T taps.
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import (
    REAL_DTYPES,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
)
from ssmlab.ops._products import is_narrow
from ssmlab.ops.toeplitz_attention import operator

_NAME = "toeplitz_attention"
# Each step has about L scores or E F outer products. A score is read and written less often: so many
# times E F scores take as long as the outer products (docs/log.md).
_SCORES = {"cpu": 4, "cuda": 2}
# Up to so many steps outer products are mixed by matrices, beyond by the FFT.
_LONGEST = {"cpu": 256, "cuda": 1024, "16 bits": 4096}


def toeplitz_attention(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """y[b, t, h] = sum over s <= t of taps[h, t - s] (q[b, t, h] · k[b, s, h]) v[b, s, h].

    Linear attention with a Toeplitz matrix T for its mask, (Q Kᵀ ⊙ T) V; and just as well a long
    convolution of the outer products k vᵀ, which q contracts. Three ways to compute it:

    - by the scores, where L <= 4 E F, 2 E F on a GPU: O(L²) a head, few passes;
    - by the outer products, which T multiplies as a matrix: as many operations times E F / (E + F),
      all of them in large products; up to 256 steps on a CPU and 1024 on a GPU, 4096 there in 16
      bits;
    - by the outer products through the FFT: O(E F L log L).

    On CUDA with bfloat16 or float16 q (taps not float64) products of the first two take operands of
    that dtype, with sums in float32, the scores' mask is float32, and T is rounded to q's dtype but
    for the first tap. Otherwise all is in float32, or float64 if q or taps are.

    Only the arguments are kept for the backward pass. Scores, outer products and spectra exist for
    some heads, some of the batch and (scores) some outputs at a time. Differentiable once
    (``toeplitz_attention_reference`` more often); deterministic.

    Args:
        q, k: (B, L, H, E), of one dtype: float32, float64, bfloat16 or float16; strides are free.
        v: (B, L, H, F), of q's dtype.
        taps: (H, T) real filter, first tap on the present step; taps from L on are not reached.

    Returns:
        y (B, L, H, F) in q's dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.

    Source: H3 with heads, arXiv 2212.14052, Algorithm 1; masked linear attention, arXiv 2405.21060,
    section 4.
    """
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_tensor(_NAME, name, value)
        check_dtype(_NAME, name, value, REAL_DTYPES)
    check_tensor(_NAME, "taps", taps)
    check_dtype(_NAME, "taps", taps, REAL_DTYPES)
    check_dims(_NAME, "q", q, (4,), "(B, L, H, E)")
    check_dims(_NAME, "v", v, (4,), "(B, L, H, F)")
    check_dims(_NAME, "taps", taps, (2,), "(H, T), T taps of each head")
    if 0 in (*q.shape, *v.shape, *taps.shape):
        raise ValueError(
            f"{_NAME}: q is (B, L, H, E) = {tuple(q.shape)}, v (B, L, H, F) = {tuple(v.shape)} and "
            f"taps (H, T) = {tuple(taps.shape)}; expected every size to be at least 1"
        )
    check_shape(_NAME, "k", k, q.shape, "(B, L, H, E), as q")
    check_shape(_NAME, "v", v, (*q.shape[:3], v.shape[3]), "(B, L, H, F), B, L and H from q")
    check_shape(_NAME, "taps", taps, (q.shape[2], taps.shape[1]), "(H, T), H from q")
    for name, value in (("k", k), ("v", v)):
        check_dtype(_NAME, name, value, (q.dtype,), "that of q")
    check_device(_NAME, q.device, k=k, v=v, taps=taps)
    wide = torch.promote_types(torch.promote_types(q.dtype, taps.dtype), torch.float32)
    return operator.run(q, k, v, taps[:, : q.shape[1]].to(wide), _form(q, v, wide))


def _form(q: Tensor, v: Tensor, wide: torch.dtype) -> operator.Form:
    length, outer = q.shape[1], q.shape[3] * v.shape[3]
    if length <= _SCORES["cuda" if q.is_cuda else "cpu"] * outer:
        return "scores"
    kind = "cpu" if not q.is_cuda else "16 bits" if is_narrow(q, wide) else "cuda"
    return "outer" if length <= _LONGEST[kind] else "fft"
