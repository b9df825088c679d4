"""Splitting, stepping, the field's layout, torch's own convolution, determinism, NaN, threads."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from ssmlab.ops import causal_conv1d, causal_conv1d_fn, causal_conv1d_update
from ssmlab.ops.causal_conv1d import cpu

BACKENDS = ["cpu", "reference"]


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (3, 17, 6), weight (6, 4), bias and an initial state."""
    g = torch.Generator().manual_seed(0)
    shapes = ((3, 17, 6), (6, 4), (6,), (3, 3, 6))
    x, weight, bias, state = (torch.randn(*shape, generator=g) for shape in shapes)
    return x, weight, bias, state


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_torch_conv1d(inputs, backend) -> None:
    x, weight, bias, _ = inputs
    expected = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=3, groups=6)
    expected = F.silu(expected[..., :17]).transpose(1, 2)
    y = causal_conv1d(x, weight, bias, "silu", backend=backend)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 2, 5, 16])
def test_split_with_state_is_one_run(inputs, backend, cut) -> None:
    x, weight, bias, state = inputs
    run = {"bias": bias, "activation": "silu", "return_final_state": True, "backend": backend}
    y, last = causal_conv1d(x, weight, initial_state=state, **run)
    first, between = causal_conv1d(x[:, :cut], weight, initial_state=state, **run)
    second, end = causal_conv1d(x[:, cut:], weight, initial_state=between, **run)
    assert torch.equal(torch.cat((first, second), 1), y)
    assert torch.equal(end, last)


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
    ids=str,
)
def test_step_is_the_convolution(inputs, width, activation, dtype, tolerance) -> None:
    x, _, bias, _ = (tensor.to(dtype) for tensor in inputs)
    g = torch.Generator().manual_seed(1)
    weight, state = torch.randn(6, width, generator=g), torch.randn(3, width - 1, 6, generator=g)
    weight, state = weight.to(dtype), state.to(dtype)
    y, last = causal_conv1d(x, weight, bias, activation, state, return_final_state=True)
    rows = []
    for t in range(x.shape[1]):
        before = state.clone()
        row, after = causal_conv1d_update(x[:, t], state, weight, bias, activation)
        assert torch.equal(state, before), "a step leaves its state as it is"
        rows.append(row)
        state = after
    torch.testing.assert_close(torch.stack(rows, 1), y, rtol=tolerance, atol=tolerance)
    assert torch.equal(state, last)


def test_step_gradients() -> None:
    g = torch.Generator().manual_seed(2)
    tensors = [
        torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3), (2, 3, 3), (3, 4), (3,))
    ]
    assert torch.autograd.gradcheck(lambda *t: causal_conv1d_update(*t, "silu"), tensors)


def test_field_layout(inputs) -> None:
    x, weight, bias, state = inputs
    y, last = causal_conv1d(x, weight, bias, "silu", state, return_final_state=True)
    out = torch.full((3, 6, 3), float("nan"))
    for x_field in (x.transpose(1, 2), x.transpose(1, 2).contiguous()):
        y_field, last_field = causal_conv1d_fn(
            x_field,
            weight,
            bias,
            initial_states=state.transpose(1, 2),
            return_final_states=True,
            final_states_out=out,
            activation="silu",
        )
        assert torch.equal(y_field, y.transpose(1, 2))
        assert last_field is out
        assert torch.equal(out, last.transpose(1, 2))
    plain = causal_conv1d_fn(x.transpose(1, 2), weight)
    assert torch.equal(plain, causal_conv1d(x, weight).transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_seq_idx_separates_runs_and_pads(inputs, dtype) -> None:
    x, weight, bias, _ = inputs
    x, weight = x[:2].clone().requires_grad_(), weight.clone().requires_grad_()
    runs = [[(0, 5), (5, 6), (6, 17)], [(0, 1), (1, 14), (14, 17)]]
    seq_idx = torch.empty(2, 17, dtype=dtype)
    expected = torch.zeros(2, 17, 6)
    for b, row in enumerate(runs):
        for i, (start, end) in enumerate(row):
            padding = b == 1 and i == 2
            seq_idx[b, start:end] = -1 if padding else i
            if not padding:
                piece = causal_conv1d(x[b : b + 1, start:end], weight, bias, "silu")
                expected[b, start:end] = piece[0]
    y = causal_conv1d_fn(x.transpose(1, 2), weight, bias, seq_idx, activation="silu")
    assert torch.equal(y, expected.transpose(1, 2))
    assert y[1, :, 14:].abs().sum() == 0
    weights = torch.randn(2, 6, 17, generator=torch.Generator().manual_seed(3))
    grads = torch.autograd.grad((y * weights).sum(), (x, weight))
    wanted = torch.autograd.grad((expected * weights.transpose(1, 2)).sum(), (x, weight))
    torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-5)
    assert grads[0][1, 14:].abs().sum() == 0


def test_equal_at_any_number_of_threads_and_every_time() -> None:
    g = torch.Generator().manual_seed(4)
    x, weight = torch.randn(2, 700, 300, generator=g), torch.randn(300, 4, generator=g)
    grad_y = torch.randn(2, 700, 300, generator=g)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            y = cpu.forward(x, weight, None, None, None, None, True)
            results.append((y, *cpu.backward(grad_y, x, weight, None, None, None, None, True)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_from_several_threads_at_once() -> None:
    g = torch.Generator().manual_seed(5)
    x, weight = torch.randn(8, 400, 64, generator=g), torch.randn(64, 4, generator=g)
    expected = causal_conv1d(x, weight, activation="silu", backend="cpu")
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(causal_conv1d, x, weight, activation="silu", backend="cpu")
            for _ in range(16)
        ]
        assert all(torch.equal(job.result(), expected) for job in jobs)


def _run_in_child(queue, x, weight) -> None:
    # What torch itself computes on several threads hangs in a child; only our operator is asked.
    torch.set_num_threads(2)
    queue.put(float(causal_conv1d(x, weight, backend="cpu").numpy().sum()))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork() -> None:
    """Data loaders fork: a child uses the operator after its parent did, on several threads."""
    x, weight = torch.ones(2, 600, 64), torch.ones(64, 4)
    causal_conv1d(x, weight, backend="cpu")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_run_in_child, args=(queue, x, weight), daemon=True)
    child.start()
    try:
        total = queue.get(timeout=30)
    finally:
        child.kill()
        child.join()
    assert total == 2 * 64 * (1 + 2 + 3 + 4 * 597)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_nan_reaches_what_it_should_and_no_more(backend, dtype, activation) -> None:
    x = torch.ones(1, 12, 3, dtype=dtype)
    x[0, 5, 1] = float("nan")
    x.requires_grad_()
    y = causal_conv1d(x, torch.ones(3, 4, dtype=dtype), None, activation, backend=backend)
    poisoned = torch.zeros(1, 12, 3, dtype=torch.bool)
    poisoned[0, 5:9, 1] = True
    assert torch.equal(y.isnan(), poisoned)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    if activation is None:
        assert not grad.isnan().any()
    else:
        poisoned[0, 2:9, 1] = True
        assert torch.equal(grad.isnan(), poisoned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_silu_of_large_numbers(dtype) -> None:
    """No overflow: far left silu is -0, far right the identity; the slopes are 0 and 1."""
    x = torch.tensor([-3e38, -1e30, -1e4, -100.0, -89.0, -88.0, 88.0, 1e4, 1e30], dtype=dtype)
    x = x.view(1, 1, -1).requires_grad_()
    y = causal_conv1d(x, torch.ones(9, 1, dtype=dtype), None, "silu", backend="cpu")
    assert y.detach()[..., :6].abs().max() < 1e-36
    assert torch.equal(y.detach()[..., 6:], x.detach()[..., 6:])
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[..., :6].abs().max() < 1e-36
    assert torch.equal(slope[..., 6:], torch.ones(1, 1, 3, dtype=dtype))


def test_sigmoid_to_rounding() -> None:
    """The kernels' own exponential, over its range, against float64."""
    x = torch.linspace(-87, 88, 200_001).view(1, -1, 1)
    y = causal_conv1d(x, torch.ones(1, 1), None, "silu", backend="cpu").double()
    expected = F.silu(x.double())
    assert ((y - expected).abs() / expected.abs().clamp(min=1e-30)).max() < 5e-7


def test_views_are_read_where_they_are() -> None:
    """Rows of a wider tensor, repeated rows and transposed memory all give the same numbers."""
    g = torch.Generator().manual_seed(6)
    wide, weight = torch.randn(2, 40, 30, generator=g), torch.randn(10, 4, generator=g)
    dense = wide[..., 10:20].contiguous()
    expected = causal_conv1d(dense, weight, backend="cpu")
    views = [wide[..., 10:20], dense.transpose(1, 2).contiguous().transpose(1, 2)]
    views.append(torch.randn(40, 2, 10).copy_(dense.transpose(0, 1)).transpose(0, 1))
    for view in views:
        assert torch.equal(causal_conv1d(view, weight, backend="cpu"), expected)
    repeated = dense[:, :1].expand(2, 40, 10)
    expected = causal_conv1d(repeated.contiguous(), weight, backend="cpu")
    assert torch.equal(causal_conv1d(repeated, weight, backend="cpu"), expected)


def test_a_slice_of_a_projection_is_not_copied() -> None:
    x = torch.zeros(2, 5, 8).chunk(2, dim=-1)[1]
    assert cpu._rows(x, torch.float32).data_ptr() == x.data_ptr()


def test_memory_of_the_backward_pass_is_of_the_inputs_order(monkeypatch) -> None:
    sizes = []
    empty = torch.empty

    def counting(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        sizes.append(tensor.numel())
        return tensor

    monkeypatch.setattr(cpu.torch, "empty", counting)
    x = torch.ones(2, 640, 256)
    cpu.backward(x, x, torch.ones(256, 4), None, None, None, None, True)
    assert sum(sizes) < 1.1 * x.numel()


@pytest.mark.parametrize("packing", ["none", "cu_seqlens", "seq_idx"])
def test_every_element_is_written(packing) -> None:
    """With all fresh memory full of NaN the results are the same numbers."""
    g = torch.Generator().manual_seed(7)
    batch = 1 if packing == "cu_seqlens" else 2
    x, weight = torch.randn(batch, 140, 260, generator=g), torch.randn(260, 4, generator=g)
    bias, state, cu_seqlens, seq_idx = torch.randn(260, generator=g), None, None, None
    if packing == "cu_seqlens":
        cu_seqlens = torch.tensor([0, 0, 1, 130, 140, 140], dtype=torch.int32)
    if packing == "seq_idx":
        seq_idx = torch.arange(140).div(60, rounding_mode="floor").expand(2, 140) - 1
    else:
        state = torch.randn(5 if packing == "cu_seqlens" else 2, 3, 260, generator=g)
    given = (x, weight, bias, state, cu_seqlens, seq_idx, True)
    expected = (cpu.forward(*given), *cpu.backward(x, *given))
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives
    try:
        assert torch.empty(3).isnan().all()
        results = (cpu.forward(*given), *cpu.backward(x, *given))
    finally:
        torch.use_deterministic_algorithms(False)
    for result, wanted in zip(results, expected, strict=True):
        assert not result.isnan().any()
        assert torch.equal(result, wanted)


def test_empty_batch_and_no_channels() -> None:
    for shape in ((0, 5, 3), (2, 5, 0)):
        x = torch.zeros(*shape, requires_grad=True)
        weight = torch.zeros(shape[2], 4, requires_grad=True)
        y = causal_conv1d(x, weight, backend="cpu")
        assert y.shape == shape
        grads = torch.autograd.grad(y.sum(), (x, weight))
        assert grads[0].shape == shape
        assert torch.equal(grads[1], torch.zeros(shape[2], 4))
