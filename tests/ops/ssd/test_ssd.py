"""The chunked SSD against its recurrence, against the selective scan, and its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.ops import selective_scan, ssd, ssd_update
from ssmlab.ops.ssd import ssd_reference


def arguments(batch=2, length=11, heads=4, width=3, groups=2, n=5, seed=0):
    torch.manual_seed(seed)

    def f(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    return {
        "x": f(batch, length, heads, width),
        "delta": 0.3 * f(batch, length, heads).exp(),
        "A": -f(heads).exp(),
        "B": f(batch, length, groups, n),
        "C": f(batch, length, groups, n),
        "D": f(heads),
        "initial_state": f(batch, heads, width, n),
    }


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 17), st.sampled_from([1, 2, 4]))
def test_chunks_of_any_size_equal_the_recurrence(length, chunk_size, groups):
    given_ = arguments(length=length, groups=groups)
    y, last = ssd(**given_, return_last_state=True, chunk_size=chunk_size)
    expected, expected_last = ssd_reference(**given_)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, expected_last, rtol=1e-10, atol=1e-12)


def test_equals_a_selective_scan_whose_channels_of_a_head_share_A_and_delta():
    g = arguments(groups=2)
    heads, width = g["x"].shape[2:]
    y, last = selective_scan(
        g["x"].flatten(2),
        g["delta"].repeat_interleave(width, 2),
        g["A"].repeat_interleave(width)[:, None].expand(-1, 5).contiguous(),
        g["B"],
        g["C"],
        g["D"].repeat_interleave(width),
        initial_state=g["initial_state"].flatten(1, 2),
        return_last_state=True,
        backend="reference",
    )
    ours, ours_last = ssd(**g, return_last_state=True, chunk_size=4)
    torch.testing.assert_close(ours.flatten(2), y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours_last.flatten(1, 2), last, rtol=1e-10, atol=1e-12)
    assert heads == 4


def test_steps_equal_the_whole():
    g = arguments()
    state, outputs = g["initial_state"], []
    for t in range(11):
        parts = (g[name][:, t] for name in ("x", "delta"))
        y, state = ssd_update(state, *parts, g["A"], g["B"][:, t], g["C"][:, t], g["D"])
        outputs.append(y)
    y, last = ssd(**g, return_last_state=True, chunk_size=4)
    torch.testing.assert_close(torch.stack(outputs, 1), y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-12)


def test_gradients():
    g = {k: v.requires_grad_() for k, v in arguments(1, 7, 2, 2, 1, 3).items()}
    names = list(g)

    def run(*tensors):
        return ssd(**dict(zip(names, tensors, strict=True)), return_last_state=True, chunk_size=3)

    assert torch.autograd.gradcheck(run, tuple(g.values()))


def test_a_long_fast_decay_stays_finite():
    g = arguments(length=200)
    y = ssd(**{**{k: v.float() for k, v in g.items()}, "A": torch.full((4,), -500.0)})
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 11, 12)}, r"x has 3 dimensions.*\(B, L, H, P\)"),
        ({"A": torch.zeros(4, 5)}, r"A has shape \(4, 5\), expected \(4,\)"),
        ({"B": torch.zeros(2, 11, 3, 5)}, "G to divide H"),
        ({"D": torch.zeros(3)}, r"D has shape \(3,\), expected \(4,\)"),
        ({"delta": torch.zeros(2, 11, 4, dtype=torch.int64)}, "delta is int64"),
        ({"chunk_size": 0}, "chunk_size.*>= 1.*0"),
    ],
)
def test_bad_input_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        ssd(**{**arguments(), **change})
