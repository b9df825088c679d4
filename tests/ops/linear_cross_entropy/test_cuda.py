"""The loss on a GPU against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from ssmlab.ops import linear_cross_entropy
from ssmlab.ops._cuda import launch_count
from ssmlab.ops.linear_cross_entropy import operator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("vocabulary", [1, 7, 64, 4099, 50257])
@pytest.mark.parametrize("rows", [3, 1000])
def test_values(dtype, vocabulary: int, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(operator, "_rows_at_a_time", lambda device, vocabulary: rows)
    g = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(10, 32, generator=g).to("cuda", dtype).requires_grad_()
    weight = torch.randn(vocabulary, 32, generator=g).to("cuda", dtype).requires_grad_()
    targets = torch.randint(vocabulary, (10,), generator=g).cuda()
    targets[1:4] = -100
    before = launch_count()
    loss = linear_cross_entropy(hidden, weight, targets)
    assert launch_count() == before + -(-10 // rows)
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    expected = F.cross_entropy(F.linear(*wide), targets)
    assert loss.dtype == torch.float32
    assert (loss - expected).abs() <= TOLERANCE[dtype] * expected.abs().clamp(min=1)
    if vocabulary > 1:
        for a, b in zip(
            torch.autograd.grad(loss, (hidden, weight)),
            torch.autograd.grad(expected, wide),
            strict=True,
        ):
            assert (a.double() - b).norm() <= TOLERANCE[dtype] * b.norm()


def test_large_logits_and_no_token_that_counts() -> None:
    hidden = torch.full((4, 8), 100.0, device="cuda")
    weight = torch.randn(33, 8, device="cuda")
    targets = torch.tensor([0, 5, 32, -100], device="cuda")
    expected = F.cross_entropy((hidden.double() @ weight.double().t()), targets)
    torch.testing.assert_close(
        linear_cross_entropy(hidden, weight, targets).double(), expected, rtol=1e-4, atol=1e-4
    )
    assert linear_cross_entropy(hidden, weight, torch.full_like(targets, -100)).isnan()


def test_the_same_bits_every_run() -> None:
    hidden = torch.randn(300, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", requires_grad=True)
    targets = torch.randint(1000, (300,), device="cuda")
    first = None
    for _ in range(20):
        loss = linear_cross_entropy(hidden, weight, targets)
        results = (loss, *torch.autograd.grad(loss, (hidden, weight)))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))
