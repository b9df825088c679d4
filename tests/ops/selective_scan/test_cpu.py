"""The compiled CPU backend against the reference, outputs and all gradients, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops import selective_scan
from tests.ops.selective_scan.samples import Case, assert_same, make, relative_error, run

KINDS = ("constant", "step", "groups")


def check(case: Case) -> None:
    arguments = make(case)
    assert_same(run(arguments, "cpu"), run(arguments, "reference"), 1e-11)


@pytest.mark.parametrize(("B", "C"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize("is_complex", [False, True])
def test_every_kind_of_B_and_C(is_complex: bool, B: str, C: str) -> None:
    check(Case(is_complex=is_complex, B=B, C=C))


@pytest.mark.parametrize(
    ("B", "C"), [("real step", "step"), ("step", "real constant"), ("real groups", "real step")]
)
def test_real_B_or_C_with_complex_A(B: str, C: str) -> None:
    check(Case(is_complex=True, B=B, C=C))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1),
        (1, 1, 64, 5),
        (3, 2, 1, 4),
        (2, 33, 130, 1),  # one step more than a chunk, three tiles
        (1, 64, 65, 2),
        (2, 40, 5, 6),  # four states at once, and a rest
        (1, 140, 3, 70),  # long chunks, several blocks of states
        (40, 3, 3, 2),  # more sequences than lanes
    ],
)
def test_sizes(is_complex: bool, sizes: tuple[int, int, int, int]) -> None:
    batch, length, channels, n = sizes
    check(Case(batch, length, channels, n, is_complex=is_complex))


def test_many_states() -> None:
    check(Case(1, 130, 2, 256))  # two chunks of 128 steps


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("extra", ["none", "D", "z", "delta_bias", "initial_state"])
def test_each_extra_alone(is_complex: bool, extra: str) -> None:
    extras = frozenset({extra}) - {"none"}
    check(Case(1, 35, 5, 5, is_complex=is_complex, extras=extras, softplus=False))


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Case,
        batch=st.integers(1, 3),
        length=st.integers(1, 70),
        channels=st.sampled_from([2, 4, 64, 66, 128]),
        n=st.integers(1, 20),
        is_complex=st.booleans(),
        B=st.sampled_from(KINDS),
        C=st.sampled_from(KINDS),
        extras=st.frozensets(st.sampled_from(["D", "z", "delta_bias", "initial_state"])),
        softplus=st.booleans(),
        seed=st.integers(0, 100),
    )
)
def test_any_case(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("is_complex", [False, True])
def test_more_groups_than_one_per_channel_allows(is_complex: bool) -> None:
    arguments = make(Case(2, 9, 6, 2, is_complex=is_complex))
    kind = arguments["B"].dtype
    arguments["B"] = torch.randn(2, 9, 6, 2, dtype=kind)  # a group per channel
    arguments["C"] = torch.randn(2, 9, 3, 2, dtype=kind)
    assert_same(run(arguments, "cpu"), run(arguments, "reference"), 1e-11)


def test_gradient_of_the_last_state_alone() -> None:
    arguments = make(Case())
    grads = []
    for backend in ("cpu", "reference"):
        u = arguments["u"].clone().requires_grad_()
        _, last = selective_scan(**{**arguments, "u": u}, return_last_state=True, backend=backend)
        grads.append(torch.autograd.grad(last.square().sum(), u)[0])
    assert relative_error(*grads) < 1e-12


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    arguments = make(Case(1, 5, 4, 2))
    arguments["A"].requires_grad_()
    selective_scan(**arguments, backend="cpu").sum().backward()
    assert arguments["A"].grad is not None
    assert all(
        value.grad is None
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and name != "A"
    )


def test_growing_states() -> None:
    arguments = make(Case(1, 20, 3, 2, softplus=False))
    arguments["A"] = -arguments["A"]
    assert_same(run(arguments, "cpu"), run(arguments, "reference"), 1e-11)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponents_out_of_range_here_and_there(dtype: torch.dtype, sign: int) -> None:
    """A chunk with such a step is computed another way than its neighbours."""
    length, channels = 100, 70
    g = torch.Generator().manual_seed(0)
    u, delta = torch.rand(2, 1, length, channels, generator=g, dtype=dtype)
    B, C = torch.randn(2, 1, length, 5, generator=g, dtype=dtype)
    A = -torch.rand(channels, 5, generator=g, dtype=dtype)
    delta[0, [3, 40, 99], [1, 66, 2]] = 1e4 * sign
    if sign < 0:
        A[[1, 66, 2]] *= -1  # still a decay
    y, last = selective_scan(u, delta, A, B, C, return_last_state=True, backend="cpu")
    exact = [t.double() for t in (u, delta, A, B, C)]
    want, want_last = selective_scan(*exact, return_last_state=True, backend="reference")
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    assert relative_error(y, want) < limit
    assert relative_error(last, want_last) < limit


@pytest.mark.parametrize("is_complex", [False, True])
def test_nan_goes_forward_in_time_and_stays_in_its_channel(is_complex: bool) -> None:
    arguments = make(Case(1, 40, 70, 2, is_complex=is_complex))
    arguments["u"][0, 20, 66] = float("nan")
    y = selective_scan(**arguments, backend="cpu")
    bad = torch.zeros(40, 70, dtype=torch.bool)
    bad[20:, 66] = True
    assert torch.equal(y[0].isnan(), bad)
