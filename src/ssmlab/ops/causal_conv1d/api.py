"""The public causal convolution: checks, choice of backend, call.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from ssmlab.ops._checks import (
    check_cu_seqlens,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
    sequence_bounds,
    shape_text,
)
from ssmlab.ops.causal_conv1d.checks import check_activation, check_filter, check_state
from ssmlab.ops.causal_conv1d.custom_op import forward_op
from ssmlab.ops.causal_conv1d.reference import causal_conv1d_reference, final_state

BACKENDS = ("cpu", "reference")


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor: ...
@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    *,
    return_final_state: Literal[True],
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution over time: each channel sees its last W inputs.

    y[b, t, d] = act(bias[d] + sum over k < W of weight[d, k] * x[b, t - (W-1) + k, d]), where x
    before the start is ``initial_state`` or zero. The convolution of the Mamba block (section 3.4
    and figure 3 of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces").

    Args:
        x: (B, L, D), L >= 1; float32, bfloat16, float16 or float64. Sums are taken in float32
            (float64 if any of x, weight, bias is float64).
        weight: (D, W), W >= 1, last tap on the present input; any of those dtypes.
        bias: (D,) or None.
        activation: None, or "silu" (the same as "swish").
        initial_state: the W-1 inputs before the first, oldest first: (B, W-1, D), or (S, W-1, D)
            with ``cu_seqlens``; converted to x's dtype. None: zeros.
        return_final_state: also return the last W-1 inputs of each sequence, to go on from.
        cu_seqlens: (S+1,) int32 or int64 offsets 0, ..., L of S sequences packed along L, with B = 1.
            Nothing crosses from one sequence into the next.
        backend: "cpu" (Numba), "reference" (plain torch, any device, differentiable twice) or
            None: the fastest that works for the tensors given.

    Returns:
        y (B, L, D), or (y, final_state) with final_state (B or S, W-1, D); all of x's dtype.
        A sequence shorter than W-1 keeps the newest rows of its initial state in the final one.

    Raises:
        ValueError: shapes, dtypes, devices or offsets that do not fit, or a backend that cannot
            run on these tensors.
    """
    y = masked_causal_conv1d(
        "causal_conv1d", x, weight, bias, activation, initial_state, cu_seqlens, None, backend
    )
    if not return_final_state:
        return y
    if initial_state is not None:
        initial_state = initial_state.to(x.dtype)
    return y, final_state(x, weight.shape[1], initial_state, cu_seqlens)


def masked_causal_conv1d(
    operator: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    backend: str | None,
) -> Tensor:
    """y of :func:`causal_conv1d`, with ``seq_idx`` (B, L) too, which excludes states.

    ``operator`` is the public function that messages name.
    """
    check_tensor(operator, "x", x)
    check_dims(operator, "x", x, (3,), "batch, length and channels")
    batch, length, channels = x.shape
    if length < 1:
        raise ValueError(
            f"{operator}: x has length {length}, in the shape {shape_text(x.shape)} of batch, "
            f"length and channels; expected a length of at least 1, so leave empty inputs out"
        )
    silu = check_activation(operator, activation)
    width = check_filter(operator, x, channels, weight, bias)
    letter, sequences = "B", batch
    if cu_seqlens is not None:
        check_cu_seqlens(operator, cu_seqlens, batch)
        letter, sequences = "S", cu_seqlens.shape[0] - 1
    if seq_idx is not None:
        check_tensor(operator, "seq_idx", seq_idx)
        check_shape(operator, "seq_idx", seq_idx, (batch, length), "(B, L)")
        check_dtype(operator, "seq_idx", seq_idx, (torch.int32, torch.int64))
    check_device(operator, x.device, cu_seqlens=cu_seqlens, seq_idx=seq_idx)
    if initial_state is not None:
        shape = (sequences, width - 1, channels)
        check_state(operator, "initial_state", x, initial_state, shape, f"({letter}, W-1, D)")
        initial_state = initial_state.to(x.dtype)
    if choose_backend(operator, x, backend) == "cpu":
        return forward_op(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)
    if cu_seqlens is not None and x.device.type == "cpu" and not torch.compiler.is_compiling():
        sequence_bounds(operator, cu_seqlens, length)
    return causal_conv1d_reference(x, weight, bias, initial_state, cu_seqlens, seq_idx, silu)


def choose_backend(operator: str, x: Tensor, backend: str | None) -> str:
    """The backend to run, "cpu" or "reference"; an impossible wish is a ValueError."""
    if backend is None:
        return "cpu" if x.device.type == "cpu" and cpu_backend_error() is None else "reference"
    if backend not in BACKENDS:
        raise ValueError(
            f"{operator}: backend is {backend!r}, expected one of {', '.join(BACKENDS)}, or None "
            f"for the fastest that works"
        )
    if backend == "cpu":
        if x.device.type not in ("cpu", "meta"):
            raise ValueError(
                f"{operator}: backend 'cpu' works on CPU tensors, given ones are on {x.device}; "
                f"leave backend out, or use 'reference'"
            )
        error = cpu_backend_error()
        if error is not None:
            raise ValueError(
                f"{operator}: backend 'cpu' does not work here: {error}; install numba, or use "
                f"backend='reference'"
            )
    return backend


@torch.compiler.assume_constant_result
def cpu_backend_error() -> str | None:
    """None when the Numba backend can run, else the reason why not. Imports Numba."""
    try:
        import ssmlab.ops.causal_conv1d.cpu  # noqa: F401
    except Exception as error:  # a broken Numba fails in many ways; plain torch still works
        return f"{type(error).__name__}: {error}"
    return None
