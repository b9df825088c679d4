"""S6: start values, switches, decoding, packing, and Theorem 1."""

import itertools
import math

import pytest
import torch

from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.mixers.s6 import MATCHED_STD, S6, start_of_constants
from ssmlab.mixers.s6_config import S6Config
from ssmlab.ops import selective_scan

CHANNELS, RANK = 6, 3
A_INITS = ("s4d-real", "s4d-lin", "s4d-lin-printed", "constant", "random")
SWITCHES = list(itertools.product((True, False), repeat=3))


def make(seed=0, **values) -> S6:
    torch.manual_seed(seed)
    return S6(S6Config(**{"d_state": 4, **values}), CHANNELS, RANK).double()


def plain_s6(mixer: S6, x: torch.Tensor) -> torch.Tensor:
    """The recurrence spelt out from the parameters alone, step by step."""
    config, n = mixer.config, mixer.config.d_state
    A = -torch.exp(mixer.A_log)
    if mixer.A_imag is not None:
        A = A + 1j * mixer.A_imag
    state = torch.zeros(x.shape[0], *A.shape, dtype=A.dtype)
    outputs = []
    for t in range(x.shape[1]):
        rest = mixer.x_proj.weight @ x[:, t, :, None] if mixer.x_proj else x[:, t, :, None]
        rest = rest.squeeze(-1)
        delta = mixer.dt_proj.bias.expand(x.shape[0], -1)
        if config.selective_delta:
            delta = delta + rest[:, :RANK] @ mixer.dt_proj.weight.T
            rest = rest[:, RANK:]
        delta = torch.log1p(torch.exp(delta))[..., None]
        factors = []
        for selective, constant in ((config.selective_B, mixer.B), (config.selective_C, mixer.C)):
            if selective:
                factor, rest = rest[:, None, :n], rest[:, n:]
            else:
                factor = constant[None]
            factors.append(factor)
        if mixer.A_imag is not None:
            factors = [f[..., 0::2] + 1j * f[..., 1::2] for f in factors]
        B, C = factors
        state = torch.exp(delta * A) * state + delta * B * x[:, t, :, None]
        y = (C * state).sum(-1)
        y = 2 * y.real if y.is_complex() else y
        outputs.append(y + mixer.D * x[:, t])
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("a_init", ["s4d-real", "s4d-lin"])
@pytest.mark.parametrize("switches", SWITCHES)
def test_equals_the_recurrence_of_its_parameters(switches, a_init):
    names = ("selective_delta", "selective_B", "selective_C")
    mixer = make(a_init=a_init, **dict(zip(names, switches, strict=True)))
    x = torch.randn(2, 9, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), plain_s6(mixer, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("a_init", A_INITS)
@pytest.mark.parametrize("switches", SWITCHES)
def test_step_equals_scan_and_every_parameter_learns(switches, a_init):
    names = ("selective_delta", "selective_B", "selective_C")
    mixer = make(a_init=a_init, **dict(zip(names, switches, strict=True)))
    x = torch.randn(4, 7, CHANNELS, dtype=torch.float64)
    z = torch.randn_like(x)
    y, last = mixer(x, z, return_state=True)
    state, steps = mixer.init_state(4), []
    for t in range(7):
        out, state = mixer.step(x[:, t], state, z[:, t])
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-12)
    y.square().sum().backward()
    without = [n for n, p in mixer.named_parameters() if p.grad is None or not p.grad.any()]
    # A frequency of zero belongs to a pair that is real and gets no gradient at the start only.
    assert without == []


def test_batch_as_large_as_the_channels_is_no_ambiguity_in_decoding():
    mixer = make(selective_B=False)
    x = torch.randn(CHANNELS, 3, CHANNELS, dtype=torch.float64)
    y, _ = mixer.step(x[:, 0], mixer.init_state(CHANNELS))
    torch.testing.assert_close(y, mixer(x)[:, 0], rtol=1e-10, atol=1e-12)


def test_packed_sequences_equal_separate_ones():
    mixer = make()
    lengths = (3, 1, 5)
    parts = [torch.randn(1, length, CHANNELS, dtype=torch.float64) for length in lengths]
    offsets = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    y, state = mixer(torch.cat(parts, 1), cu_seqlens=offsets, return_state=True)
    alone = [mixer(part, return_state=True) for part in parts]
    torch.testing.assert_close(y, torch.cat([a for a, _ in alone], 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, torch.cat([s for _, s in alone]), rtol=1e-10, atol=1e-12)


def test_start_values_of_A_are_those_of_table_8():
    index = torch.arange(4.0)
    real = {"s4d-real": -(index + 1), "constant": torch.full((4,), -0.5)}
    for a_init, expected in real.items():
        torch.testing.assert_close(
            make(a_init=a_init)._A().float(), expected.repeat(CHANNELS, 1), rtol=1e-6, atol=0
        )
    for a_init, frequency in (("s4d-lin", math.pi), ("s4d-lin-printed", 1.0)):
        A = make(a_init=a_init)._A()
        assert A.shape == (CHANNELS, 2)
        expected = torch.complex(torch.full((2,), -0.5), index[:2] * frequency)
        torch.testing.assert_close(A.to(torch.complex64), expected.repeat(CHANNELS, 1))
    torch.manual_seed(1)
    drawn = torch.log(-S6(S6Config(d_state=64, a_init="random"), 512, 1)._A())
    assert abs(drawn.mean().item()) < 0.02
    assert abs(drawn.std().item() - 1) < 0.02


@pytest.mark.parametrize(
    ("dt_init", "mean"), [("log-uniform", 0.099 / math.log(100)), ("uniform", 0.0505)]
)
def test_start_values_of_delta_fill_their_range(dt_init, mean):
    torch.manual_seed(0)
    mixer = S6(S6Config(dt_init=dt_init), 20_000, 1)
    delta = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert delta.min() >= 0.001 * (1 - 1e-4)
    assert delta.max() <= 0.1 * (1 + 1e-4)
    assert delta.mean().item() == pytest.approx(mean, rel=0.03)


def test_delta_floor():
    mixer = S6(S6Config(dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-4), CHANNELS, 1)
    delta = torch.nn.functional.softplus(mixer.dt_proj.bias)
    torch.testing.assert_close(delta, torch.full((CHANNELS,), 1e-4), rtol=1e-3, atol=0)


def test_parameter_names_are_those_of_public_checkpoints():
    shapes = {name: tuple(p.shape) for name, p in make().named_parameters()}
    assert shapes == {
        "x_proj.weight": (RANK + 8, CHANNELS),
        "dt_proj.weight": (CHANNELS, RANK),
        "dt_proj.bias": (CHANNELS,),
        "A_log": (CHANNELS, 4),
        "D": (CHANNELS,),
    }


def test_constant_and_selective_B_C_count_alike():
    counts = {
        selective: sum(
            p.numel() for p in make(selective_B=selective, selective_C=selective).parameters()
        )
        for selective in (True, False)
    }
    assert counts[True] == counts[False]


def test_theorem_1_one_state_is_a_gated_rnn():
    """N = 1, A = -1, B = 1: h_t = (1 - g_t) h_{t-1} + g_t x_t with g_t = sigmoid(Linear(x_t)).

    The theorem takes the exact zero-order hold, B_bar = 1 - exp(-delta). The operator discretises
    B by delta alone, so the input is scaled by the ratio of the two.
    """
    torch.manual_seed(0)
    x = torch.randn(3, 50, CHANNELS, dtype=torch.float64)
    raw = torch.nn.Linear(CHANNELS, CHANNELS).double()(x)
    delta = torch.nn.functional.softplus(raw)
    ones = torch.ones(CHANNELS, 1, dtype=torch.float64)
    scaled = x * -torch.expm1(-delta) / delta
    y = selective_scan(scaled, raw, -ones, ones, ones, delta_softplus=True)

    gate = torch.sigmoid(raw)
    h, expected = torch.zeros(3, CHANNELS, dtype=torch.float64), []
    for t in range(50):
        h = (1 - gate[:, t]) * h + gate[:, t] * x[:, t]
        expected.append(h)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-10, atol=1e-12)


def test_matched_constants_start_as_large_as_selective_ones():
    torch.manual_seed(0)
    config = MambaConfig(ssm=S6Config(d_state=16))
    block = Mamba(config, 256)
    seen = []
    block.ssm.x_proj.register_forward_hook(lambda module, args, out: seen.append(out))
    block(torch.randn(8, 64, 256))
    selective = seen[0][..., -32:].square().mean().sqrt().item()
    assert selective == pytest.approx(MATCHED_STD, rel=0.15)
    for constant in start_of_constants(S6Config(), 4096):
        assert constant.std().item() == pytest.approx(MATCHED_STD, rel=0.02)


@pytest.mark.parametrize("a_init", ["s4d-real", "s4d-lin"])
def test_s4d_constants(a_init):
    B, C = start_of_constants(S6Config(constant_init="s4d", a_init=a_init), 4096)
    imaginary = 0.0 if a_init == "s4d-lin" else 1.0
    assert torch.equal(B[0], torch.tensor([1.0, imaginary] * 8))
    assert C.std().item() == pytest.approx(1, rel=0.02)
