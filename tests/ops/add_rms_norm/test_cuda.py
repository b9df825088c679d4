"""The kernels of the residual addition and norm."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from ssmlab.ops import add_rms_norm
from ssmlab.ops._cuda import launch_count
from ssmlab.ops._cuda.recording import record
from ssmlab.ops.add_rms_norm.cuda import launch, variants
from tests.ops.add_rms_norm.formula import TOLERANCE, differences, inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FP32, BF16 = torch.float32, torch.bfloat16
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def gpu(test):
    return pytest.mark.gpu(needs_gpu(test))


@pytest.fixture
def poison(monkeypatch) -> Iterator[None]:
    """Memory that is not written holds NaN."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check(shape, types) -> None:
    before = launch_count()
    for name, error in differences(shape, types, "cuda").items():
        tolerance = TOLERANCE[max(t.itemsize == 2 for t in types if t)]
        assert error <= tolerance, (name, shape, types)
    assert launch_count() == before + 3


@gpu
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("width", [1, 7, 33, 384, 1000])
def test_every_mix_of_types(width: int) -> None:
    for types in itertools.product((None, *DTYPES), DTYPES, DTYPES, DTYPES):
        check((37, width), types)


@gpu
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("width", [4096, 5120, 8192, 8196, 12289, 16384])
@pytest.mark.parametrize("rows", [1, 5, 700])
def test_wide_rows(width: int, rows: int) -> None:
    for types in (
        (BF16, FP32, FP32, BF16),
        (FP32,) * 4,
        (BF16,) * 4,
        (BF16, torch.float16, FP32, FP32),
    ):
        check((rows, width), types)


@gpu
@pytest.mark.usefixtures("poison")
def test_every_number_of_vectors_a_thread_and_many_rows() -> None:
    for width in (4, 8, 128, 132, 256, 260, 384, 388, 512, 516, 768, 1024, 2048):
        for types in ((BF16, FP32, FP32, BF16), (FP32,) * 4, (BF16,) * 4):
            check((3001, width), types)


@gpu
def test_rows_that_lie_apart_or_start_off_a_boundary() -> None:
    x, residual, weight = (t.detach() for t in inputs((50, 64), (BF16, FP32, FP32), "cuda"))
    expected = add_rms_norm(x, residual, weight)
    padded = [
        torch.cat([torch.zeros(1, device="cuda", dtype=t.dtype), t.flatten()])[1:]
        for t in (x, residual, weight)
    ]
    shifted = [t.view(like.shape) for t, like in zip(padded, (x, residual, weight), strict=True)]
    apart = [t.t().contiguous().t() for t in (x, residual)] + [weight]
    for given in (shifted, apart):
        for a, b in zip(add_rms_norm(*given), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@gpu
@pytest.mark.parametrize("width", [33, 384, 2048])
def test_the_same_bits_every_run(width: int) -> None:
    given = inputs((5000, width), (BF16, FP32, FP32), "cuda")
    grads = (
        torch.randn(5000, width, device="cuda", dtype=BF16),
        torch.randn(5000, width, device="cuda"),
    )
    first = None
    for _ in range(10):
        outputs = add_rms_norm(*given, out_dtype=BF16)
        results = (*outputs, *torch.autograd.grad(outputs, given, grads))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


@gpu
def test_a_cuda_graph_replays_both_passes() -> None:
    x, residual, weight = inputs((100, 384), (BF16, FP32, FP32), "cuda")
    dy, dtotal = torch.randn(100, 384, device="cuda"), torch.randn(100, 384, device="cuda")

    def run():
        y, total = add_rms_norm(x, residual, weight)
        grads = torch.autograd.grad((y, total), (x, residual, weight), (dy, dtotal))
        return (y.detach(), total.detach(), *grads)

    run()
    graph, recorded = record(run, x.device)
    with torch.no_grad():
        x.normal_()
        residual.normal_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(recorded, run(), strict=True))


@gpu
def test_more_numbers_than_32_bits_count() -> None:
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB of free memory")
    rows = (1 << 31) // 1024 + 3
    residual = torch.ones(rows, 1024, device="cuda", dtype=BF16)
    x = torch.zeros_like(residual)
    x[-1], weight = 3, torch.ones(1024, device="cuda", dtype=BF16)
    y, total = add_rms_norm(x, residual, weight)
    assert torch.equal(total[-1], torch.full_like(total[-1], 4))
    assert torch.equal(y[-1], torch.ones_like(y[-1]))
    assert torch.equal(y[-2], torch.ones_like(y[-2]))


def test_a_plan_covers_the_row_and_is_one_that_the_check_compiles() -> None:
    known = {source.name for source in variants.variants()}
    for types in itertools.product(DTYPES, DTYPES, DTYPES):
        for width in (1, 4, 33, 64, 384, 1000, 4096, 5120, 8192, 8193, 16384, 1 << 20):
            for pass_ in ("forward", "backward"):
                plan = launch._plan(pass_, types, width)
                assert plan.source.name in known
                assert plan.threads <= 512
                if plan.is_fast:
                    assert plan.elements * 32 * plan.warps >= width
