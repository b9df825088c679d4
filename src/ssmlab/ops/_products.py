"""Products of matrices whose sums are kept wider than their operands."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_narrow(x: Tensor, wide: torch.dtype) -> bool:
    """Whether products take operands of x's 16 bits, with sums in ``wide``; on a CPU those are no
    faster, often slower."""
    return x.is_cuda and x.itemsize == 2 and wide == torch.float32


def entry_dtype(dtype: torch.dtype, wide: torch.dtype) -> torch.dtype:
    """Of a product's entries that are made operands of ``dtype`` later only: in float16 they could
    overflow as they are."""
    return dtype if dtype == torch.bfloat16 else wide


def batched_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b, batches of matrices (3-d or more), summed in ``out``'s dtype or wider.

    ``out`` may be strided if its batches are one to a view. On CUDA 16-bit operands give float32
    sums as they are; elsewhere they are widened first.
    """
    a, b, out = a.flatten(0, -3), b.flatten(0, -3), out.view(-1, *out.shape[-2:])
    if a.is_cuda and a.dtype != out.dtype:
        write_into(out, torch.bmm, a, b, out_dtype=out.dtype)
    else:
        write_into(out, torch.bmm, a.to(out.dtype), b.to(out.dtype))


def write_into(out: Tensor, function: Callable[..., Tensor], *args: Tensor, **options: Any) -> None:
    """function(*args, out=out); torch.compile takes no strided ``out``, and fuses a copy."""
    if torch.compiler.is_compiling():
        out.copy_(function(*args, **options))
    else:
        function(*args, **options, out=out)
