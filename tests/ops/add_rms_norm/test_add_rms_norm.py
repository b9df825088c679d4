"""Residual addition and norm in plain torch, against the formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssmlab.ops import add_rms_norm
from tests.ops.add_rms_norm.formula import TOLERANCE, differences, inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
dtypes = st.sampled_from(DTYPES)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    width=st.integers(1, 40),
    x=st.one_of(st.none(), dtypes),
    residual=dtypes,
    weight=dtypes,
    y=dtypes,
)
def test_values_and_gradients(shape, width, x, residual, weight, y) -> None:
    types = (x, residual, weight, y)
    for name, error in differences((*shape, width), types, "cpu").items():
        assert error <= TOLERANCE[max(t.itemsize == 2 for t in types if t)], name


@pytest.mark.parametrize("with_x", [True, False])
def test_gradients_are_those_of_finite_differences(with_x: bool) -> None:
    x, residual, weight = inputs((3, 2, 5), (torch.float64,) * 3, "cpu")
    assert torch.autograd.gradcheck(
        lambda r, w, *rest: add_rms_norm(*rest, r, w) if rest else add_rms_norm(None, r, w),
        (residual, weight, *([x] if with_x else [])),
    )


@pytest.mark.parametrize("output", [0, 1])
def test_either_output_alone_has_the_gradients_of_both_with_zeros(output: int) -> None:
    given = inputs((4, 6), (torch.bfloat16, torch.float32, torch.float32), "cpu")
    outputs = add_rms_norm(*given)
    grads: list[Tensor | None] = [torch.zeros_like(t) for t in outputs]
    grads[output] = torch.randn_like(outputs[output])
    want = torch.autograd.grad(outputs, given, grads, retain_graph=True)
    got = torch.autograd.grad(outputs[output], given, grads[output], allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(torch.zeros_like(b) if a is None else a, b)


def test_gradients_that_are_not_asked_for_are_not_made() -> None:
    x, residual, weight = inputs((4, 6), (torch.bfloat16, torch.float32, torch.float32), "cpu")
    for frozen in (x, residual, weight):
        x.grad = residual.grad = weight.grad = None
        frozen.requires_grad_(False)
        y, total = add_rms_norm(x, residual, weight)
        (y.sum() + total.sum()).backward()
        assert frozen.grad is None
        frozen.requires_grad_()
    made = torch.ops.ssmlab.add_rms_norm_backward(
        residual, None, residual, torch.ones(4), weight, None, False
    )
    assert made[0].numel() == made[2].numel() == 0


def test_without_x_the_stream_is_returned_itself() -> None:
    _, residual, weight = inputs((4, 6), (torch.float32,) * 3, "cpu")
    assert add_rms_norm(None, residual, weight)[1] is residual


def test_the_norm_reads_the_sum_as_the_stream_holds_it() -> None:
    x, residual, weight = inputs((4, 6), (torch.float32, torch.bfloat16, torch.float32), "cpu")
    y, total = add_rms_norm(x, residual, weight)
    assert torch.equal(total, (residual.float() + x).bfloat16())
    assert torch.equal(y, add_rms_norm(None, total, weight)[0])


def test_the_type_of_y_is_the_weights_unless_told() -> None:
    x, residual, weight = inputs((4, 6), (torch.float16, torch.float32, torch.bfloat16), "cpu")
    assert add_rms_norm(x, residual, weight)[0].dtype == torch.bfloat16
    assert add_rms_norm(x, residual, weight, out_dtype=torch.float16)[0].dtype == torch.float16
    assert add_rms_norm(x, residual, weight)[1].dtype == torch.float32


def test_no_rows_and_rows_that_lie_apart() -> None:
    x, residual, weight = inputs((0, 6), (torch.float32,) * 3, "cpu")
    y, total = add_rms_norm(x, residual, weight)
    assert y.shape == total.shape == (0, 6)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert torch.equal(grad, torch.zeros(6))

    x, residual, weight = (t.detach() for t in inputs((4, 6), (torch.float32,) * 3, "cpu"))
    expected = add_rms_norm(x, residual, weight)
    apart = (t.t().contiguous().t() for t in (x, residual))
    wide = torch.stack([weight, weight], 1)[:, 0]
    for a, b in zip(add_rms_norm(*apart, wide), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("x", [None, torch.float32, torch.bfloat16])
def test_is_a_proper_operator(x: torch.dtype | None) -> None:
    given = inputs((3, 2, 5), (x, torch.float32, torch.float32), "cpu")
    torch.library.opcheck(torch.ops.ssmlab.add_rms_norm.default, (*given, 1e-5, torch.bfloat16))
    y, _, rstd = torch.ops.ssmlab.add_rms_norm(*given, 1e-5, torch.bfloat16)
    torch.library.opcheck(
        torch.ops.ssmlab.add_rms_norm_backward.default,
        (
            *(y.detach(), given[1].detach(), given[1].detach(), rstd.detach()),
            *(given[2].detach(), x, True),
        ),
    )


@pytest.mark.parametrize("x", [None, torch.float32, torch.bfloat16])
def test_compiles_without_a_break(x: torch.dtype | None) -> None:
    given = inputs((3, 5), (x, torch.float32, torch.float32), "cpu")

    def run(*args) -> Tensor:
        y, total = add_rms_norm(*args)
        return (y * 3 + total.sin()).sum()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    tensors = [t for t in given if t is not None]
    torch.testing.assert_close(compiled(*given), run(*given))
    for a, b in zip(
        torch.autograd.grad(compiled(*given), tensors),
        torch.autograd.grad(run(*given), tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(5)}, r"weight has shape \(5,\), expected \(6,\) = \(M,\)"),
        ({"x": torch.ones(3, 6)}, r"x has shape \(3, 6\), expected \(4, 6\)"),
        ({"x": torch.ones(4, 6, dtype=torch.int64)}, "x is int64"),
        ({"x": 3.0}, "x is a float, expected a torch.Tensor"),
        ({"residual": torch.tensor(1.0)}, r"residual has shape \(\), expected \(\.\.\., M\)"),
        ({"out_dtype": torch.int32}, "out_dtype is torch.int32, expected one of float32"),
        ({"eps": -1.0}, "eps is -1.0, expected a number >= 0"),
        ({"x": torch.ones(4, 6, device="meta")}, "x is on meta"),
    ],
)
def test_bad_input(change: dict, words: str) -> None:
    x, residual, weight = inputs((4, 6), (torch.float32,) * 3, "cpu")
    with pytest.raises(ValueError, match=f"^add_rms_norm: {words}"):
        add_rms_norm(**{"x": x, "residual": residual, "weight": weight, **change})
