"""The fused Mamba block: the numbers of the operators one after another, with less kept."""

import re

import pytest
import torch
from torch import Tensor

from ssmlab.ops import mamba_inner
from ssmlab.ops.mamba_inner import RECOMPUTE, inner_backend
from tests.ops.mamba_inner.compose import OUT_PROJ, compose, inputs

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}


def close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    assert actual.dtype == expected.dtype, name
    assert actual.shape == expected.shape, name
    difference = (actual.double() - expected.double()).norm().item()
    assert difference <= tolerance * expected.double().norm().item(), f"{name}: {difference}"


def compare(xz, weights, recompute: str, tolerance: float, cu_seqlens=None) -> None:
    leaves = [t for t in (xz, *weights) if t is not None]
    expected = compose(xz, weights, cu_seqlens)
    gradient = torch.randn_like(expected)
    y = mamba_inner(xz, *weights, cu_seqlens, recompute=recompute)
    close(y, expected, tolerance, "output")
    grads = torch.autograd.grad(y, leaves, gradient)
    for place, (actual, wanted) in enumerate(
        zip(grads, torch.autograd.grad(expected, leaves, gradient), strict=True)
    ):
        close(actual, wanted, tolerance, f"gradient {place}")


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("selective", ["dBC", "d", "BC", "dC", "dB", "B", ""])
def test_selective_and_constant(selective: str, recompute: str) -> None:
    xz, weights = inputs(torch.float64, selective=selective, biases=len(selective) != 1)
    compare(xz, weights, recompute, TOLERANCE[torch.float64])


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes(dtype: torch.dtype, recompute: str) -> None:
    xz, weights = inputs(dtype, length=70)
    compare(xz, weights, recompute, TOLERANCE[dtype])


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_packed_sequences(recompute: str) -> None:
    xz, weights = inputs(torch.float64, batch=1, length=90)
    offsets = torch.tensor([0, 1, 34, 34, 90], dtype=torch.int32)
    compare(xz, weights, recompute, TOLERANCE[torch.float64], offsets)
    with torch.no_grad():
        packed = mamba_inner(xz, *weights, offsets)
        alone = mamba_inner(xz[:, 34:], *weights)
    assert torch.allclose(packed[:, 34:], alone, atol=1e-12)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_gradients_are_those_of_finite_differences(recompute: str) -> None:
    xz, weights = inputs(torch.float64, batch=1, length=5, channels=3, states=2, rank=2, model=2)
    given = [t for t in weights if t is not None]
    places = [i for i, t in enumerate(weights) if t is not None]

    def run(xz: Tensor, *some: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * len(weights)
        for place, tensor in zip(places, some, strict=True):
            full[place] = tensor
        return mamba_inner(xz, *full, recompute=recompute)

    assert torch.autograd.gradcheck(run, (xz, *given), fast_mode=True)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    xz, weights = inputs()
    xz = xz.detach()
    weights = [None if w is None else w.detach() for w in weights]
    weights[OUT_PROJ].requires_grad_()
    y = mamba_inner(xz, *weights)
    (grad,) = torch.autograd.grad(y.square().sum(), [weights[OUT_PROJ]])
    other = compose(xz, weights)
    (expected,) = torch.autograd.grad(other.square().sum(), [weights[OUT_PROJ]])
    close(grad, expected, 1e-5, "gradient")


def saved_bytes(function, keep_out: list[Tensor]) -> int:
    """Bytes that autograd keeps of what ``function`` computes, parameters apart."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    apart = {t.untyped_storage().data_ptr() for t in keep_out}
    assert result.requires_grad
    return sum(size for place, size in storages.items() if place not in apart)


def test_memory_that_is_kept() -> None:
    """In bfloat16 with expand 2, bytes per token and channel of the model: xz is 8 of them."""
    model, batch, length = 32, 2, 256
    xz, weights = inputs(
        torch.bfloat16,
        model=model,
        channels=2 * model,
        states=16,
        rank=2,
        batch=batch,
        length=length,
    )
    parameters = [w for w in weights if w is not None]
    per = batch * length * model

    def kept(recompute: str | None) -> float:
        def run() -> Tensor:
            if recompute is None:
                return compose(xz, weights)
            return mamba_inner(xz, *weights, recompute=recompute)

        return saved_bytes(run, parameters) / per

    # With in_proj's input, 2 bytes, "scan" stays well under the paper's 16 (appendix D).
    assert kept("scan") == 8
    assert kept("scan") < kept("inputs") < kept(None)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_compiles_without_a_break_and_keeps_as_little(recompute: str) -> None:
    xz, weights = inputs(torch.float32)
    torch._dynamo.reset()

    def run(xz: Tensor) -> Tensor:
        return mamba_inner(xz, *weights, recompute=recompute).tanh()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    parameters = [w for w in weights if w is not None]
    eager = saved_bytes(lambda: run(xz), parameters)
    assert saved_bytes(lambda: compiled(xz), parameters) == eager
    leaves = [t for t in (xz, *weights) if t is not None]
    expected = run(xz)
    y = compiled(xz)
    close(y, expected, 1e-6, "output")
    grads = torch.autograd.grad(y.sum(), leaves)
    for actual, wanted in zip(grads, torch.autograd.grad(expected.sum(), leaves), strict=True):
        close(actual, wanted, 1e-5, "gradient")


@pytest.mark.parametrize("keep_scan", [False, True])
@pytest.mark.parametrize("selective", ["dBC", ""])
def test_is_a_proper_operator(keep_scan: bool, selective: str) -> None:
    xz, weights = inputs(torch.float32, selective=selective)
    torch.library.opcheck(
        torch.ops.ssmlab.mamba_inner.default, (xz, *weights, None, keep_scan, "cpu")
    )


def test_autocast_converts_as_linear_layers_do() -> None:
    xz, weights = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = xz.bfloat16()
        expected = compose(narrow, weights)
        y = mamba_inner(xz, *weights)
    close(y, expected, 1e-6, "output")
    y.float().sum().backward()
    assert all(w.grad is not None and w.grad.dtype == w.dtype for w in weights if w is not None)


def test_bad_input_is_named() -> None:
    xz, weights = inputs()
    for change, words in (
        ({0: torch.randn(12)}, "conv_weight"),
        ({2: torch.randn(5, 12)}, "x_proj_weight has shape (5, 12), expected (11, 12)"),
        ({2: None}, "x_proj_weight is None"),
        ({9: torch.randn(6, 11)}, "out_proj_weight"),
        ({8: torch.randn(12, device="meta")}, "on meta"),
    ):
        changed = [change.get(place, w) for place, w in enumerate(weights)]
        with pytest.raises(ValueError, match=rf"^mamba_inner: .*{re.escape(words)}"):
            mamba_inner(xz, *changed)
    with pytest.raises(ValueError, match=r"xz has shape \(2, 37, 23\), expected \(2, 37, 24\)"):
        mamba_inner(xz[..., 1:], *weights)
    with pytest.raises(ValueError, match="recompute is 'all', expected one of inputs, scan"):
        mamba_inner(xz, *weights, recompute="all")
    with pytest.raises(ValueError, match="backend"):
        mamba_inner(xz, *weights, backend="cuda")


def test_second_derivatives_are_refused() -> None:
    xz, weights = inputs()
    y = mamba_inner(xz, *weights)
    (grad,) = torch.autograd.grad(y.sum(), [xz], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        grad.sum().backward()


def test_where_it_works() -> None:
    cpu = torch.device("cpu")
    assert inner_backend(cpu, torch.float32) == "cpu"
    assert inner_backend(cpu, torch.float64) == "cpu"
    assert inner_backend(cpu, torch.float32, "reference") is None
