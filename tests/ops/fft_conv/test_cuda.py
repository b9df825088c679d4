"""The long convolution on a GPU: which way is taken, both against the sum, same bits, graphs."""

import pytest
import torch

from ssmlab.ops._cuda.recording import record
from ssmlab.ops.fft_conv import api, fft_conv, fft_conv_reference, products
from ssmlab.ops.fft_conv.fft import conv_by_fft
from ssmlab.ops.fft_conv.products import conv_by_products

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIXTEEN_BITS = [torch.bfloat16, torch.float16]


def arguments(batch, length, channels, taps, dtype):
    g = torch.Generator().manual_seed(length)
    u = torch.randn(batch, length, channels, generator=g).to("cuda", dtype)
    k = torch.randn(channels, min(taps, length), generator=g).cuda() / taps**0.5
    return [x.requires_grad_() for x in (u, k, torch.randn(channels, generator=g).cuda())]


@pytest.mark.parametrize(
    ("batch", "length", "k_dtype", "u_dtype", "taken"),
    [
        (16, 512, torch.float32, torch.bfloat16, "products"),
        (16, 512, torch.float16, torch.float16, "products"),
        (16, 512, torch.float64, torch.bfloat16, "fft"),
        (16, 512, torch.float32, torch.float32, "fft"),
        (1, 512, torch.float32, torch.bfloat16, "fft"),
        (16, 4096, torch.float32, torch.bfloat16, "fft"),
    ],
)
def test_which_way(batch, length, k_dtype, u_dtype, taken, monkeypatch):
    monkeypatch.setattr(api, "_LEAST", 16 * 512 * 4)
    calls = []
    for name, function in (("products", conv_by_products), ("fft", conv_by_fft)):
        monkeypatch.setattr(
            api,
            f"conv_by_{name}",
            lambda *args, name=name, function=function: calls.append(name) or function(*args),
        )
    u, k, D = arguments(batch, length, 4, length, u_dtype)
    fft_conv(u, k.to(k_dtype), D)
    assert calls == [taken]


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"),
    [(1, 1, 1, 1), (2, 5, 3, 2), (3, 513, 5, 513), (64, 512, 40, 512), (2, 300, 33, 64)],
)
def test_products_against_the_sum(dtype, batch, length, channels, taps, monkeypatch):
    monkeypatch.setitem(products._BLOCK_BYTES, "cuda", 1)
    inputs = arguments(batch, length, channels, taps, dtype)
    wide = [inputs[0].double(), inputs[1].to(dtype).double(), inputs[2].double()]
    wide = [x.detach().requires_grad_() for x in wide]
    y, exact = conv_by_products(*inputs), fft_conv_reference(*wide)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, inputs, grad)
    theirs = torch.autograd.grad(exact, wide, grad.double())
    eps = torch.finfo(dtype).eps
    tolerances = [2 * eps, 2 * eps, 1e-4, 1e-4]
    for one, other, tolerance in zip((y, *ours), (exact, *theirs), tolerances, strict=True):
        scale = other.square().mean().sqrt().item()
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * scale)


def test_transforms_against_the_sum():
    inputs = arguments(3, 513, 40, 513, torch.float32)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    y, exact = fft_conv(*inputs), fft_conv_reference(*wide)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, inputs, grad)
    theirs = torch.autograd.grad(exact, wide, grad.double())
    for one, other in zip((y, *ours), (exact, *theirs), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_same_bits_each_time(dtype, monkeypatch):
    monkeypatch.setattr(api, "_LEAST", 1)
    inputs = arguments(16, 512, 96, 512, dtype)
    runs = []
    for _ in range(3):
        y = fft_conv(*inputs)
        runs.append((y, *torch.autograd.grad(y, inputs, torch.ones_like(y))))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_in_a_graph(monkeypatch):
    monkeypatch.setattr(api, "_LEAST", 1)
    inputs = arguments(16, 512, 96, 512, torch.bfloat16)
    grad = torch.randn(16, 512, 96, device="cuda").bfloat16()

    def both():
        y = fft_conv(*inputs)
        return (y.detach(), *torch.autograd.grad(y, inputs, grad))

    both()
    graph, captured = record(both, grad.device)
    with torch.no_grad():
        inputs[0].mul_(-2)
        inputs[1].mul_(0.5)
    graph.replay()
    for one, other in zip(captured, both(), strict=True):
        assert torch.equal(one, other)


def test_under_autocast():
    u, k, D = arguments(16, 300, 8, 300, torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.float16):
        y = fft_conv(u, k, D)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, fft_conv(u, k, D))
