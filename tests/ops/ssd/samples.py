"""Arguments of SSD as training gives them, and values and gradients of any function of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmlab.ops.ssd import ssd_reference

NAMES = ("x", "delta", "A", "B", "C", "D", "initial_state")
SIXTEEN = (torch.bfloat16, torch.float16)


def training_like(
    batch: int, length: int, heads: int, width: int, groups: int, n: int, dtype: torch.dtype
) -> list[Tensor]:
    """In the order of ``NAMES``: x, B and C in ``dtype``, what stays wide under autocast in float32;
    Δ from 0.001 to 0.1 and A from -16 to -1, as they start."""
    g = torch.Generator().manual_seed(length + n)

    def f(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g)

    return [
        f(batch, length, heads, width).to(dtype),
        10 ** (2 * uniform(batch, length, heads) - 3),
        -(1 + 15 * uniform(heads)),
        f(batch, length, groups, n).to(dtype),
        f(batch, length, groups, n).to(dtype),
        1 + 0.1 * f(heads),
        f(batch, heads, width, n),
    ]


def output_gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    x, state = tensors[0], tensors[6]
    return [
        torch.randn(x.shape, generator=g).to(x.dtype).to(x.device),
        torch.randn(state.shape, generator=g).to(state.dtype).to(x.device),
    ]


def run(
    function: Callable[..., tuple[Tensor, Tensor]],
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> dict[str, Tensor]:
    """y, the last state and all gradients."""
    given = [t.detach().clone().requires_grad_() for t in tensors]
    y, last = function(*given)
    found = torch.autograd.grad((y, last), given, grads)
    return {"y": y.detach(), "last": last.detach(), **dict(zip(NAMES, found, strict=True))}


def assert_as_exact_as_its_inputs(
    function: Callable[..., tuple[Tensor, Tensor]], tensors: Sequence[Tensor], times: float = 2.5
) -> None:
    """Errors against the recurrence in float64 are a few roundings of ``x``'s type.

    Rounding moves a number by about 0.4 of the unit, half of eps; a result here is rounded itself,
    and its summands' factors were.
    """
    grads = output_gradients(tensors)
    found = run(function, tensors, grads)
    wide = [t.double() for t in tensors]
    expected = run(ssd_reference, wide, [t.double() for t in grads])
    unit = torch.finfo(tensors[0].dtype).eps / 2
    for name, value in found.items():
        error = (value.double() - expected[name]).norm() / expected[name].norm()
        assert error <= times * unit, (name, error.item() / unit)
