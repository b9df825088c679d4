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


def room(vocabulary: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for the head's matrix (V or up to 63 more, M), what is beyond V filled with zeros.

    The rows of logits that it makes start where the kernel can load 16 bytes.
    """
    w = torch.empty(-(-vocabulary // 64) * 64, width, dtype=dtype, device=device)
    w[vocabulary:].zero_()
    return w


def loss_rows(
    logits: Tensor, vocabulary: int, targets: Tensor, share: Tensor, ignore_index: int, save: bool
) -> Tensor:
    """Nats of each token (T,), 0 where no target counts; ``logits`` become their gradient.

    Args:
        logits: (T, V or a little more), contiguous, rows a multiple of 16 bytes; overwritten if
            ``save``, with zeros beyond V.
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
