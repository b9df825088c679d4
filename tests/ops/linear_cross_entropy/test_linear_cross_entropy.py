"""The loss without the matrix of logits, against PyTorch's with it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops import linear_cross_entropy
from ssmlab.ops.linear_cross_entropy import operator

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(params=[1, 3, 1000], ids=lambda rows: f"rows{rows}")
def rows(request, monkeypatch) -> int:
    """How many tokens are handled at a time."""
    monkeypatch.setattr(operator, "_rows_at_a_time", lambda device, vocabulary: request.param)
    return request.param


def inputs(dtype: torch.dtype, ignored: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 6, generator=g).to(dtype).requires_grad_()
    weight = torch.randn(17, 6, generator=g).to(dtype).requires_grad_()
    targets = torch.randint(17, (10,), generator=g)
    targets[:ignored] = -100
    return hidden, weight, targets


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_the_same_as_with_all_logits(dtype: torch.dtype, rows: int) -> None:
    hidden, weight, targets = inputs(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    expected = F.cross_entropy(F.linear(hidden, weight).to(wide), targets)
    loss = linear_cross_entropy(hidden, weight, targets)
    assert loss.dtype == wide
    torch.testing.assert_close(loss, expected, rtol=TOLERANCE[dtype], atol=0)
    for a, b in zip(
        torch.autograd.grad(3 * loss, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
        strict=True,
    ):
        assert a.dtype == b.dtype
        assert (a - b).double().norm() <= TOLERANCE[dtype] * b.double().norm()


def test_gradients_are_those_of_finite_differences(rows: int) -> None:
    hidden, weight, targets = inputs(torch.float64)
    assert torch.autograd.gradcheck(linear_cross_entropy, (hidden, weight, targets))


def test_under_autocast_the_gradient_of_the_weight_is_wide() -> None:
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    for a, b in zip(
        torch.autograd.grad(loss, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 1e-2 * b.norm()


def test_tokens_that_do_not_count_may_hold_anything() -> None:
    hidden, weight, targets = inputs(torch.float64)
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    with torch.no_grad():
        loss = linear_cross_entropy(hidden[2:], weight, targets[2:])
        assert not expected[0][:2].any()
        assert torch.equal(linear_cross_entropy(hidden, weight, targets, -100), loss)


def test_without_gradients_none_are_made() -> None:
    hidden, weight, targets = inputs(torch.float32)
    with torch.no_grad():
        _, dhidden, dweight = torch.ops.ssmlab.linear_cross_entropy(
            hidden, weight, targets, -100, torch.float32, False
        )
    assert dhidden.numel() == dweight.numel() == 0


def test_if_no_token_counts_the_loss_is_nan_as_in_pytorch() -> None:
    hidden, weight, targets = inputs(torch.float32, ignored=10)
    assert linear_cross_entropy(hidden, weight, targets).isnan()


def test_compiles_without_a_break_and_is_a_proper_operator() -> None:
    hidden, weight, targets = inputs(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: linear_cross_entropy(*args) * 2, fullgraph=True, backend="aot_eager"
    )
    loss = compiled(hidden, weight, targets)
    torch.testing.assert_close(loss, 2 * linear_cross_entropy(hidden, weight, targets))
    loss.backward()
    (expected,) = torch.autograd.grad(2 * linear_cross_entropy(hidden, weight, targets), [weight])
    torch.testing.assert_close(weight.grad, expected)
    torch.library.opcheck(
        torch.ops.ssmlab.linear_cross_entropy.default,
        (hidden, weight, targets, -100, torch.float32, True),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.randn(17, 5)}, r"weight has shape \(17, 5\), expected \(17, 6\)"),
        ({"targets": torch.zeros(9, dtype=torch.int64)}, r"targets has shape \(9,\)"),
        ({"targets": torch.zeros(10)}, "targets is float32"),
        ({"targets": torch.full((10,), 17)}, "targets holds 17, expected 0 to 16"),
        ({"hidden": torch.randn(2, 5, 6)}, "hidden has 3 dimensions"),
    ],
)
def test_bad_input(change: dict[str, Tensor], words: str) -> None:
    hidden, weight, targets = inputs(torch.float32)
    given = {"hidden": hidden, "weight": weight, "targets": targets, **change}
    with pytest.raises(ValueError, match=f"^linear_cross_entropy: {words}"):
        linear_cross_entropy(**given)
