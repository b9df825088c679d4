"""The CUDA kernels against plain torch in float64, over shapes, options and memory layouts.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import itertools

import pytest
import torch
from torch import Tensor

from ssmlab.ops import causal_conv1d, causal_conv1d_fn, causal_conv1d_update
from ssmlab.ops._cuda import launch_count
from ssmlab.ops.causal_conv1d.api import masked_causal_conv1d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Norm of the error over the norm of the result: rounding of inputs' products, sums and outputs.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
DTYPES = list(TOLERANCE)


@pytest.fixture(autouse=True)
def _poison():
    """torch.empty gives NaN, so that an element nobody writes is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    assert actual.shape == expected.shape, name
    difference = (actual.double().cpu() - expected.double().cpu()).norm()
    assert difference <= tolerance * expected.double().norm().clamp(min=1e-3), (
        f"{name}: {difference.item()} of {expected.norm().item()}"
    )


def check(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    bias: bool = True,
    activation: str | None = "silu",
    state: bool = False,
    offsets: list[int] | None = None,
    runs: Tensor | None = None,
    index: torch.dtype = torch.int32,
    shift: int = 0,
) -> None:
    """y and all gradients; x is a half of a wider projection that starts ``shift`` elements in."""
    batch, length, channels, width = shape
    g = torch.Generator().manual_seed(sum(shape) + shift)
    count = batch if offsets is None else len(offsets) - 1

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g).to(dtype)

    memory = draw(batch * length * 2 * channels + shift)
    projection = memory[shift:].view(batch, length, 2 * channels)
    weight, offset = draw(channels, width).float(), draw(channels).float() if bias else None
    initial = draw(count, width - 1, channels) if state else None
    grad_y = draw(batch, length, 2 * channels)
    leaves = [projection, weight, offset, initial]

    def run(device: str, wide: bool) -> tuple[Tensor, list[Tensor]]:
        given = []
        for tensor in (memory, weight, offset, initial):
            moved = None if tensor is None else tensor.to(device).clone()
            given.append(moved.double() if wide and moved is not None else moved)
        flat, w, b, s = given
        p = flat[shift:].view(batch, length, 2 * channels)
        wanted = [t.requires_grad_() for t in (p, w, b, s) if t is not None]
        y = masked_causal_conv1d(
            "causal_conv1d",
            p.chunk(2, dim=-1)[1],
            w,
            b,
            activation,
            s,
            None if offsets is None else torch.tensor(offsets, dtype=index, device=device),
            None if runs is None else runs.to(device, index),
            "reference" if wide else "cuda",
        )
        gradient = grad_y.to(device, y.dtype).chunk(2, dim=-1)[0]
        return y, list(torch.autograd.grad(y, wanted, gradient))

    before = launch_count()
    y, grads = run("cuda", False)
    assert launch_count() >= before + 3
    expected, expected_grads = run("cpu", True)
    assert y.dtype == dtype
    close(y, expected, TOLERANCE[dtype], "y")
    names = [
        n for n, t in zip(("x", "weight", "bias", "state"), leaves, strict=True) if t is not None
    ]
    for name, actual, wanted in zip(names, grads, expected_grads, strict=True):
        close(actual, wanted, 2 * TOLERANCE[dtype], f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
def test_every_dtype_and_width(dtype: torch.dtype, width: int) -> None:
    for state, activation in itertools.product((False, True), (None, "silu")):
        check((2, 37, 24, width), dtype, state=state, activation=activation, bias=state)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 31, 33, 129, 1025])
@pytest.mark.parametrize("width", [2, 4, 6])
def test_ragged_lengths(length: int, width: int) -> None:
    check((2, length, 40, width), torch.bfloat16, state=True)
    check((3, length, 40, width), torch.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 64, 130, 260])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_channels_and_alignment(channels: int, shift: int) -> None:
    """Rows that cannot be loaded many channels at a time."""
    for dtype in (torch.bfloat16, torch.float32):
        check((2, 41, channels, 4), dtype, shift=shift, state=True)


OFFSETS = [
    [0, 70],
    [0, 1, 2, 3, 70],
    [0, 0, 16, 17, 32, 33, 33, 64, 70],
    [0, 15, 31, 48, 70, 70],
]


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("width", [2, 3, 4, 7])
def test_packed_sequences(offsets: list[int], width: int) -> None:
    for state in (False, True):
        check((1, 70, 24, width), torch.float32, offsets=offsets, state=state)
        check((1, 70, 24, width), torch.bfloat16, offsets=offsets, state=state, index=torch.int64)


def test_long_packed_sequences() -> None:
    cuts = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:200].sort().values
    check((1, 3001, 16, 4), torch.float32, offsets=[0, *cuts.tolist(), 3001], state=True)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_runs_of_seq_idx(width: int) -> None:
    g = torch.Generator().manual_seed(width)
    runs = torch.randint(-1, 3, (2, 23), generator=g).repeat_interleave(3, dim=1)
    for index in (torch.int32, torch.int64):
        check((2, 69, 24, width), torch.float32, runs=runs, index=index)
        check((2, 69, 24, width), torch.bfloat16, runs=runs, index=index)


def test_gradients_that_are_expanded_or_of_the_other_layout() -> None:
    x = torch.randn(2, 24, 50, device="cuda", requires_grad=True)
    weight = torch.randn(24, 4, device="cuda", requires_grad=True)
    y = causal_conv1d_fn(x, weight, activation="silu")
    grads = torch.autograd.grad(y.sum(), (x, weight))
    wide = [t.detach().double().cpu().requires_grad_() for t in (x, weight)]
    expected = causal_conv1d(wide[0].mT, wide[1], activation="silu", backend="reference")
    for actual, wanted in zip(grads, torch.autograd.grad(expected.sum(), wide), strict=True):
        close(actual, wanted, 1e-5, "gradient")


def test_the_same_bits_every_run() -> None:
    x = torch.randn(4, 777, 320, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(320, 4, device="cuda", requires_grad=True)
    bias = torch.randn(320, device="cuda", requires_grad=True)
    first = None
    for _ in range(20):
        y = causal_conv1d(x, weight, bias, "silu")
        results = (y, *torch.autograd.grad(y, (x, weight, bias), torch.ones_like(y)))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


def test_in_a_cuda_graph() -> None:
    x = torch.randn(2, 100, 64, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(64, 4, device="cuda")
    offsets = torch.tensor([0, 30, 100], device="cuda", dtype=torch.int32)
    packed = x[:1]
    causal_conv1d(packed, weight, None, "silu", cu_seqlens=offsets)  # compiled before the recording
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = causal_conv1d(packed, weight, None, "silu", cu_seqlens=offsets)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, causal_conv1d(packed, weight, None, "silu", cu_seqlens=offsets))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_step(dtype: torch.dtype, width: int) -> None:
    g = torch.Generator().manual_seed(width)
    x = torch.randn(5, 2 * 130, generator=g).to("cuda", dtype).chunk(2, dim=-1)[1]
    pool = torch.randn(9, width - 1, 130, generator=g).to("cuda", dtype)
    weight, bias = torch.randn(130, width, generator=g), torch.randn(130, generator=g)
    weight, bias = weight.cuda(), bias.cuda()
    slots = torch.tensor([7, 0, -1, 3, 8], device="cuda")
    cpu = [t.cpu() for t in (x, pool, weight, bias, slots)]
    for indices in (slots, slots.int()):
        wanted, after = causal_conv1d_update(*cpu[:4], "silu", state_indices=cpu[4])
        y, new = causal_conv1d_update(x, pool, weight, bias, "silu", state_indices=indices)
        close(y, wanted, TOLERANCE[dtype], "y")
        assert torch.equal(new.cpu(), after)
        state, cpu_state = pool.clone(), cpu[1].clone()
        before = launch_count()
        y, same = causal_conv1d_update(
            x, state, weight, bias, "silu", in_place=True, state_indices=indices
        )
        assert launch_count() == before + 1
        causal_conv1d_update(
            cpu[0], cpu_state, *cpu[2:4], "silu", in_place=True, state_indices=cpu[4]
        )
        assert same is state
        assert torch.equal(state.cpu(), cpu_state)
        close(y, wanted, TOLERANCE[dtype], "y in place")
