"""The backends as torch operators: opcheck, compiling, fake and meta tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan import operator
from tests.ops.selective_scan.samples import TENSORS, Case, make, relative_error


def flat(arguments: dict[str, Any]) -> list[Any]:
    names = (*TENSORS, "cu_seqlens")
    return [*(arguments.get(name) for name in names), arguments["delta_softplus"]]


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 70, 3, 2),
        Case(2, 70, 3, 2, dtype=torch.float32, is_complex=True, B="constant"),
        Case(1, 70, 4, 2, C="groups", bounds=(0, 40, 40, 70), extras=frozenset({"z"})),
    ],
    ids=["real", "complex", "packed"],
)
def test_opcheck(case: Case) -> None:
    arguments = flat(make(case))
    tensors = [
        t.requires_grad_() if isinstance(t, Tensor) and t.dtype != torch.int32 else t
        for t in arguments
    ]
    forward = torch.ops.ssmlab.selective_scan.default
    torch.library.opcheck(forward, (*tensors, True, "cpu"))
    plain = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
    torch.library.opcheck(forward, (*plain, False, "cpu"))
    y, last, kept = forward(*plain, True, "cpu")
    backward = torch.ops.ssmlab.selective_scan_backward.default
    torch.library.opcheck(backward, (y, last, kept, *plain, "cpu"))
    torch.library.opcheck(backward, (y, None, kept, *plain, "cpu"))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("bounds", [None, (0, 30, 30, 50)])
def test_compiles_as_one_graph(is_complex: bool, bounds: tuple[int, ...] | None) -> None:
    arguments = make(Case(1, 50, 5, 2, is_complex=is_complex, bounds=bounds))

    def loss(*tensors: Tensor) -> Tensor:
        given = dict(zip(TENSORS, tensors, strict=True))
        y, last = selective_scan(
            **given,
            delta_softplus=True,
            cu_seqlens=arguments.get("cu_seqlens"),
            return_last_state=True,
        )
        return y.square().sum() + last.abs().square().sum()

    results = []
    for f in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [arguments[name].clone().requires_grad_() for name in TENSORS]
        value = f(*leaves)
        results.append([value, *torch.autograd.grad(value, leaves)])
    for plain, compiled in zip(*results, strict=True):
        assert relative_error(compiled, plain) < 1e-12


def test_compiles_with_changing_lengths() -> None:
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (3, 40, 70):
        arguments = make(Case(2, length, 5, 2))
        y = compiled(**arguments)
        assert relative_error(y, selective_scan(**arguments, backend="reference")) < 1e-12


def test_autocast_leaves_the_sums_in_float32() -> None:
    arguments = make(Case(1, 9, 4, 2, dtype=torch.float32))
    arguments["u"] = arguments["u"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = selective_scan(**arguments, return_last_state=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("bounds", [None, (0, 3, 9)])
def test_meta_tensors(is_complex: bool, bounds: tuple[int, ...] | None) -> None:
    arguments = make(Case(1, 9, 4, 2, is_complex=is_complex, bounds=bounds))
    real = selective_scan(**arguments, return_last_state=True)
    for where in ("meta", "cpu"):  # the offsets may stay on the host
        moved = {
            k: v.to(where if k == "cu_seqlens" else "meta") if isinstance(v, Tensor) else v
            for k, v in arguments.items()
        }
        for t in moved.values():
            if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()):
                t.requires_grad_()
        y, last = selective_scan(**moved, return_last_state=True)
        assert [(t.shape, t.dtype) for t in (y, last)] == [(t.shape, t.dtype) for t in real]
        assert y.device.type == "meta"
        (y.sum() + last.abs().sum()).backward()
        assert moved["A"].grad.shape == moved["A"].shape


def test_fake_tensors_with_offsets() -> None:
    with FakeTensorMode() as mode:
        arguments = make(Case(1, 9, 4, 2, bounds=(0, 3, 9)))
        arguments = {
            k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in arguments.items()
        }
        y, last = selective_scan(**arguments, return_last_state=True)
    assert y.shape == (1, 9, 4)
    assert last.shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("sizes", "along_time"),
    [
        ((2, 8, 12, 4), True),
        ((2, 8, 12, 16), True),
        ((2, 9, 12, 4), False),
        ((2, 8, 10, 4), False),
        ((2, 8, 12, 3), False),
        ((2, 8, 12, 68), False),
    ],
)
def test_on_a_gpu_the_output_lies_in_memory_as_u(
    sizes: tuple[int, int, int, int], along_time: bool
) -> None:
    batch, length, channels, states = sizes
    kind = {"device": "meta"}
    u = torch.empty(batch, channels, length, **kind).transpose(1, 2)
    A, B = torch.empty(channels, states, **kind), torch.empty(batch, length, states, **kind)
    for given, expected in ((u, along_time), (u.contiguous(), False)):
        y = torch.ops.ssmlab.selective_scan(
            given, u, A, B, B, None, None, None, None, None, True, False, "cuda"
        )[0]
        assert y.shape == u.shape
        assert y.transpose(1, 2).is_contiguous() is expected
        assert y.is_contiguous() is not expected


@pytest.mark.parametrize("n", [1, 16, 17, 64, 200])
def test_what_is_kept_is_bounded_by_u(n: int) -> None:
    chunk = operator.chunk_length(n)
    assert chunk % operator.CHUNK == 0
    assert n / chunk <= max(0.5, n / 128)


def test_without_gradients_nothing_is_kept() -> None:
    arguments = flat(make(Case(1, 200, 4, 2)))
    kept = torch.ops.ssmlab.selective_scan(*arguments, False, "cpu")[2]
    assert kept.numel() == 0
