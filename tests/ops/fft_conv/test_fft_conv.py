"""The long convolution against its plain sum: values, gradients, dtypes, shapes, memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops.fft_conv import fft, fft_conv, fft_conv_reference
from ssmlab.ops.fft_conv.fft import transform_length


def arguments(batch=2, length=13, channels=3, taps=13, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return (
        torch.randn(batch, length, channels, dtype=dtype),
        torch.randn(channels, taps, dtype=dtype),
        torch.randn(channels, dtype=dtype),
    )


def by_hand(u, k, D):
    y = torch.zeros_like(u)
    for t in range(u.shape[1]):
        for j in range(min(t + 1, k.shape[1])):
            y[:, t] += k[:, j] * u[:, t - j]
    return y + D * u


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (2, 5), (5, 2), (7, 7), (12, 40)])
def test_both_forms_equal_the_sum(length, taps):
    u, k, D = arguments(length=length, taps=taps)
    expected = by_hand(u, k, D)
    torch.testing.assert_close(fft_conv(u, k, D), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(fft_conv_reference(u, k, D), expected, rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 90))
def test_any_shape_equals_the_reference(batch, length, channels, taps):
    u, k, D = arguments(batch, length, channels, taps)
    torch.testing.assert_close(
        fft_conv(u, k, D), fft_conv_reference(u, k, D), rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (6, 3), (5, 9)])
@pytest.mark.parametrize("skip", [True, False])
def test_gradients(length, taps, skip):
    u, k, D = (x.requires_grad_() for x in arguments(2, length, 3, taps))
    assert torch.autograd.gradcheck(fft_conv, (u, k, D) if skip else (u, k))


def test_blocks_of_channels_change_nothing(monkeypatch):
    u, k, D = (x.requires_grad_() for x in arguments(2, 9, 50, 9))
    y = fft_conv(u, k, D)
    whole = torch.autograd.grad(y.square().sum(), (u, k, D))
    monkeypatch.setitem(fft._BLOCK_BYTES, "cpu", 1)
    assert len(fft._blocks(u, 18, u.dtype)) == 4
    z = fft_conv(u, k, D)
    parts = torch.autograd.grad(z.square().sum(), (u, k, D))
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-13)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_only_one_gradient_wanted():
    u, k, D = arguments()
    (alone,) = torch.autograd.grad(fft_conv(u, k.requires_grad_(), D).sum(), k)
    k2 = k.detach().clone().requires_grad_()
    fft_conv(u.requires_grad_(), k2, D).sum().backward()
    torch.testing.assert_close(alone, k2.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_in_and_out_fp32_inside(dtype):
    u, k, D = arguments(2, 200, 5, 200, torch.float32)
    k = k * 0.05
    low = u.to(dtype)
    y = fft_conv(low, k, D)
    assert y.dtype == dtype
    exact = fft_conv_reference(low.double(), k.double(), D.double())
    # One rounding of the result, at most half a unit of the dtype's last place.
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.02, atol=1e-5)


def test_strides_and_autocast():
    u, k, D = arguments(2, 11, 4, 11, torch.float32)
    strided = torch.cat([u, u], -1)[..., :4]
    assert not strided.is_contiguous()
    assert torch.equal(fft_conv(strided, k, D), fft_conv(u, k, D))
    expected = fft_conv(u, k, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fft_conv(u, k, D), expected)


def test_same_bits_each_time():
    u, k, D = arguments(3, 100, 40, 100, torch.float32)
    assert torch.equal(fft_conv(u, k, D), fft_conv(u, k, D))


def test_poison_after_t_does_not_reach_what_is_before():
    u, k, D = arguments()
    u2 = u.clone()
    u2[:, 8:] += 100
    torch.testing.assert_close(fft_conv(u, k, D)[:, :8], fft_conv(u2, k, D)[:, :8])


def test_only_the_inputs_are_kept_for_the_backward_pass():
    kept = []
    u, k, D = (x.requires_grad_() for x in arguments(2, 64, 8, 64, torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fft_conv(u, k, D)
    assert sum(t.numel() * t.element_size() for t in kept) <= 4 * (u.numel() + k.numel())


@pytest.mark.parametrize("least", [1, 2, 3, 7, 17, 127, 255, 257, 1000, 4095, 12345])
def test_transform_length(least):
    def smooth(n):
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        return n == 1

    assert transform_length(least) == next(
        n for n in range(max(2, least), 4 * least + 4) if n % 2 == 0 and smooth(n)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"u": torch.zeros(2, 3)}, r"u has 2 dimensions.*\(B, L, D\)"),
        ({"k": torch.zeros(4, 5)}, r"k has shape \(4, 5\), expected \(3, 5\)"),
        ({"k": torch.zeros(3, 0)}, "at least 1"),
        ({"k": torch.zeros(3, 5, dtype=torch.complex64)}, "k is complex64, expected one of"),
        ({"D": torch.zeros(2)}, r"D has shape \(2,\), expected \(3,\)"),
        ({"u": [1.0]}, "u is a list, expected a torch.Tensor"),
        ({"k": torch.zeros(3, 5, device="meta")}, "k is on meta"),
    ],
)
def test_bad_input_is_named(change, said):
    u, k, D = arguments(dtype=torch.float32)
    with pytest.raises(ValueError, match=said):
        fft_conv(**{"u": u, "k": k, "D": D, **change})
