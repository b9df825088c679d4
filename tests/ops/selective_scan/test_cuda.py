"""The cuda backend against float64: every kind of argument, ragged sizes, NaN-poisoned outputs."""

import pytest
import torch
from torch import Tensor

from ssmlab.ops import _cuda
from ssmlab.ops.selective_scan import selective_scan
from ssmlab.ops.selective_scan.cuda import fast
from ssmlab.ops.selective_scan.cuda.plan import BackwardPlan, ForwardPlan
from tests.ops.selective_scan.cuda_cases import compare, make_case, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poison"),
    pytest.mark.skipif(_cuda.unavailable_reason() is not None, reason="no CUDA kernels here"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 31, 33, 200])
def test_lengths_and_types(dtype: torch.dtype, length: int) -> None:
    compare(make_case(length=length, dtype=dtype), dtype)


@pytest.mark.parametrize("states", [1, 2, 3, 4, 7, 8, 16, 17, 32, 33, 48, 64])
@pytest.mark.parametrize("channels", [1, 40])
def test_states_and_channels(states: int, channels: int) -> None:
    compare(make_case(channels=channels, states=states, length=37), torch.float32)


@pytest.mark.parametrize("kinds", ["group step", "step group", "group group"])
@pytest.mark.parametrize("channels", [6, 48, 200])
def test_groups(kinds: str, channels: int) -> None:
    B, C = kinds.split()
    compare(make_case(channels=channels, B=B, C=C, dtype=torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("extras", [False, True])
def test_without_the_optional_parts(softplus: bool, extras: bool) -> None:
    case = make_case(softplus=softplus, extras=extras, dtype=torch.bfloat16)
    compare(case, torch.bfloat16, with_last=extras)


CONSTANT = ["constant constant", "constant group", "step constant"]


@pytest.mark.parametrize("kinds", CONSTANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "channels"), [(1, 200), (33, 6), (200, 96)])
def test_constant_factors(kinds: str, dtype: torch.dtype, length: int, channels: int) -> None:
    B, C = kinds.split()
    compare(make_case(length=length, channels=channels, B=B, C=C, dtype=dtype), dtype)


@pytest.mark.parametrize("states", [1, 2, 3, 8, 17, 32, 64])
def test_states_of_constant_factors(states: int) -> None:
    for kinds in CONSTANT:
        B, C = kinds.split()
        case = make_case(states=states, channels=40, B=B, C=C, dtype=torch.bfloat16)
        compare(case, torch.bfloat16)


@pytest.mark.parametrize("complex_A", [False, True])
@pytest.mark.parametrize("kinds", CONSTANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_general(complex_A: bool, kinds: str, dtype: torch.dtype) -> None:
    B, C = kinds.split()
    compare(make_case(complex_A=complex_A, B=B, C=C, dtype=dtype, channels=40), dtype, False)


@pytest.mark.parametrize("complex_A", [False, True])
@pytest.mark.parametrize("states", [1, 5, 65, 256, 300])
def test_general_states(complex_A: bool, states: int) -> None:
    compare(make_case(complex_A=complex_A, states=states, channels=8, groups=4), torch.float32)


def test_complex_with_steps_and_last_state() -> None:
    case = make_case(complex_A=True, B="group", C="step", length=65, dtype=torch.float64)
    compare(case, torch.float64)


@pytest.mark.parametrize("complex_A", [False, True])
@pytest.mark.parametrize(
    "bounds", [[0, 33], [0, 1, 2, 33], [0, 0, 16, 16, 32, 47, 64], [0, 5, 100, 100, 131, 200]]
)
def test_packed(complex_A: bool, bounds: list[int]) -> None:
    case = make_case(1, bounds[-1], 40, complex_A=complex_A, bounds=bounds)
    compare(case, torch.float32)


# Layouts the plans choose for other sizes or GPUs, with time split into short chunks.
FORWARD = [
    ForwardPlan(4, 1, 4, 4, 2, 2, 64),
    ForwardPlan(2, 2, 2, 2, 3, 2, 32),
    ForwardPlan(1, 4, 1, 2, 1, 2, 96),
]
BACKWARD = [BackwardPlan(1, 4, 8, 2, 0, 0, 2, 64), BackwardPlan(1, 4, 8, 1, 0, 0, 1, 32)]


@pytest.mark.parametrize("forward", FORWARD, ids=str)
@pytest.mark.parametrize("bounds", [None, [0, 3, 3, 70, 150, 301]], ids=["batch", "packed"])
def test_split_time(
    forward: ForwardPlan, bounds: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast.plans, "plan_forward", lambda *_: forward)
    for backward in BACKWARD:
        monkeypatch.setattr(fast.plans, "plan_backward", lambda *_, plan=backward: plan)
        for kinds in ("step step", *CONSTANT):
            B, C = kinds.split()
            case = make_case(1 if bounds else 2, 301, 40, bounds=bounds, B=B, C=C)
            compare(case, torch.float32)


@pytest.mark.parametrize("layout", ["channels first", "slices", "expanded delta", "odd offset"])
def test_strides(layout: str) -> None:
    case = make_case(dtype=torch.bfloat16, channels=24)
    t = case.tensors
    for name in ("u", "delta", "z"):
        x = t[name]
        assert x is not None
        if layout == "channels first":
            t[name] = x.transpose(1, 2).contiguous().transpose(1, 2)
        elif layout == "slices":
            t[name] = torch.cat((x, x, x), -1)[..., 24:48]
        elif layout == "expanded delta" and name == "delta":
            t[name] = x[..., :1].expand(x.shape)
        elif layout == "odd offset":
            t[name] = torch.cat((x[..., :1], x, x[..., :2]), -1)[..., 1:25]
    compare(case, torch.bfloat16)


def test_mixed_types() -> None:
    case = make_case(dtype=torch.bfloat16)
    delta = case.tensors["delta"]
    assert delta is not None
    case.tensors["delta"] = delta.float()
    compare(case, torch.bfloat16)


@pytest.mark.parametrize("complex_A", [False, True])
def test_same_bits_every_run(complex_A: bool) -> None:
    case = make_case(3, 200, 72, dtype=torch.float32, complex_A=complex_A)
    u = case.tensors["u"]
    assert u is not None
    grad = torch.randn_like(u)
    first = run(case, grad, None)
    for _ in range(19):
        for a, b in zip(first, run(case, grad, None), strict=True):
            assert torch.equal(a, b)


def test_gradcheck() -> None:
    case = make_case(1, 18, 2, 3, dtype=torch.float64, complex_A=True, groups=1)
    args = [None if t is None else t.detach().requires_grad_() for t in case.args]

    def scan(*given: Tensor) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, D, z, bias, state = given
        y, last = selective_scan(
            u, delta, A, B, C, D, z, bias, True, state, return_last_state=True, backend="cuda"
        )
        return y, torch.view_as_real(last)

    assert torch.autograd.gradcheck(scan, args, eps=1e-6, atol=1e-6)


def test_cuda_graph() -> None:
    case = make_case(2, 100, 64, dtype=torch.bfloat16)
    args = [None if t is None else t.detach().requires_grad_() for t in case.args]
    grad = torch.randn_like(args[0])  # type: ignore[arg-type]

    def step() -> tuple[Tensor, ...]:
        u, delta, A, B, C, D, z, bias, state = args
        y = selective_scan(u, delta, A, B, C, D, z, bias, True, state)
        return (y, *torch.autograd.grad(y, [t for t in args if t is not None], grad))

    torch.use_deterministic_algorithms(False)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # no graph of autograd may live on from another stream
        expected = [t.detach().clone() for t in step()]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    for t in outputs:
        t.detach().fill_(float("nan"))
    graph.replay()
    for a, b in zip(expected, outputs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    case = make_case(2, 50, 64, dtype=torch.bfloat16)
    args = [None if t is None else t.detach().requires_grad_() for t in case.args]

    def step(*given: Tensor) -> Tensor:
        u, delta, A, B, C, D, z, bias, state = given
        return selective_scan(u * 2, delta, A, B, C, D, z, bias, True, state) * 3

    torch.use_deterministic_algorithms(False)
    expected = step(*args)
    expected_grad = torch.autograd.grad(expected.sum(), args[0])[0]  # type: ignore[arg-type]
    compiled = torch.compile(step, fullgraph=True)(*args)
    grad = torch.autograd.grad(compiled.sum(), args[0])[0]  # type: ignore[arg-type]
    torch.testing.assert_close(compiled, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_more_than_2_to_31_elements() -> None:
    """Offsets beyond 32 bits: the second half alone, from the first half's last state."""
    length, channels, states = 2**20 + 64, 2048, 2
    kind = {"dtype": torch.bfloat16, "device": "cuda"}
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    torch.use_deterministic_algorithms(False)
    u, delta = (torch.randn(1, length, channels, **kind) for _ in range(2))
    B, C = (torch.randn(1, length, states, **kind) for _ in range(2))
    A = -torch.rand(channels, states, device="cuda") - 0.1
    y, last = selective_scan(
        u, delta, A, B, C, delta_softplus=True, return_last_state=True, backend="cuda"
    )
    half = length // 2
    _, state = selective_scan(
        u[:, :half], delta[:, :half], A, B[:, :half], C[:, :half],
        delta_softplus=True, return_last_state=True, backend="cuda",
    )  # fmt: skip
    y2, last2 = selective_scan(
        u[:, half:], delta[:, half:], A, B[:, half:], C[:, half:],
        delta_softplus=True, initial_state=state, return_last_state=True, backend="cuda",
    )  # fmt: skip
    torch.testing.assert_close(last, last2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y[:, -4096:], y2[:, -4096:], rtol=1e-2, atol=1e-2)
