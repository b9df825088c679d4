"""Every kernel of the causal convolution, as it is asked for at run time.

Shape letters: W width (taps), V channels a thread.
"""

import functools
from pathlib import Path

import torch

from ssmlab.ops._cuda import COMMON, ROWS, KernelSource

_FOLDER = Path(__file__).parent / "kernels"
NAMES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "fp16"}
FAST_WIDTHS = (2, 3, 4)


def _source(file: str, name: str) -> KernelSource:
    before = [COMMON, ROWS, _FOLDER / "conv.cuh"]
    if file == "backward.cu":
        before.append(_FOLDER / "forward.cu")
    return KernelSource((*before, _FOLDER / file), name)


def channels_of(pass_: str, dtype: torch.dtype) -> int:
    """V of the fast kernel of a pass, "forward" or "backward": the fastest that was measured."""
    return 4 if pass_ == "forward" and dtype.itemsize == 4 else 2


@functools.cache
def fast(pass_: str, dtype: torch.dtype, width: int, packed: bool, channels: int) -> KernelSource:
    """The kernel of ``pass_`` for a width up to 4 and ``channels`` (V) a thread."""
    template = f"{NAMES[dtype]}, {width}, {channels}, {str(packed).lower()}"
    return _source(f"{pass_}.cu", f"conv_{pass_}<{template}>")


@functools.cache
def general(kernel: str, dtype: torch.dtype) -> KernelSource:
    """``kernel`` "forward", "slope" or "backward" for any width and alignment."""
    return _source("any.cu", f"conv_{kernel}_any<{NAMES[dtype]}>")


@functools.cache
def finish() -> KernelSource:
    """The sum of partial sums."""
    return KernelSource((COMMON, _FOLDER / "finish.cu"), "conv_finish")


@functools.cache
def update(dtype: torch.dtype) -> KernelSource:
    """One step of decoding."""
    return KernelSource((COMMON, _FOLDER / "update.cu"), f"conv_update<{NAMES[dtype]}>")


def variants() -> list[KernelSource]:
    """All of them, for the compile check."""
    found = [finish()]
    for dtype in NAMES:
        for pass_ in ("forward", "backward"):
            channels = channels_of(pass_, dtype)
            for width in FAST_WIDTHS:
                found += [fast(pass_, dtype, width, packed, channels) for packed in (False, True)]
        found += [general(kernel, dtype) for kernel in ("forward", "slope", "backward")]
        found.append(update(dtype))
    return found
