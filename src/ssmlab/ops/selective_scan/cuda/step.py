"""Launching one step of the recurrence for decoding.

Shapes: B batch, D channels, N state, G groups of channels, P slots of a pool of states.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

from ssmlab.ops._cuda import COMMON, ROWS, KernelSource, load_kernel

_FILES = (COMMON, ROWS, Path(__file__).parent / "kernels" / "step.cu")
_NAMES = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "fp16"}
_VECTOR = 4  # states a thread takes at once, where their number allows it


@functools.cache
def step_source(dtype: torch.dtype, state: torch.dtype, vector: int) -> KernelSource:
    """The kernel for activations of ``dtype`` and a state of dtype ``state``."""
    return KernelSource(_FILES, f"scan_step<{_NAMES[dtype]}, {_NAMES[state]}, {vector}>")


def step_variants() -> list[KernelSource]:
    """All of them, for the compile check."""
    pairs = {(dtype, state) for dtype in _NAMES for state in (dtype, torch.float32)}
    ordered = sorted(pairs, key=str)
    return [step_source(*pair, vector) for pair in ordered for vector in (_VECTOR, 1)]


def supports(state: Tensor, u: Tensor, A: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernel computes a step in these dtypes: real and of at most float32.

    A state narrower than float32 must be of the one dtype of all activations (``u``, ``others``).
    """
    given = (state, u, A, *(t for t in others if t is not None))
    if any(t.dtype not in _NAMES for t in given):
        return False
    return state.dtype == torch.float32 or all(t.dtype == state.dtype for t in given if t is not A)


def step(
    source: Tensor,
    target: Tensor,
    slots: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """y (B, D); ``target`` takes the states that follow ``source``, which may be the same tensor.

    Arguments are checked already: source (P, D, N) contiguous, its rows named by ``slots`` (B,) if
    given; target is source or (B, D, N); B and C are (B, G, N), or constant (1, D, N).
    """
    batch, channels = u.shape
    n = A.shape[1]
    y = torch.empty((batch, channels), dtype=u.dtype, device=u.device)
    if y.numel() == 0:
        return y
    # Activations of several dtypes meet in float32.
    activations = [t for t in (u, delta, B, C, z) if t is not None]
    mixed = any(t.dtype != u.dtype for t in activations)
    if mixed:
        u, delta, B, C = (t.to(torch.float32) for t in (u, delta, B, C))
        z = None if z is None else z.to(torch.float32)
    out = torch.empty_like(y, dtype=u.dtype) if mixed else y
    u, B, C = _side_by_side(u), _side_by_side(B), _side_by_side(C)
    z = None if z is None else _side_by_side(z)
    A = A.to(torch.float32).contiguous()
    vector = _VECTOR if n % _VECTOR == 0 and _is_aligned(source, target, A) else 1
    # Eight states a thread, or two where they are not loaded four at once.
    lanes = 1
    while lanes < 32 and lanes * vector * 2 < n:
        lanes *= 2
    packed = (
        vector > 1
        and _is_aligned(B, C)
        and all(stride % _VECTOR == 0 for t in (B, C) for stride in t.stride()[:2])
    )
    in_place = target.data_ptr() == source.data_ptr()
    load_kernel(step_source(u.dtype, source.dtype, vector), u.device)(
        (
            *(source, target, slots, u, delta, z, A, B, C, _single(D), _single(delta_bias), out),
            *(u.stride(0), delta.stride(0), delta.stride(1), 0 if z is None else z.stride(0)),
            *_strides(B, channels),
            *_strides(C, channels),
            *(batch, channels, n, lanes),
            *(int(slots is not None and slots.dtype == torch.int64), int(in_place)),
            *(int(delta_softplus), int(packed)),
        ),
        (-(-channels // (128 // lanes)) * batch, 1, 1),
        128,
        device=u.device,
    )
    return y.copy_(out) if mixed else y


def _side_by_side(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _single(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def _strides(factor: Tensor, channels: int) -> tuple[int, int, int]:
    """Strides over the batch (0 for a constant) and the groups, and channels a group."""
    batch_stride = 0 if factor.shape[0] == 1 else factor.stride(0)
    return batch_stride, factor.stride(1), channels // factor.shape[1]


def _is_aligned(*tensors: Tensor) -> bool:
    return all(t.data_ptr() % (_VECTOR * t.element_size()) == 0 for t in tensors)
