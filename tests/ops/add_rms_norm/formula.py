"""Random inputs, and how far the operator's results are from the formula in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssmlab.ops import add_rms_norm

# Of the norm of a result: all in float32, and something in 16 bits.
TOLERANCE = {False: 2e-6, True: 8e-3}
EPS = 1e-5


def inputs(
    shape: Sequence[int], types: Sequence[torch.dtype | None], device: str
) -> tuple[Tensor | None, Tensor, Tensor]:
    """x (None if its type is), residual and weight."""
    g = torch.Generator().manual_seed(sum(shape))
    scale = (1.0, 2.0, 0.25)
    x, residual, weight = (
        None
        if dtype is None
        else torch.randn(size, generator=g, dtype=torch.float64) * factor + (size == shape[-1:])
        for dtype, factor, size in zip(types[:3], scale, (shape, shape, shape[-1:]), strict=True)
    )
    return tuple(  # type: ignore[return-value]
        None if t is None else t.to(device, dtype).requires_grad_()
        for t, dtype in zip((x, residual, weight), types, strict=False)
    )


def differences(
    shape: Sequence[int], types: Sequence[torch.dtype | None], device: str
) -> dict[str, float]:
    """Distance of each result from the formula, relative to the result's norm.

    ``types`` are those of x, residual, weight and y.
    """
    x, residual, weight = inputs(shape, types, device)
    y, total = add_rms_norm(x, residual, weight, EPS, types[3])
    assert y.dtype == types[3]
    assert total.dtype == residual.dtype
    assert y.shape == total.shape == residual.shape
    given = {"x": x, "residual": residual, "weight": weight}
    given = {name: tensor for name, tensor in given.items() if tensor is not None}
    g = torch.Generator().manual_seed(sum(shape) + 1)
    dy, dtotal = (
        torch.randn(t.shape, generator=g, dtype=torch.float64).to(device, t.dtype)
        for t in (y, total)
    )
    grads = torch.autograd.grad((y, total), tuple(given.values()), (dy, dtotal))

    wide = {name: t.detach().double().requires_grad_() for name, t in given.items()}
    h = wide["residual"] + wide["x"] if x is not None else wide["residual"]
    h.retain_grad()
    # From the sum on, what the stream holds: its rounding is measured by itself.
    held = h + (total.double() - h).detach()
    rms = (held.square().mean(-1, keepdim=True) + EPS).sqrt()
    expected = held / rms * wide["weight"]
    wanted = torch.autograd.grad(
        (expected, h), tuple(wide.values()), (dy.double(), dtotal.double())
    )
    found = {"y": _distance(y, expected), "sum": _distance(total, h)}
    # Where terms cancel, as they do in rows of one number and in a weight's sum over rows, the error
    # is of their size.
    terms = dtotal.double().norm() + (dy.double() / rms).norm()
    of_weight = (dy.double() * held / rms).abs().sum_to_size(given["weight"].shape).norm()
    for name, grad, want in zip(given, grads, wanted, strict=True):
        assert grad.dtype == given[name].dtype
        least = float((of_weight if name == "weight" else terms).detach())
        found[f"gradient of {name}"] = _distance(grad, want, least)
    return found


def _distance(a: Tensor, b: Tensor, least: float = 0) -> float:
    size = max(float(b.detach().norm()), least)
    return float((a.detach().double() - b.detach()).norm()) / (size or 1.0)
