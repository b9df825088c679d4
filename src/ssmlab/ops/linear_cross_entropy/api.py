"""Cross-entropy of a linear head, a few rows of logits at a time.

Shapes: T tokens, M model width, V vocabulary.
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
from ssmlab.ops.linear_cross_entropy import operator

_NAME = "linear_cross_entropy"


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Mean of -log softmax(weight hidden)[target] over the tokens that count.

    The logits of all tokens, V numbers each, are most of a small language model's memory. Here they
    are made for some tokens at a time, and with them at once their part of the gradients, so that
    no more is kept than the gradients of ``hidden`` and ``weight``. Matrix products run in
    autocast's dtype under autocast, all else in float32 (float64 for float64 tensors). The same
    as ``F.cross_entropy(F.linear(hidden, weight).float(), targets)`` up to rounding;
    differentiable once.

    Args:
        hidden: (T, M), float32, bfloat16, float16 or float64.
        weight: (V, M), of any of those dtypes.
        targets: (T,) int64, 0 <= target < V, or ``ignore_index`` where none counts. On a GPU the
            range is not checked and a number out of it gives an unspecified loss.
        ignore_index: the target of tokens that do not count.

    Returns:
        0-d float32 (float64): nats per token; NaN if no token counts, as in PyTorch.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a target is out of range.
    """
    for name, value in (("hidden", hidden), ("weight", weight), ("targets", targets)):
        check_tensor(_NAME, name, value)
    check_dims(_NAME, "hidden", hidden, (2,), "(T, M)")
    check_dims(_NAME, "weight", weight, (2,), "(V, M)")
    check_shape(_NAME, "weight", weight, (weight.shape[0], hidden.shape[1]), "(V, M), M of hidden")
    check_shape(_NAME, "targets", targets, (hidden.shape[0],), "(T,), T of hidden")
    check_dtype(_NAME, "hidden", hidden, REAL_DTYPES)
    check_dtype(_NAME, "weight", weight, REAL_DTYPES)
    check_dtype(_NAME, "targets", targets, (torch.int64,))
    check_device(_NAME, hidden.device, weight=weight, targets=targets)
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = ((targets < 0) | (targets >= weight.shape[0])) & (targets != ignore_index)
        if wrong.any():
            raise ValueError(
                f"{_NAME}: targets holds {int(targets[wrong][0])}, expected 0 to "
                f"{weight.shape[0] - 1}, or {ignore_index} where no target counts"
            )
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    save = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return operator.loss(hidden, weight, targets, ignore_index, dtype, save)
