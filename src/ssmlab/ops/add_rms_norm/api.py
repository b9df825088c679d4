"""Residual addition and the RMSNorm that follows it, in one pass over memory.

Shapes: M model width.
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import REAL_DTYPES, check_device, check_dtype, check_shape, check_tensor
from ssmlab.ops.add_rms_norm import operator

_NAME = "add_rms_norm"


def add_rms_norm(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """h = residual + x, and h / sqrt(mean(h²) + eps) * weight over the last dimension.

    What stands between two blocks of a pre-norm model: the block's output x is added to the residual
    stream, and the next block reads the norm of the sum. Computed in float32 (float64 if a tensor
    is), the norm from the sum as it is after rounding to the stream's dtype. Differentiable once.
    Results are the same bits in every run.

    On an NVIDIA GPU of compute capability 8.0 or newer each pass is one kernel (and a short one for
    the weight's gradient); float64, other GPUs and CPUs take plain torch.

    Args:
        x: (..., M), float32, bfloat16, float16 or float64; None: only the norm.
        residual: (..., M) of any of those dtypes.
        weight: (M,) of any of those dtypes.
        eps: added to the mean square, >= 0.
        out_dtype: the dtype of y; None: the weight's.

    Returns:
        y (..., M) of ``out_dtype`` and h (..., M) of residual's dtype (residual itself if x is None).

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or eps is negative.

    Source: Zhang and Sennrich, arXiv 1910.07467, equation (4).
    """
    for name, value in (("residual", residual), ("weight", weight)):
        check_tensor(_NAME, name, value)
    if residual.dim() == 0 or residual.shape[-1] == 0:
        raise ValueError(
            f"{_NAME}: residual has shape {tuple(residual.shape)}, expected (..., M) with M >= 1"
        )
    check_shape(_NAME, "weight", weight, residual.shape[-1:], "(M,), M of residual")
    check_dtype(_NAME, "residual", residual, REAL_DTYPES)
    check_dtype(_NAME, "weight", weight, REAL_DTYPES)
    if x is not None:
        check_tensor(_NAME, "x", x)
        check_shape(_NAME, "x", x, residual.shape, "the shape of residual")
        check_dtype(_NAME, "x", x, REAL_DTYPES)
    check_device(_NAME, residual.device, x=x, weight=weight)
    dtype = weight.dtype if out_dtype is None else out_dtype
    if dtype not in REAL_DTYPES:
        names = ", ".join(str(real).removeprefix("torch.") for real in REAL_DTYPES)
        raise ValueError(f"{_NAME}: out_dtype is {dtype}, expected one of {names}, or None")
    if not eps >= 0:
        raise ValueError(f"{_NAME}: eps is {eps}, expected a number >= 0")
    return operator.run(x, residual, weight, eps, dtype)
