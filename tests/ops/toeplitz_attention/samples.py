"""Arguments of Toeplitz attention, and values and gradients of any function of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmlab.ops.toeplitz_attention import operator, toeplitz_attention_reference

NAMES = ("q", "k", "v", "taps")
FORMS: tuple[operator.Form, ...] = ("scores", "outer", "fft")
SIXTEEN = (torch.bfloat16, torch.float16)


def arguments(
    batch: int,
    length: int,
    heads: int,
    width: int,
    values: int | None = None,
    taps: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """In the order of ``NAMES``: filters that fall and have a large first tap, as a skip makes it;
    they are of float32 at least."""
    g = torch.Generator().manual_seed(length + width)
    taps = length if taps is None else taps

    def f(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    h = f(heads, taps) / (1 + torch.arange(taps)) ** 0.5
    h[:, 0] += f(heads)
    wide = torch.promote_types(dtype, torch.float32)
    v = f(batch, length, heads, width if values is None else values)
    qk = (f(batch, length, heads, width) for _ in range(2))
    return [*(t.to(dtype) for t in (*qk, v)), h.to(wide)]


def output_gradient(tensors: Sequence[Tensor]) -> Tensor:
    g = torch.Generator().manual_seed(1)
    v = tensors[2]
    return torch.randn(v.shape, generator=g).to(v.device, v.dtype)


def run(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor
) -> dict[str, Tensor]:
    """y and all gradients."""
    given = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*given)
    found = torch.autograd.grad(y, given, grad)
    return {"y": y.detach(), **dict(zip(NAMES, found, strict=True))}


def errors(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor
) -> dict[str, float]:
    """Relative errors against the plain sum in float64, in units of roundings of q's type."""
    found = run(function, tensors, grad)
    expected = run(toeplitz_attention_reference, [t.double() for t in tensors], grad.double())
    unit = torch.finfo(tensors[0].dtype).eps / 2
    return {
        name: ((value.double() - expected[name]).norm() / expected[name].norm() / unit).item()
        for name, value in found.items()
    }


def through_the_convolution(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """The outer products through ``fft_conv``, everything rounded to q's type on the way."""
    from ssmlab.ops import fft_conv

    E, F = q.shape[3], v.shape[3]
    outer = torch.einsum("blhe,blhf->beflh", k, v).flatten(0, 2)
    mixed = fft_conv(outer, taps).unflatten(0, (-1, E, F))
    return torch.einsum("blhe,beflh->blhf", q, mixed)
