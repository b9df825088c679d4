"""Toeplitz attention in its forms against the plain sum: values, gradients, dtypes, slices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops import toeplitz_attention
from ssmlab.ops.toeplitz_attention import (
    api,
    operator,
    outer,
    scores,
    toeplitz,
    toeplitz_attention_reference,
)
from tests.ops.toeplitz_attention.samples import (
    FORMS,
    NAMES,
    SIXTEEN,
    arguments,
    errors,
    output_gradient,
    run,
    through_the_convolution,
)


def in_form(form, dtype=None):
    return lambda q, k, v, taps: operator.run(q, k, v, taps, form, dtype)


def compare(function, tensors):
    grad = output_gradient(tensors)
    expected = run(toeplitz_attention_reference, tensors, grad)
    for name, value in run(function, tensors, grad).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_the_reference_is_the_sum():
    q, k, v, taps = arguments(2, 7, 2, 3, 4, taps=5)
    y = torch.zeros_like(v)
    for t in range(7):
        for s in range(max(0, t - 4), t + 1):
            y[:, t] += taps[:, t - s, None] * (q[:, t] * k[:, s]).sum(-1, keepdim=True) * v[:, s]
    torch.testing.assert_close(toeplitz_attention_reference(q, k, v, taps), y)


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 3), st.integers(1, 50), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5),
    st.integers(1, 60), st.sampled_from([8, 16, 128]), st.sampled_from([1, 3000, 1 << 23]),
)  # fmt: skip
def test_any_shape_equals_the_sum(form, batch, length, heads, width, values, taps, steps, room):
    """In blocks of any size, and all heads and rows at once, some, or one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toeplitz, "_STEPS", steps)
        patch.setitem(scores._ENTRIES, "cpu", room)
        patch.setitem(outer._BLOCK_BYTES, "cpu", 8 * room)
        compare(in_form(form), arguments(batch, length, heads, width, values, min(taps, length)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("length", "taps"), [(1, 1), (31, 31), (128, 128), (129, 129), (300, 300), (300, 130)]
)
def test_blocks_of_the_size_in_use(form, length, taps):
    compare(in_form(form), arguments(2, length, 2, 3, 4, taps))


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form, monkeypatch):
    monkeypatch.setattr(toeplitz, "_STEPS", 8)
    tensors = [t.requires_grad_() for t in arguments(2, 19, 2, 2, 3)]
    assert torch.autograd.gradcheck(in_form(form), tensors)


def test_taps_beyond_the_sequence_are_not_reached():
    q, k, v, taps = (t.requires_grad_() for t in arguments(1, 6, 2, 2, taps=9))
    y = toeplitz_attention(q, k, v, taps)
    torch.testing.assert_close(y, toeplitz_attention(q, k, v, taps[:, :6]))
    (grad,) = torch.autograd.grad(y.sum(), taps)
    assert grad.shape == (2, 9)
    assert not grad[:, 6:].any()


def test_a_filter_of_ones_is_linear_attention():
    q, k, v, taps = arguments(2, 9, 2, 3)
    memory = torch.einsum("blhe,blhf->blhef", k, v).cumsum(1)
    expected = torch.einsum("blhe,blhef->blhf", q, memory)
    torch.testing.assert_close(toeplitz_attention(q, k, v, torch.ones_like(taps)), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", NAMES)
def test_only_one_gradient_wanted(form, wanted):
    tensors = arguments(2, 9, 2, 3)
    alone = dict(zip(NAMES, tensors, strict=True))
    alone[wanted].requires_grad_()
    grad = output_gradient(tensors)
    operator.run(*alone.values(), form).backward(grad)
    assert [t.grad is not None for t in alone.values()] == [n == wanted for n in NAMES]
    together = run(in_form(form), tensors, grad)
    torch.testing.assert_close(alone[wanted].grad, together[wanted])


@pytest.mark.parametrize("form", FORMS)
def test_strides_are_free(form):
    tensors = arguments(2, 11, 3, 4)
    whole = torch.cat([*tensors[:3], tensors[0]], -1)
    turned = [t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for t in tensors[:3]]
    columns = tensors[3].t().contiguous().t()
    expected = in_form(form)(*tensors)
    for others in (whole.split(4, -1)[:3], turned):
        assert not others[0].is_contiguous()
        assert torch.equal(in_form(form)(*others, columns), expected)
    q, k, v, taps = (t.requires_grad_() for t in tensors)
    one = torch.ones(1, 1, 1, 1, dtype=v.dtype).expand(v.shape)
    found = torch.autograd.grad(in_form(form)(q, k, v, taps), (q, k, v, taps), one)
    plain = torch.autograd.grad(in_form(form)(q, k, v, taps), (q, k, v, taps), one.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_poison_after_t_does_not_reach_what_is_before(form):
    tensors = arguments(2, 200, 2, 3)
    later = [t.clone() for t in tensors]
    for t in later[:3]:
        t[:, 150:] += 100
    one, other = in_form(form)(*tensors), in_form(form)(*later)
    torch.testing.assert_close(one[:, :150], other[:, :150], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("length", [3, 300])
@pytest.mark.parametrize("form", FORMS)
def test_sixteen_bits_on_a_cpu_are_rounded_once(form, length, dtype):
    tensors = arguments(2, length, 3, 4, dtype=dtype)
    found = errors(in_form(form), tensors, output_gradient(tensors))
    assert max(found[name] for name in ("y", "q", "k", "v")) < 0.7, found
    assert found["taps"] < 0.01, found


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("length", [31, 300])
@pytest.mark.parametrize("form", ["scores", "outer"])
def test_operands_of_sixteen_bits_do_no_worse_than_the_convolution(form, length, dtype):
    """As a GPU has them: rounded are the scores, with the mask in fp32, or the outer products."""
    tensors = arguments(2, length, 6, 8, dtype=dtype)
    grad = output_gradient(tensors)
    found = errors(in_form(form, dtype), tensors, grad)
    other = errors(through_the_convolution, tensors, grad)
    for name, error in found.items():
        assert error <= 1.25 * other[name], (name, error, other[name])


def test_taps_of_float64_make_everything_so():
    tensors = arguments(2, 40, 2, 3, dtype=torch.float32)
    tensors[3] = tensors[3].double()
    found = run(toeplitz_attention, tensors, output_gradient(tensors))
    assert [t.dtype for t in found.values()] == 4 * [torch.float32] + [torch.float64]
    exact = errors(toeplitz_attention, tensors, output_gradient(tensors))
    assert max(exact.values()) < 0.55


def test_which_form():
    def form(length, width, values=None):
        q = torch.empty(1, length, 1, width)
        v = torch.empty(1, length, 1, width if values is None else values)
        return api._form(q, v, torch.float32)

    assert form(256, 8) == "scores"
    assert form(257, 8) == "fft"
    assert form(1024, 64, 4) == "scores"
    assert form(65, 4) == form(256, 4) == "outer"
    assert form(257, 4) == "fft"


@pytest.mark.parametrize("form", FORMS)
def test_only_the_arguments_are_kept_for_the_backward_pass(form):
    kept = []
    tensors = [t.requires_grad_() for t in arguments(2, 64, 4, 8)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        in_form(form)(*tensors)
    assert sum(t.numel() for t in kept) <= sum(t.numel() for t in tensors)


@pytest.mark.parametrize("form", FORMS)
def test_same_bits_each_time(form):
    tensors = arguments(3, 200, 4, 5, dtype=torch.float32)
    grad = output_gradient(tensors)
    one, other = (run(in_form(form), tensors, grad) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_around_it_changes_nothing(form):
    tensors = arguments(2, 70, 4, 4, dtype=torch.float32)
    grad = output_gradient(tensors)
    expected = run(in_form(form), tensors, grad)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(in_form(form), tensors, grad)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("form", FORMS)
def test_what_torch_asks_of_an_operator(form):
    tensors = [t.requires_grad_() for t in arguments(2, 7, 3, 2, 4, dtype=torch.float32)]
    torch.library.opcheck(torch.ops.ssmlab.toeplitz_attention, (*tensors, form, torch.float32))


def test_a_second_derivative_is_refused():
    tensors = [t.requires_grad_() for t in arguments(1, 5, 2, 2)]
    (dq,) = torch.autograd.grad(toeplitz_attention(*tensors).sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative.*toeplitz_attention_reference"):
        dq.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_it_is_the_same(form):
    tensors = arguments(2, 70, 4, 4, dtype=torch.float32)
    grad = output_gradient(tensors)
    found = run(torch.compile(in_form(form), fullgraph=True, backend="aot_eager"), tensors, grad)
    for name, value in run(in_form(form), tensors, grad).items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q": torch.zeros(2, 3, 4)}, r"q has 3 dimensions.*\(B, L, H, E\)"),
        ({"k": torch.zeros(2, 9, 2, 4)}, r"k has shape \(2, 9, 2, 4\), expected \(2, 9, 2, 3\)"),
        ({"v": torch.zeros(2, 8, 2, 3)}, r"v has shape .* expected \(2, 9, 2, 3\)"),
        ({"v": torch.zeros(2, 9, 2, 3).half()}, "v is float16, expected one of float32.*that of q"),
        ({"taps": torch.zeros(3, 9)}, r"taps has shape \(3, 9\), expected \(2, 9\)"),
        ({"taps": torch.zeros(2, 0)}, "at least 1"),
        ({"taps": torch.zeros(2, 9, dtype=torch.complex64)}, "taps is complex64, expected one of"),
        ({"q": [1.0]}, "q is a list, expected a torch.Tensor"),
        ({"taps": torch.zeros(2, 9, device="meta")}, "taps is on meta"),
    ],
)
def test_bad_input_is_named(change, said):
    tensors = arguments(2, 9, 2, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=said):
        toeplitz_attention(**{**dict(zip(NAMES, tensors, strict=True)), **change})
