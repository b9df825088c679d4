"""Toeplitz attention on a GPU: which form is taken, rounding, the same bits every run, graphs."""

import pytest
import torch

from ssmlab.ops import toeplitz_attention
from ssmlab.ops._cuda.recording import record
from ssmlab.ops.toeplitz_attention import api, operator, outer, scores
from tests.ops.toeplitz_attention.samples import (
    FORMS,
    SIXTEEN,
    arguments,
    errors,
    output_gradient,
    run,
    through_the_convolution,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPES = [(2, 1, 3, 2), (2, 31, 6, 8), (4, 512, 6, 8), (2, 700, 4, 16)]


def on_gpu(*shape, dtype):
    return [t.cuda() for t in arguments(*shape, dtype=dtype)]


def in_form(form):
    return lambda *tensors: operator.run(*tensors, form)


@pytest.mark.parametrize(
    ("length", "width", "dtype", "taken"),
    [
        (128, 8, torch.bfloat16, "scores"),
        (129, 8, torch.bfloat16, "outer"),
        (4096, 8, torch.float16, "outer"),
        (4097, 8, torch.bfloat16, "fft"),
        (1024, 8, torch.float32, "outer"),
        (1025, 8, torch.float32, "fft"),
    ],
)
def test_which_form(length, width, dtype, taken):
    q = torch.empty(1, length, 1, width, dtype=dtype, device="cuda")
    assert api._form(q, q, torch.float32) == taken


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("room", [1, 1 << 26])
def test_errors_are_those_of_rounding(form, shape, dtype, room, monkeypatch):
    monkeypatch.setitem(scores._ENTRIES, "cuda", room)
    monkeypatch.setitem(outer._BLOCK_BYTES, "cuda", 4 * room)
    tensors = on_gpu(*shape, dtype=dtype)
    found = errors(in_form(form), tensors, output_gradient(tensors))
    assert max(found.values()) < 2, found


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_errors_are_no_larger_than_through_the_convolution(form, dtype):
    tensors = on_gpu(8, 512, 12, 8, dtype=dtype)
    grad = output_gradient(tensors)
    found, other = (errors(f, tensors, grad) for f in (in_form(form), through_the_convolution))
    for name, error in found.items():
        assert error <= 1.15 * other[name], (name, error, other[name])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_float32_is_exact(form, shape, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    tensors = on_gpu(*shape, dtype=torch.float32)
    found = errors(in_form(form), tensors, output_gradient(tensors))
    assert max(found.values()) < 100, found


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_every_run(form, dtype):
    tensors = on_gpu(16, 512, 12, 8, dtype=dtype)
    grad = output_gradient(tensors)
    first = run(in_form(form), tensors, grad)
    for _ in range(3):
        again = run(in_form(form), tensors, grad)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("form", FORMS)
def test_in_a_cuda_graph(form):
    tensors = [t.requires_grad_() for t in on_gpu(4, 300, 6, 8, dtype=torch.bfloat16)]
    grad = output_gradient(tensors)

    def step():
        y = in_form(form)(*tensors)
        return (y.detach(), *torch.autograd.grad(y, tensors, grad))

    step()
    graph, found = record(step, grad.device)
    with torch.no_grad():
        for t in tensors:
            t.mul_(0.5)
    graph.replay()
    for value, expected in zip(found, step(), strict=True):
        assert torch.equal(value, expected)


def test_memory_is_bounded():
    """Neither the scores (1.6 GB in bf16) nor the outer products (0.8 GB) are there at once."""
    tensors = [t.requires_grad_() for t in on_gpu(256, 512, 48, 8, dtype=torch.bfloat16)]
    grad = output_gradient(tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(toeplitz_attention(*tensors), tensors, grad)
    # y, three gradients, and a slice.
    results = 4 * grad.numel() * grad.element_size()
    assert torch.cuda.max_memory_allocated() - before <= results + 2 * outer._BLOCK_BYTES["cuda"]
