"""The loss as a torch custom operator that computes its gradients while it has the logits.

Shapes: T tokens, M model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from ssmlab.ops.linear_cross_entropy import cuda

# Bytes of float32 logits at a time: large enough to keep matrix products busy.
_CHUNK_BYTES = {"cuda": 1 << 29, "cpu": 1 << 25}


def _rows_at_a_time(device: torch.device, vocabulary: int) -> int:
    rows = max(1, _CHUNK_BYTES.get(device.type, 1 << 25) // (4 * vocabulary))
    return rows if rows < 256 else rows // 256 * 256  # whole tiles of matrix products


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
    run = _by_kernel if cuda.works(hidden.device, dtype) else _by_torch
    loss, dhidden, dweight = run(hidden.to(dtype), weight, targets, ignore_index, save)
    return loss, dhidden.to(hidden.dtype), dweight.to(weight.dtype)


def _by_kernel(
    h: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients with one kernel between the matrix products."""
    vocabulary = weight.shape[0]
    # Matrix products of an odd vocabulary are slow: rows of zeros are added, which weigh nothing.
    w = cuda.room(vocabulary, weight.shape[1], h.dtype, h.device)
    w[:vocabulary].copy_(weight)
    dhidden, dweight = _gradients(h, w, save, torch.float32)
    count = (targets != ignore_index).sum()
    share = 1 / count.to(torch.float32)
    targets = targets.contiguous()
    rows = min(_rows_at_a_time(h.device, w.shape[0]), max(1, h.shape[0]))
    buffer = h.new_empty((rows, w.shape[0]))
    losses = []
    for start in range(0, h.shape[0], rows):
        part = slice(start, start + rows)
        logits = buffer[: h[part].shape[0]]
        torch.mm(h[part], w.t(), out=logits)
        losses.append(cuda.loss_rows(logits, vocabulary, targets[part], share, ignore_index, save))
        if save:
            torch.mm(logits, w, out=dhidden[part])
            dweight += logits.t() @ h[part]
    return torch.cat(losses).sum() / count, dhidden, dweight[:vocabulary]


def _gradients(h: Tensor, w: Tensor, save: bool, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Room for the gradients of h, and of w with zeros to add to; empty unless ``save``."""
    dweight = torch.zeros(w.shape if save else (0,), dtype=wide, device=w.device)
    return h.new_empty(h.shape if save else (0,)), dweight


def _by_torch(
    h: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch, for any device and float type."""
    w, wide = weight.to(h.dtype), torch.promote_types(h.dtype, torch.float32)
    counts = targets != ignore_index
    places = torch.where(counts, targets, 0).clamp(0, w.shape[0] - 1)
    share = counts.to(wide) / counts.sum()
    loss = torch.zeros((), dtype=wide, device=h.device)
    dhidden, dweight = _gradients(h, w, save, wide)
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
        slope = (slope * share[part, None]).to(h.dtype)
        del logits
        torch.mm(slope, w, out=dhidden[part])
        dweight += slope.t() @ h[part]
    return loss / counts.any().to(wide), dhidden, dweight  # 0 / 0 if no token counts


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
