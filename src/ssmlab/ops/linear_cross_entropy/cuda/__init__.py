"""The loss of rows of logits on NVIDIA GPUs: a kernel compiled at run time.

Shapes: T tokens, V vocabulary.
"""

import torch
from torch import Tensor

from ssmlab.ops._cuda import load_kernel, unavailable_reason
from ssmlab.ops.linear_cross_entropy.cuda.variants import NAMES, loss_source

__all__ = ["loss_rows", "room", "works"]

_THREADS = 512


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel runs on ``device`` for logits of ``dtype``."""
    return device.type == "cuda" and dtype in NAMES and unavailable_reason(device.index) is None


def room(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer (rows, V or a little more) whose rows start where the kernel can load 16 bytes."""
    step = 16 // dtype.itemsize
    return torch.zeros(rows, -(-vocabulary // step) * step, dtype=dtype, device=device)


def loss_rows(
    logits: Tensor, vocabulary: int, targets: Tensor, share: Tensor, ignore_index: int, save: bool
) -> Tensor:
    """Nats of each token (T,), 0 where no target counts; ``logits`` become their gradient.

    Args:
        logits: (T, V or a little more) of ``room``; overwritten if ``save``.
        vocabulary: V.
        targets: (T,) int64.
        share: 0-d float32, the factor of each token's gradient.
        ignore_index: the target of tokens that do not count.
        save: whether the gradient is wanted.
    """
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    load_kernel(loss_source(logits.dtype), logits.device)(
        (logits, targets, share, losses, vocabulary, logits.stride(0), ignore_index, int(save)),
        (logits.shape[0], 1, 1),
        _THREADS,
        device=logits.device,
    )
    return losses
