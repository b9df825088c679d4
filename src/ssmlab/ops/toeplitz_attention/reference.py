"""Toeplitz attention as its plain sum: O(L²) memory, for tests and for eyes.

Shapes: B batch, L length, H heads, E width of q and k, F width of v, T taps.
"""

import torch
from torch import Tensor

from ssmlab.ops._filters import toeplitz_matrix


def toeplitz_attention_reference(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """What :func:`toeplitz_attention` computes, by (Q Kᵀ ⊙ T) V with the whole Toeplitz matrix T.

    Args:
        q, k: (B, L, H, E). v: (B, L, H, F). taps: (H, T). Any real dtypes; differentiable any number
            of times.

    Returns:
        y (B, L, H, F) in q's dtype; sums in the widest of the dtypes, float32 at least.
    """
    length = q.shape[1]
    dtype = torch.promote_types(torch.promote_types(q.dtype, taps.dtype), torch.float32)
    toeplitz = toeplitz_matrix(taps.to(dtype)[:, :length], length)
    scores = torch.einsum("bthe,bshe->bhts", q.to(dtype), k.to(dtype)) * toeplitz
    return torch.einsum("bhts,bshf->bthf", scores, v.to(dtype)).to(q.dtype)
