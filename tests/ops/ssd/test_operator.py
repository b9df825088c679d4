"""The operator of 16-bit numbers: its own gradients, its rounding, what torch asks of operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops import ssd
from ssmlab.ops.ssd import chunked, ssd_reference
from tests.ops.ssd.samples import (
    SIXTEEN,
    assert_as_exact_as_its_inputs,
    output_gradients,
    run,
    training_like,
)


def operator(*tensors, chunk_size=4, dtype=torch.float64):
    return torch.ops.ssmlab.ssd(*tensors, chunk_size, dtype)[:2]


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 30), st.integers(1, 17), st.sampled_from([1, 2, 4]), st.sampled_from([1, 10**6])
)
def test_in_float64_it_is_the_recurrence(length, chunk_size, groups, entries):
    tensors = [t.double() for t in training_like(2, length, 4, 3, groups, 5, torch.float64)]
    tensors[1] = 10 * tensors[1]
    grads = output_gradients(tensors)
    with pytest.MonkeyPatch.context() as patch:  # all chunks at once, and one by one
        patch.setitem(chunked._ENTRIES, "cpu", entries)
        found = run(lambda *t: operator(*t, chunk_size=chunk_size), tensors, grads)
    expected = run(ssd_reference, tensors, grads)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_gradients():
    tensors = [t.double().requires_grad_() for t in training_like(1, 7, 2, 2, 1, 3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: operator(*t, chunk_size=3), tensors)


@pytest.mark.parametrize("missing", [5, 6])
@pytest.mark.parametrize("output", [0, 1])
def test_gradients_of_one_output_and_without_an_argument(missing, output):
    tensors = [t.double().requires_grad_() for t in training_like(1, 5, 2, 2, 2, 3, torch.float64)]
    rest = tensors[:missing] + tensors[missing + 1 :]

    def one(*given):
        return operator(*given[:missing], None, *given[missing:], chunk_size=2)[output]

    assert torch.autograd.gradcheck(one, rest)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("operands", ["chosen", "16 bits"])
@pytest.mark.parametrize(("length", "groups", "n"), [(200, 1, 48), (130, 2, 16), (3, 1, 5)])
def test_errors_are_those_of_rounding(dtype, operands, length, groups, n):
    def function(*tensors):
        if operands == "chosen":
            *given_, state = tensors
            return ssd(*given_, state, return_last_state=True)
        return operator(*tensors, chunk_size=64, dtype=dtype)

    assert_as_exact_as_its_inputs(function, training_like(2, length, 4, 32, groups, n, dtype))


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_a_delta_of_zero_passes_the_state_on_and_has_a_gradient(dtype):
    tensors = training_like(1, 9, 2, 4, 1, 3, dtype)
    tensors[1][:, 2:5] = 0
    assert_as_exact_as_its_inputs(lambda *t: operator(*t, dtype=torch.float32), tensors)


@pytest.mark.parametrize("rate", [-500.0, -1e6])
def test_a_long_fast_decay_stays_finite(rate):
    tensors = training_like(2, 200, 4, 3, 2, 5, torch.bfloat16)
    tensors[2] = torch.full((4,), rate)
    found = run(
        lambda *t: operator(*t, chunk_size=64, dtype=torch.bfloat16),
        tensors,
        output_gradients(tensors),
    )
    assert all(value.isfinite().all() for value in found.values())


def test_what_torch_asks_of_an_operator():
    tensors = [t.requires_grad_() for t in training_like(2, 7, 4, 3, 2, 5, torch.bfloat16)]
    torch.library.opcheck(torch.ops.ssmlab.ssd, (*tensors, 3, torch.float32))


def test_autocast_around_it_changes_nothing():
    tensors = training_like(2, 70, 4, 8, 2, 5, torch.bfloat16)
    y = ssd(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssd(*tensors), y)


def test_a_second_derivative_of_16_bits_is_refused():
    tensors = [t.requires_grad_() for t in training_like(1, 5, 2, 2, 1, 3, torch.bfloat16)]
    (dx,) = torch.autograd.grad(ssd(*tensors).sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative.*float32"):
        dx.sum().backward()


def test_what_is_kept_is_the_inputs_and_a_state_a_chunk():
    tensors = [t.requires_grad_() for t in training_like(2, 256, 4, 16, 1, 8, torch.bfloat16)]
    kept: dict[int, int] = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ssd(*tensors, chunk_size=64)
    inputs = {t.data_ptr(): t.numel() for t in tensors}
    assert sum(kept.values()) <= sum(inputs.values()) + 4 * 2 * 4 * 16 * 8


@pytest.mark.slow
def test_compiled_it_is_the_same():
    tensors = training_like(2, 70, 4, 8, 2, 5, torch.bfloat16)
    grads = output_gradients(tensors)

    def function(*t):
        return ssd(*t, return_last_state=True)

    found = run(torch.compile(function, fullgraph=True, backend="aot_eager"), tensors, grads)
    for name, value in run(function, tensors, grads).items():
        assert torch.equal(found[name], value), name
