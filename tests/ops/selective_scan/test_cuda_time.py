"""The cuda backend where u lies in memory as (B, D, L): y does so too, and no copy is made."""

import pytest
import torch
from torch import Tensor

from ssmlab.ops import _cuda
from ssmlab.ops.selective_scan import selective_scan, selective_scan_fn
from ssmlab.ops.selective_scan.cuda import fast
from ssmlab.ops.selective_scan.cuda.inputs import time_rows
from ssmlab.ops.selective_scan.cuda.plan import BackwardPlan, ForwardPlan
from tests.ops.selective_scan.cuda_cases import (
    Case,
    compare,
    make_case,
    run,
    scan,
    time_case,
    turned,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poison"),
    pytest.mark.skipif(_cuda.unavailable_reason() is not None, reason="no CUDA kernels here"),
]


def check(case: Case, dtype: torch.dtype, with_last: bool = True) -> None:
    _, y, _ = scan(case)
    assert y.transpose(1, 2).is_contiguous()
    compare(case, dtype, with_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [4, 28, 36, 200])
@pytest.mark.parametrize("channels", [4, 24, 136])
def test_lengths_and_channels(dtype: torch.dtype, length: int, channels: int) -> None:
    check(time_case(length=length, channels=channels, dtype=dtype, groups=1), dtype)


@pytest.mark.parametrize("states", [4, 8, 12, 16, 32, 48, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states(states: int, dtype: torch.dtype) -> None:
    check(time_case(3, 52, 72, states, dtype=dtype), dtype)


@pytest.mark.parametrize(
    "kinds", ["group step", "step group", "constant constant", "step constant"]
)
def test_factors(kinds: str) -> None:
    B, C = kinds.split()
    check(time_case(length=52, channels=96, B=B, C=C, dtype=torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("softplus", [False, True])
def test_without_the_optional_parts(softplus: bool) -> None:
    case = time_case(2, 52, 72, softplus=softplus, extras=False, dtype=torch.bfloat16)
    check(case, torch.bfloat16, with_last=False)


@pytest.mark.parametrize(
    "plan",
    [
        ForwardPlan(4, 1, 4, 4, 2, 2, 64),
        ForwardPlan(2, 2, 2, 2, 3, 2, 32),
        ForwardPlan(2, 2, 2, 4, 2, 2, 32),
        ForwardPlan(1, 4, 1, 2, 1, 2, 96),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_time(plan: ForwardPlan, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.plans, "plan_forward", lambda *_: plan)
    backward = BackwardPlan(1, 4, 8, 2, 0, 0, 2, 64)
    monkeypatch.setattr(fast.plans, "plan_backward", lambda *_: backward)
    for length in (300, 1300):  # few chunks and many
        check(time_case(2, length, 40, dtype=dtype), dtype)


@pytest.mark.parametrize("layout", ["halves", "length first", "odd offset", "u alone", "expanded"])
def test_strides(layout: str) -> None:
    case = make_case(2, 44, 72, dtype=torch.bfloat16)
    t = case.tensors
    for name in ("u", "delta", "z"):
        x = t[name]
        assert x is not None
        if layout == "halves":
            t[name] = torch.cat((x, x), -1).transpose(1, 2).contiguous().transpose(1, 2)[..., :72]
        elif layout == "length first":  # (D, B, L) in memory
            t[name] = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        elif layout == "odd offset":
            t[name] = turned(torch.cat((x[:, :1], x, x[:, :2]), 1))[:, 1:45]
        elif name == "u" or (layout == "expanded" and name == "z"):
            t[name] = turned(x)
        elif layout == "expanded":
            t[name] = turned(x[:, :, :1]).expand(x.shape)
    check(case, torch.bfloat16)


@pytest.mark.parametrize(("length", "states"), [(33, 16), (44, 3)])
def test_what_does_not_fit_is_copied(length: int, states: int) -> None:
    compare(time_case(2, length, 24, states, dtype=torch.bfloat16), torch.bfloat16)


def test_mixed_types() -> None:
    case = time_case(2, 44, 24, dtype=torch.bfloat16)
    delta = case.tensors["delta"]
    assert delta is not None
    case.tensors["delta"] = delta.float()
    check(case, torch.bfloat16)


def test_nothing_is_copied() -> None:
    case = time_case(2, 44, 24, dtype=torch.bfloat16)
    u = case.tensors["u"]
    assert u is not None
    _, _, du, ddelta, *_ = run(case, turned(torch.randn_like(u)), None)
    for grad in (du, ddelta):
        assert grad.transpose(1, 2).is_contiguous()
    assert time_rows(u, torch.bfloat16).data_ptr() == u.data_ptr()


def test_same_bits_every_run() -> None:
    case = time_case(3, 200, 72, dtype=torch.bfloat16)
    u = case.tensors["u"]
    assert u is not None
    grad = torch.randn_like(u)
    first = run(case, grad, None)
    for _ in range(9):
        for a, b in zip(first, run(case, grad, None), strict=True):
            assert torch.equal(a, b)


def test_the_field_s_function_returns_a_contiguous_tensor() -> None:
    case = make_case(2, 44, 24, dtype=torch.bfloat16)
    u, delta, A, B, C, D, z, bias, _ = case.args
    y = selective_scan(u, delta, A, B, C, D, z, bias, True)
    own = [x.transpose(1, 2).contiguous() for x in (u, delta, B, C, z)]
    other = selective_scan_fn(own[0], own[1], A, own[2], own[3], D, own[4], bias, True)
    assert isinstance(other, Tensor)
    assert other.is_contiguous()
    torch.testing.assert_close(other.transpose(1, 2), y, rtol=1e-2, atol=1e-2)


def test_tracing_knows_the_layout() -> None:
    torch.use_deterministic_algorithms(False)
    for names in (("u", "delta", "z"), ("u",), ("delta",)):
        case = time_case(2, 44, 24, dtype=torch.bfloat16, names=names)
        args = [None if t is None else t.detach().requires_grad_() for t in case.args]
        tests = ("test_schema", "test_faketensor")
        given = (*args, None, True, True, "cuda")
        torch.library.opcheck(torch.ops.ssmlab.selective_scan, given, test_utils=tests)
        plain = [None if t is None else t.detach() for t in args]
        y, last, kept = torch.ops.ssmlab.selective_scan(*plain, None, True, True, "cuda")
        given = (y, last, kept, *plain, None, True, "cuda")
        torch.library.opcheck(torch.ops.ssmlab.selective_scan_backward, given, test_utils=tests)
