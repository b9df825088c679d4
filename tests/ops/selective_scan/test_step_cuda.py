"""The CUDA kernel of a decoding step against the step in float64.

Shapes: B batch, D channels, N state, G groups, P slots.
"""

import pytest
import torch
from torch import Tensor

from ssmlab.ops import selective_scan_update, selective_state_update
from ssmlab.ops._cuda import launch_count

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def inputs(dtype: torch.dtype, state: torch.dtype, n: int, groups: int, slots: int):
    g = torch.Generator().manual_seed(n + groups)
    batch, channels = 6, 24

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    low = draw(batch, 3 + 2 * groups * n).to(dtype)  # B and C as columns of a projection
    B, C = low[:, 3:].unflatten(1, (2, groups, n)).unbind(1)
    z = draw(batch, 2 * channels).to(dtype).chunk(2, dim=-1)[1]
    A = -torch.rand(channels, n, generator=g) * n
    return [
        *(draw(slots, channels, n).to(state), draw(batch, channels).to(dtype)),
        *(draw(batch, channels).to(dtype), A, B, C, draw(channels), z, draw(channels)),
    ]


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    difference = (actual.double().cpu() - expected.double().cpu()).norm()
    assert difference <= tolerance * expected.double().norm(), difference


@pytest.mark.parametrize("n", [1, 3, 4, 16, 20, 64, 130, 256])
@pytest.mark.parametrize("groups", [1, 3])
def test_sizes(n: int, groups: int) -> None:
    check(torch.bfloat16, torch.float32, n, groups)
    check(torch.float32, torch.float32, n, groups)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_a_state_of_the_activations_dtype(dtype: torch.dtype) -> None:
    check(dtype, dtype, 16, 1)


def check(dtype: torch.dtype, state: torch.dtype, n: int, groups: int) -> None:
    given = inputs(dtype, state, n, groups, slots=9)
    slots = torch.tensor([5, 0, 8, -1, 2, 7])
    wide = [t.double() for t in given]
    y64, h64 = selective_scan_update(*wide, True, state_indices=slots)
    expected = wide[0].clone()
    expected[slots[slots >= 0]] = h64[slots >= 0]

    device = [t.cuda() for t in given]
    # A copy keeps values, not strides: cut B, C and z out of wider rows again.
    for place in (4, 5, 7):
        device[place] = torch.cat((device[place],) * 2, dim=-1)[..., : device[place].shape[-1]]
    before = launch_count()
    y, h = selective_scan_update(*device, True, state_indices=slots.cuda())
    assert launch_count() == before + 1
    assert h.dtype == torch.float32
    close(y, y64, TOLERANCE[dtype])
    close(h, h64, 1e-5)
    pool = device[0].clone()
    y = selective_state_update(pool, *device[1:], True, slots.cuda().int())
    assert launch_count() == before + 2
    close(y, y64, TOLERANCE[dtype])
    close(pool, expected, max(1e-5, TOLERANCE[state] if state != torch.float32 else 0))
    assert torch.equal(pool[[1, 3, 4, 6]].cpu(), given[0][[1, 3, 4, 6]]), "others are as they were"


def test_constant_factors_a_static_delta_and_mixed_dtypes() -> None:
    state, u, _, A, _, _, D, z, bias = inputs(torch.bfloat16, torch.float32, 16, 1, slots=6)
    B, C = torch.randn(24, 16), torch.randn(24, 16)
    given = (state, u, u.new_zeros(()).expand_as(u), A, B, C, D, z, bias)
    y64, h64 = selective_scan_update(
        *(t.double() for t in given), True, constant_B=True, constant_C=True
    )
    device = [t.cuda() for t in given]
    device[2] = device[1].new_zeros(()).expand_as(device[1])
    y, h = selective_scan_update(*device, True, constant_B=True, constant_C=True)
    close(y, y64, TOLERANCE[torch.bfloat16])
    close(h, h64, 1e-5)


def test_compiled_without_a_break_and_in_a_graph() -> None:
    device = [t.cuda() for t in inputs(torch.bfloat16, torch.float32, 16, 1, slots=6)]
    pool = device[0].clone()

    def step(state: Tensor) -> Tensor:
        return selective_state_update(state, *device[1:], True) * 2

    expected = step(pool)
    again = device[0].clone()
    compiled = torch.compile(step, fullgraph=True)
    assert torch.equal(compiled(again), expected)
    assert torch.equal(again, pool)
    replayed = device[0].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(replayed)
    replayed.copy_(device[0])
    graph.replay()
    assert torch.equal(y, expected)
    assert torch.equal(replayed, pool)
