"""The kernel of the loss for each dtype of logits."""

import functools
from pathlib import Path

import torch

from ssmlab.ops._cuda import COMMON, ROWS, KernelSource

_FILES = (COMMON, ROWS, Path(__file__).parent / "kernels" / "loss.cu")
NAMES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "fp16"}


@functools.cache
def loss_source(dtype: torch.dtype) -> KernelSource:
    """The kernel for logits of ``dtype``."""
    return KernelSource(_FILES, f"loss_rows<{NAMES[dtype]}>")


def variants() -> list[KernelSource]:
    """All of them, for the compile check."""
    return [loss_source(dtype) for dtype in NAMES]
