"""SSD on a GPU: rounding, the same bits every run, and in a CUDA graph."""

import pytest
import torch

from ssmlab.ops import ssd
from ssmlab.ops._cuda.recording import record
from ssmlab.ops.ssd import chunked
from tests.ops.ssd.samples import (
    SIXTEEN,
    assert_as_exact_as_its_inputs,
    output_gradients,
    run,
    training_like,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(*args):
    return [t.cuda() for t in training_like(*args)]


def function(*tensors):
    return ssd(*tensors, return_last_state=True)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2, 512, 12, 64, 3, 16), (2, 512, 12, 64, 1, 48), (3, 130, 4, 24, 2, 7), (1, 3, 2, 5, 1, 3)],
    ids=str,
)
@pytest.mark.parametrize("at_once", [1, 1 << 26])
def test_errors_are_those_of_rounding(dtype, shape, at_once, monkeypatch):
    monkeypatch.setitem(chunked._ENTRIES, "cuda", at_once)
    assert_as_exact_as_its_inputs(function, on_gpu(*shape, dtype))


@pytest.mark.parametrize("shape", [(2, 130, 12, 64, 3, 16)], ids=str)
def test_float32_is_exact(shape, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    assert_as_exact_as_its_inputs(function, on_gpu(*shape, torch.float32), times=100)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_the_same_bits_every_run(dtype):
    tensors = on_gpu(4, 500, 12, 64, 3, 16, dtype)
    grads = output_gradients(tensors)
    first = run(function, tensors, grads)
    for _ in range(3):
        again = run(function, tensors, grads)
        assert all(torch.equal(again[name], value) for name, value in first.items())


def test_in_a_cuda_graph():
    tensors = [t.requires_grad_() for t in on_gpu(2, 200, 4, 64, 1, 48, torch.bfloat16)]
    grads = output_gradients(tensors)

    def step():
        outputs = function(*tensors)
        gradients = torch.autograd.grad(outputs, tensors, grads)
        return (*(t.detach() for t in outputs), *gradients)

    step()
    graph, found = record(step, grads[0].device)
    with torch.no_grad():
        for t in tensors:
            t.mul_(0.5)
    graph.replay()
    for value, expected in zip(found, step(), strict=True):
        assert torch.equal(value, expected)
