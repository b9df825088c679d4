"""Outputs, final states and all gradients against the float64 oracle, over shapes and options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssmlab.ops import causal_conv1d
from tests.ops.causal_conv1d.oracle import oracle, packed_oracle

# Relative to the largest number of the tensor: rounding of the output, then of fp32 sums.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
BACKENDS = ["cpu", "reference"]


def close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    assert actual.shape == expected.shape, name
    error = (actual.double() - expected.double()).abs().max().item() if actual.numel() else 0.0
    scale = max(1.0, expected.abs().max().item() if expected.numel() else 1.0)
    assert error <= tolerance * scale, f"{name}: error {error}, scale {scale}"


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def leaf(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype).requires_grad_()


def check(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    bias: bool = True,
    activation: str | None = "silu",
    state: bool = False,
    offsets: list[int] | None = None,
    backend: str = "cpu",
    weight_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Compare y, the final state and the gradients of a random scalar of both."""
    batch, length, channels, width = shape
    g = torch.Generator().manual_seed(seed)
    count = batch if offsets is None else len(offsets) - 1
    # x is a view of a wider projection, as in the Mamba block.
    projection = leaf(draw(g, batch, length, 2 * channels), dtype)
    weight = leaf(draw(g, channels, width), weight_dtype or dtype)
    offset = leaf(draw(g, channels) if bias else None, weight_dtype or dtype)
    initial = leaf(draw(g, count, width - 1, channels) if state else None, dtype)
    assert projection is not None
    assert weight is not None
    x = projection.chunk(2, dim=-1)[1]
    grad_y = draw(g, batch, length, channels).to(dtype)
    grad_last = draw(g, count, width - 1, channels).to(dtype)
    cu_seqlens = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)

    y, last = causal_conv1d(
        x,
        weight,
        offset,
        activation,
        initial,
        return_final_state=True,
        cu_seqlens=cu_seqlens,
        backend=backend,
    )
    leaves = [t for t in (projection, weight, offset, initial) if t is not None]
    grads = torch.autograd.grad([y, last], leaves, [grad_y, grad_last])

    wide = [None if t is None else t.detach().double().requires_grad_() for t in
            (projection, weight, offset, initial)]  # fmt: skip
    p64, w64, b64, s64 = wide
    assert p64 is not None
    assert w64 is not None
    x64, silu = p64.chunk(2, dim=-1)[1], activation is not None
    if offsets is None:
        expected, expected_last = oracle(x64, w64, b64, silu, s64)
    else:
        expected, expected_last = packed_oracle(x64, w64, b64, silu, s64, offsets)
    expected_grads = torch.autograd.grad(
        [expected, expected_last],
        [t for t in wide if t is not None],
        [grad_y.double(), grad_last.double()],
        materialize_grads=True,
        allow_unused=True,
    )
    tolerance = TOLERANCE[dtype] * (1 + width / 4)
    assert y.dtype == last.dtype == dtype
    close(y, expected, tolerance, "y")
    assert torch.equal(last.double(), expected_last), "the final state holds inputs as they are"
    for tensor, actual, wanted in zip(leaves, grads, expected_grads, strict=True):
        assert actual.dtype == tensor.dtype
        # Sums over time: an fp32 sum of B*L terms, each with the rounding of its factors.
        close(actual, wanted, 4 * tolerance, f"gradient of shape {tuple(tensor.shape)}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [2, 3, 4])
def test_every_dtype_and_width(dtype: torch.dtype, width: int, backend: str) -> None:
    check((2, 11, 5, width), dtype, state=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 5, 8, 9, 13])
@pytest.mark.parametrize("activation", [None, "swish"])
def test_other_widths(width: int, activation: str | None, backend: str) -> None:
    for state in (False, True):
        check((2, 20, 3, width), torch.float32, activation=activation, state=state, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("state", [False, True])
def test_shorter_than_the_filter(length: int, state: bool, backend: str) -> None:
    for width in (4, 6):
        check((2, length, 3, width), torch.float32, state=state, backend=backend)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 10)),
    bias=st.booleans(),
    activation=st.sampled_from([None, "silu"]),
    state=st.booleans(),
    backend=st.sampled_from(BACKENDS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_options(shape, bias, activation, state, backend, dtype, seed) -> None:
    check(shape, dtype, bias=bias, activation=activation, state=state, backend=backend, seed=seed)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda n: sum(n) > 0),
    width=st.integers(1, 6),
    activation=st.sampled_from([None, "silu"]),
    state=st.booleans(),
    backend=st.sampled_from(BACKENDS),
    seed=st.integers(0, 1000),
)
def test_packed_sequences_are_those_run_alone(
    lengths, width, activation, state, backend, seed
) -> None:
    offsets = [sum(lengths[:s]) for s in range(len(lengths) + 1)]
    check(
        (1, offsets[-1], 3, width),
        torch.float32,
        activation=activation,
        state=state,
        offsets=offsets,
        backend=backend,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ((2, 131, 259, 4), None),  # blocks of 128 rows and 256 channels, ragged at both ends
        ((3, 128, 2, 6), None),  # a block ends where a sequence does
        ((1, 300, 2, 4), [0, 127, 128, 129, 129, 257, 300]),
    ],
)
@pytest.mark.parametrize("state", [False, True])
def test_across_blocks(shape, offsets, state) -> None:
    check(shape, torch.float32, offsets=offsets, state=state)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_of_another_dtype(dtype, weight_dtype, backend) -> None:
    check((2, 9, 4, 4), dtype, weight_dtype=weight_dtype, state=True, backend=backend)


def test_fp16_and_bf16_are_rounded_once() -> None:
    """Sums are kept in fp32: the output is the exact one rounded, not a sum of rounded terms."""
    g = torch.Generator().manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        x, weight = draw(g, 2, 64, 8).to(dtype), draw(g, 8, 4).to(dtype)
        expected, _ = oracle(x, weight)
        y = causal_conv1d(x, weight, backend="cpu")
        assert (y == expected.to(dtype)).double().mean() > 0.999
