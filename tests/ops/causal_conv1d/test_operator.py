"""The torch operator: opcheck, gradcheck, torch.compile, autocast."""

import pytest
import torch

from ssmlab.ops import causal_conv1d, causal_conv1d_fn
from ssmlab.ops.causal_conv1d.custom_op import backward_op, forward_op


def arguments(
    dtype: torch.dtype, state: bool, packed: bool, seq_idx: bool = False, grad: bool = True
) -> tuple[torch.Tensor | None, ...]:
    g = torch.Generator().manual_seed(0)
    batch, length, channels, width = (1 if packed else 2), 7, 3, 4
    count = 3 if packed else batch

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(dtype).requires_grad_(grad)

    return (
        draw(batch, length, channels),
        draw(channels, width),
        draw(channels) if state else None,
        draw(count, width - 1, channels) if state else None,
        torch.tensor([0, 2, 2, 7], dtype=torch.int32) if packed else None,
        torch.tensor([[0, 0, 1, 1, 1, -1, -1]] * batch, dtype=torch.int32) if seq_idx else None,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("state", "packed", "seq_idx"),
    [(False, False, False), (True, False, False), (True, True, False), (False, False, True)],
)
def test_opcheck(dtype, state, packed, seq_idx) -> None:
    given = arguments(dtype, state, packed, seq_idx)
    torch.library.opcheck(forward_op, (*given, True))
    grad_y = torch.randn(2 if not packed else 1, 7, 3).to(dtype)
    given = arguments(dtype, state, packed, seq_idx, grad=False)
    torch.library.opcheck(backward_op, (grad_y, *given, True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("packed", [False, True])
def test_gradcheck(backend, activation, packed) -> None:
    *tensors, cu_seqlens, _ = arguments(torch.float64, True, packed)

    def run(x, weight, bias, state):
        return causal_conv1d(
            x,
            weight,
            bias,
            activation,
            state,
            return_final_state=True,
            cu_seqlens=cu_seqlens,
            backend=backend,
        )

    assert torch.autograd.gradcheck(run, tensors)
    if backend == "reference":
        assert torch.autograd.gradgradcheck(run, tensors)


def test_short_inputs_gradcheck() -> None:
    """Shorter than W-1: the final state then depends on the initial one."""
    g = torch.Generator().manual_seed(0)
    shapes = ((1, 2, 2), (2, 5), (1, 4, 2))
    x, weight, state = (
        torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    )
    assert torch.autograd.gradcheck(
        lambda x, w, s: causal_conv1d(x, w, None, "silu", s, return_final_state=True),
        (x, weight, state),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_compiles_without_a_break(packed) -> None:
    """The graph is whole, for any length and packing; results and gradients are equal."""

    def model(x, weight, bias, state, offsets):
        y, last = causal_conv1d(
            2 * x, weight, bias, "silu", state, return_final_state=True, cu_seqlens=offsets
        )
        z = causal_conv1d_fn(y.transpose(1, 2), weight).transpose(1, 2)
        return y + z, last

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    g = torch.Generator().manual_seed(0)
    for length, cuts in ((6, [0, 1, 6]), (9, [0, 4, 4, 9])):
        batch, states = (1, len(cuts) - 1) if packed else (2, 2)
        given = [
            torch.randn(*shape, generator=g, requires_grad=True)
            for shape in ((batch, length, 3), (3, 4), (3,), (states, 3, 3))
        ]
        offsets = torch.tensor(cuts, dtype=torch.int32) if packed else None
        expected, actual = model(*given, offsets), compiled(*given, offsets)
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)
        loss = [out.square().sum() for out in (*expected, *actual)]
        wanted = torch.autograd.grad(loss[0] + loss[1], given)
        got = torch.autograd.grad(loss[2] + loss[3], given)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    x, weight = torch.ones(1, 5, 2, requires_grad=True), torch.ones(2, 3)
    y = causal_conv1d(x, weight, activation="silu", backend="cpu")
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(grad.sum(), x)


def test_under_autocast() -> None:
    """x comes in bfloat16 from a projection, parameters stay in float32."""
    g = torch.Generator().manual_seed(0)
    x, project = torch.randn(2, 9, 4, generator=g), torch.randn(4, 4, generator=g)
    weight = torch.randn(4, 4, generator=g).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_conv1d(x @ project, weight, activation="silu")
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_shapes_on_the_meta_device() -> None:
    x, weight = torch.empty(2, 9, 4, device="meta"), torch.empty(4, 4, device="meta")
    y, last = causal_conv1d(x, weight, activation="silu", return_final_state=True)
    assert y.is_meta
    assert (y.shape, last.shape) == ((2, 9, 4), (2, 3, 4))
    assert causal_conv1d(x, weight, backend="cpu").shape == (2, 9, 4)
