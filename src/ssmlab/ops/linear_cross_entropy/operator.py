"""The loss as a torch custom operator that computes its gradients while it has the logits.

Shapes: T tokens, M model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

# Bytes of float32 logits at a time: large enough to keep matrix products busy.
_CHUNK_BYTES = {"cuda": 1 << 28, "cpu": 1 << 25}


def _rows_at_a_time(device: torch.device, vocabulary: int) -> int:
    return max(1, _CHUNK_BYTES.get(device.type, 1 << 25) // (4 * vocabulary))


@torch.library.custom_op("ssmlab::linear_cross_entropy", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients by hidden and weight (empty tensors unless ``save``)."""
    wide = torch.promote_types(dtype, torch.float32)
    h, w = hidden.to(dtype), weight.to(dtype)
    counts = targets != ignore_index
    places = torch.where(counts, targets, 0).clamp(0, w.shape[0] - 1)
    share = counts.to(wide) / counts.sum()
    loss = torch.zeros((), dtype=wide, device=h.device)
    dhidden = h.new_empty(h.shape if save else (0,))
    dweight = torch.zeros(w.shape if save else (0,), dtype=wide, device=h.device)
    rows = _rows_at_a_time(h.device, w.shape[0])
    for start in range(0, h.shape[0], rows):
        part = slice(start, start + rows)
        logits = torch.log_softmax(h[part] @ w.t(), dim=-1, dtype=wide)
        place = places[part, None]
        own = logits.gather(1, place)
        # What does not count adds 0, whatever its logits are.
        loss -= torch.where(counts[part], own[:, 0] * share[part], 0).sum()
        if not save:
            continue
        slope = logits.exp_()
        slope.scatter_(1, place, own.exp() - 1)
        slope = (slope * share[part, None]).to(dtype)
        del logits
        torch.mm(slope, w, out=dhidden[part])
        dweight += slope.t() @ h[part]
    loss = loss / counts.any().to(wide)  # 0 / 0 if no token counts
    return loss, dhidden.to(hidden.dtype), dweight.to(weight.dtype)


@_forward.register_fake
def _(hidden, weight, targets, ignore_index, dtype, save):
    loss = hidden.new_empty((), dtype=torch.promote_types(dtype, torch.float32))
    if not save:
        return loss, hidden.new_empty(0), weight.new_empty(0)
    return loss, hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, dhidden, dweight = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(dhidden, dweight)
    ctx.save_for_backward(dhidden, dweight)


def _differentiate(
    ctx: Any, grad: Tensor | None, _h: Tensor | None, _w: Tensor | None
) -> tuple[Tensor | None, ...]:
    none = (None,) * 6
    if grad is None:
        return none
    dhidden, dweight = ctx.saved_tensors
    wants_hidden, wants_weight = ctx.needs_input_grad[:2]
    return (
        (dhidden * grad).to(dhidden.dtype) if wants_hidden else None,
        (dweight * grad).to(dweight.dtype) if wants_weight else None,
        *none[2:],
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    dtype: torch.dtype,
    save: bool,
) -> Tensor:
    """The loss through the operator; arguments are checked already."""
    return torch.ops.ssmlab.linear_cross_entropy(
        hidden, weight, targets, ignore_index, dtype, save
    )[0]
