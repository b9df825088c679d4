"""The long convolution as products of matrices, on a CPU: values, gradients, dtypes, shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops.fft_conv import fft_conv_reference, products
from ssmlab.ops.fft_conv.api import _products_win
from ssmlab.ops.fft_conv.products import conv_by_products


def arguments(batch=2, length=13, channels=3, taps=13, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return (
        torch.randn(batch, length, channels, dtype=dtype),
        torch.randn(channels, min(taps, length), dtype=dtype),
        torch.randn(channels, dtype=dtype),
    )


def compare(u, k, D, **tolerance):
    """Values and all gradients against the plain sum."""
    inputs = [x.requires_grad_() for x in (u, k, D)]
    y, expected = conv_by_products(*inputs), fft_conv_reference(*inputs)
    torch.testing.assert_close(y, expected, **tolerance)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, inputs, grad)
    theirs = torch.autograd.grad(expected, inputs, grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("steps", [8, 16, 128])
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 70))
def test_any_shape_equals_the_reference(steps, batch, length, channels, taps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_STEPS", steps)
        compare(*arguments(batch, length, channels, taps), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"),
    [(1, 1, 1, 1), (2, 257, 3, 257), (1, 300, 2, 129), (3, 256, 2, 130), (2, 511, 1, 4)],
)
def test_blocks_of_the_size_in_use(batch, length, channels, taps):
    compare(*arguments(batch, length, channels, taps), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("skip", [True, False])
def test_gradients(skip, monkeypatch):
    monkeypatch.setattr(products, "_STEPS", 8)
    u, k, D = (x.requires_grad_() for x in arguments(2, 19, 3, 12))
    assert torch.autograd.gradcheck(conv_by_products, (u, k, D) if skip else (u, k))


def test_blocks_of_channels_change_nothing(monkeypatch):
    u, k, D = arguments(2, 9, 70, 9)
    monkeypatch.setitem(products._BLOCK_BYTES, "cpu", 1)
    assert [s.stop for s in products._Cut(u, 9).channels()] == [24, 48, 70]
    compare(u, k, D, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_one_gradient_wanted(wanted):
    alone, together = arguments(), [x.requires_grad_() for x in arguments()]
    alone[wanted].requires_grad_()
    conv_by_products(*alone).square().sum().backward()
    conv_by_products(*together).square().sum().backward()
    assert [x.grad is not None for x in alone] == [i == wanted for i in range(3)]
    torch.testing.assert_close(alone[wanted].grad, together[wanted].grad)


def test_strides_are_free():
    u, k, D = arguments(2, 11, 4, 11)
    strided = torch.cat([u, u], -1)[..., :4]
    turned = u.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    columns = k.t().contiguous().t()
    for other in (strided, turned):
        assert not other.is_contiguous()
        assert torch.equal(conv_by_products(other, columns, D), conv_by_products(u, k, D))
    one = torch.ones(1, 1, 1, dtype=u.dtype).expand(u.shape)
    inputs = [x.requires_grad_() for x in (u, k, D)]
    expanded = torch.autograd.grad(conv_by_products(*inputs), inputs, one)
    for x, y in zip(
        expanded,
        torch.autograd.grad(conv_by_products(*inputs), inputs, one.contiguous()),
        strict=True,
    ):
        assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(dtype, autocast):
    """Taps are rounded once; of the rest, only results are."""
    u, k, D = arguments(2, 200, 5, 200, torch.float32)
    k = k * 0.05
    inputs = [u.to(dtype).requires_grad_(), k.requires_grad_(), D.requires_grad_()]
    wide = [inputs[0].double(), k.to(dtype).double(), D.double()]
    wide = [x.detach().requires_grad_() for x in wide]
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    grad = torch.randn_like(u).to(dtype)
    with torch.autocast("cpu", dtype=other, enabled=autocast):
        y = conv_by_products(*inputs)
        ours = torch.autograd.grad(y, inputs, grad)
    exact = fft_conv_reference(*wide)
    theirs = torch.autograd.grad(exact, wide, grad.double())
    assert [y.dtype, *(x.dtype for x in ours)] == [dtype, dtype, torch.float32, torch.float32]
    # The convolution is rounded, then its sum with the skip: half a unit of each's last place.
    unit = torch.finfo(dtype).eps / 2 * 1.02
    bound = unit * (exact.abs() + fft_conv_reference(*wide[:2]).abs() * 1.01) + 1e-5
    assert ((y - exact).abs() <= bound).all()
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=4 * unit, atol=8 * unit)
    for one, expected in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one.double(), expected, rtol=1e-5, atol=1e-4)


def test_only_the_inputs_are_kept_for_the_backward_pass():
    kept = []
    u, k, D = (x.requires_grad_() for x in arguments(2, 64, 8, 64, torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        conv_by_products(u, k, D)
    assert sum(t.numel() * t.element_size() for t in kept) <= 4 * (u.numel() + k.numel() + 8)


# torch's compiler makes an instance of the function to trace it, of which torch warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled():
    inputs = [x.requires_grad_() for x in arguments(2, 300, 4, 300, torch.float32)]
    compiled = torch.compile(conv_by_products, backend="aot_eager", fullgraph=True)
    y, expected = compiled(*inputs), conv_by_products(*inputs)
    torch.testing.assert_close(y, expected)
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_where_products_are_taken():
    assert _products_win(64, 512, 384)
    assert _products_win(256, 128, 768)
    assert not _products_win(16, 512, 768)  # so little that starting products takes longer
    assert not _products_win(32, 1024, 768)  # twice the arithmetic
