"""Every kernel of the norm, as it is asked for at run time.

Types: X of x, R of the residual stream, Y of y. V elements a vector, K vectors a thread.
"""

import functools
import itertools
from pathlib import Path

import torch

from ssmlab.ops._cuda import COMMON, ROWS, KernelSource

_FOLDER = Path(__file__).parent / "kernels"
_FILES = (COMMON, ROWS, _FOLDER / "norm.cuh")
NAMES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "fp16"}
CODES = {dtype: code for code, dtype in enumerate(NAMES)}  # as the kernels number them
_ELEMENTS = 16  # of a row in a thread: what registers hold without spills

Types = tuple[torch.dtype, torch.dtype, torch.dtype]
"""Those of x, the stream and y."""


@functools.cache
def are_fast(types: Types) -> bool:
    """Whether they have kernels of their own: all alike, or one of 16 bits beside a wide stream."""
    x, residual, y = types
    if residual == torch.float32:
        return len({*types} - {torch.float32}) <= 1
    return x == residual == y


def vector_of(types: Types) -> int:
    """V: 16 bytes of the widest type."""
    return 16 // max(dtype.itemsize for dtype in types)


def most_vectors(types: Types) -> int:
    """The largest K."""
    return _ELEMENTS // vector_of(types)


@functools.cache
def fast(pass_: str, types: Types, vectors: int) -> KernelSource:
    """The kernel of ``pass_`` "forward" or "backward" with ``vectors`` (K) a thread."""
    template = ", ".join([*(NAMES[dtype] for dtype in types), str(vector_of(types)), str(vectors)])
    return KernelSource((*_FILES, _FOLDER / "fast.cu"), f"rms_norm_{pass_}<{template}>")


@functools.cache
def general(pass_: str, vector: int) -> KernelSource:
    """That for any types and width, ``vector`` (V) 1 or 4."""
    return KernelSource((*_FILES, _FOLDER / "any.cu"), f"rms_norm_{pass_}_any<{vector}>")


@functools.cache
def finish() -> KernelSource:
    """The sum of the parts of the weight's gradient."""
    return KernelSource((*_FILES, _FOLDER / "finish.cu"), "rms_norm_finish")


def variants() -> list[KernelSource]:
    """All of them, for the compile check."""
    found = [finish()]
    for pass_ in ("forward", "backward"):
        found += [general(pass_, vector) for vector in (1, 4)]
        for types in itertools.product(NAMES, NAMES, NAMES):
            if are_fast(types):
                found += [fast(pass_, types, k + 1) for k in range(most_vectors(types))]
    return found
