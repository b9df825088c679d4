"""S6 with a selective A: its definition step by step, its start, its limits, what it counts."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.inner import InnerMixerConfig
from ssmlab.mixers.s6 import LEAST_FACTOR, S6
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models import LanguageModel, LanguageModelConfig
from ssmlab.models.count import count_parameters
from tests.mixers.zoo import close

CHANNELS, RANK = 6, 3
SWITCHES = list(itertools.product((True, False), repeat=3))


def make(switches=(True, True, True), **values) -> S6:
    torch.manual_seed(0)
    names = ("selective_delta", "selective_B", "selective_C")
    config = S6Config(
        **{"d_state": 4, "selective_A": True, **dict(zip(names, switches, strict=True)), **values}
    )
    mixer = S6(config, CHANNELS, RANK).double()
    with torch.no_grad():  # factors far from 1, a few below the least
        if mixer.A_proj is not None:
            mixer.A_proj.weight.mul_(8)
    return mixer


def sequence(batch: int = 2, length: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, CHANNELS, dtype=torch.float64, generator=generator)


def as_defined(mixer: S6, x: Tensor, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A_t) h_{t-1} + Δ_t B_t x_t with A_t = A softplus(s_A(x_t) + log(e - 1)), number
    by number; y_t = (C_t h_t + D x_t) silu(z_t)."""
    config, n = mixer.config, mixer.config.d_state
    A = -torch.exp(mixer.A_log)
    if mixer.A_imag is not None:
        A = A + 1j * mixer.A_imag
    h, y = h.clone(), torch.zeros_like(x)
    for b, t in itertools.product(range(x.shape[0]), range(x.shape[1])):
        low = mixer.x_proj.weight @ x[b, t]
        low_A = low[-RANK:]
        low_delta = low[:RANK] if config.selective_delta else low[:0]
        rest = low[len(low_delta) : -RANK]
        factors = []
        for constant in (mixer.B, mixer.C):
            now, rest = (
                (rest[:n].expand(CHANNELS, n), rest[n:]) if constant is None else (constant, rest)
            )
            factors.append(now[:, 0::2] + 1j * now[:, 1::2] if config.is_complex else now)
        B, C = factors
        for d in range(CHANNELS):
            raw = mixer.dt_proj.bias[d]
            if config.selective_delta:
                raw = raw + mixer.dt_proj.weight[d] @ low_delta
            delta = torch.log(1 + torch.exp(raw))
            s_A = mixer.A_proj.weight[d] @ low_A
            a = torch.log(1 + torch.exp(s_A) * (torch.e - 1)).clamp(min=LEAST_FACTOR)
            h[b, d] = torch.exp(delta * a * A[d]) * h[b, d] + delta * B[d] * x[b, t, d]
            out = (C[d] * h[b, d]).sum()
            out = 2 * out.real if config.is_complex else out
            gate = z[b, t, d] * torch.sigmoid(z[b, t, d])
            y[b, t, d] = (out + mixer.D[d] * x[b, t, d]) * gate
    return y, h


@pytest.mark.parametrize("a_init", ["s4d-real", "s4d-lin"])
@pytest.mark.parametrize("switches", SWITCHES)
@torch.no_grad()
def test_equals_its_definition(switches, a_init):
    mixer = make(switches, a_init=a_init)
    x, z = sequence(), sequence().flip(1)
    start = torch.randn_like(mixer.init_state(2))
    y, last = mixer(x, z, start, return_state=True)
    expected, end = as_defined(mixer, x, z, start)
    close(y, expected)
    close(last, end)
    close(mixer(x, z, start), expected)
    stepped, in_place = start, start.clone()
    for t in range(x.shape[1]):
        out, stepped = mixer.step(x[:, t], stepped, z[:, t])
        close(out, expected[:, t])
        close(mixer.step_(x[:, t], in_place, z[:, t]), expected[:, t])
    close(stepped, end)
    close(in_place, end)


@pytest.mark.parametrize("a_init", ["s4d-real", "s4d-lin"])
def test_gradients_with_gate_and_states(a_init):
    mixer = make(a_init=a_init)
    names = [name for name, _ in mixer.named_parameters()]

    def run(x, z, state, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(mixer, given, (x, z, state, True))

    inputs = [sequence(1, 5), sequence(1, 5).flip(1), torch.randn_like(mixer.init_state(1))]
    inputs += [parameter.detach() for parameter in mixer.parameters()]
    assert torch.autograd.gradcheck(
        run, [t.clone().requires_grad_() for t in inputs], fast_mode=True
    )


@pytest.mark.parametrize("switches", SWITCHES)
def test_starts_as_the_same_mixer_without(switches):
    """a = 1 where s_A = 0, so without A_proj's weights the output is that of a constant A."""
    mixer = make(switches)
    other = make(switches, selective_A=False)
    own = mixer.state_dict()
    assert not own.pop("A_proj.weight").zero_().any()
    if other.x_proj is not None:
        own["x_proj.weight"] = own["x_proj.weight"][:-RANK]
    else:
        del own["x_proj.weight"]
    other.load_state_dict(own)
    close(mixer(sequence(), sequence()), other(sequence(), sequence()), 1e-12)


def test_start_values_of_its_projection_are_those_of_delta():
    torch.manual_seed(0)
    mixer = S6(S6Config(selective_A=True), 4096, 16)
    for weight in (mixer.A_proj.weight, mixer.dt_proj.weight):
        assert weight.shape == (4096, 16)
        assert 0.249 < weight.abs().max() <= 0.25


def test_a_factor_near_zero_is_held_and_stays_exact():
    mixer = make()
    with torch.no_grad():
        mixer.A_proj.weight.fill_(-300.0)
        mixer.x_proj.weight[-RANK:] = 1.0
    x = sequence().abs()
    u, delta, *_ = mixer._operands(x, None)
    close(u, x / LEAST_FACTOR)
    low = mixer.x_proj(x)[..., :RANK]
    expected = torch.nn.functional.softplus(low @ mixer.dt_proj.weight.T + mixer.dt_proj.bias)
    close(delta, expected * LEAST_FACTOR)
    single = S6(mixer.config, CHANNELS, RANK)
    single.load_state_dict({name: value.float() for name, value in mixer.state_dict().items()})
    torch.testing.assert_close(single(x.float()).double(), mixer(x), rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad(single(x.float()).sum(), list(single.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_autocast_keeps_the_recurrence_in_float32(monkeypatch):
    seen = {}

    def spy(u, delta, *args, **options):
        seen.update(u=u.dtype, delta=delta.dtype)
        return selective_scan(u, delta, *args, **options)

    from ssmlab.ops import selective_scan

    monkeypatch.setattr("ssmlab.mixers.s6.selective_scan", spy)
    exact = make().float()
    x = sequence().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = exact(x.bfloat16(), x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert seen == {"u": torch.float32, "delta": torch.float32}
    reference = exact(x, x)
    assert (y.float() - reference).abs().max() < 0.05 * reference.abs().max() + 0.02


def test_parameters_and_their_names():
    def shapes(**values):
        return {name: tuple(p.shape) for name, p in make(**values).named_parameters()}

    more = shapes()
    assert more.pop("A_proj.weight") == (CHANNELS, RANK)
    assert more["x_proj.weight"] == (RANK + 8 + RANK, CHANNELS)
    without = shapes(selective_A=False)
    assert without["x_proj.weight"] == (RANK + 8, CHANNELS)
    assert list(more) == list(without)


def test_the_rank_counts_for_a_constant_delta_too():
    config = InnerMixerConfig(ssm=S6Config(dt_rank=9, selective_delta=False))
    config.check_inner(16, 8)
    selective = dataclasses.replace(config.ssm, selective_A=True)
    with pytest.raises(ConfigError, match="dt_rank=9 is above the 8 channels"):
        dataclasses.replace(config, ssm=selective).check_inner(16, 8)


def model_config(**ssm) -> LanguageModelConfig:
    config = LanguageModelConfig(vocab_size=16, d_model=32, n_layers=2)
    mamba = dataclasses.replace(config.mamba, ssm=S6Config(d_state=4, **ssm))
    return dataclasses.replace(config, mamba=mamba)


def test_counted_with_the_ssm():
    plain, selective = (
        count_parameters(model_config()),
        count_parameters(model_config(selective_A=True)),
    )
    rank, channels, layers = 2, 64, 2
    plain["mixer.ssm"] += 2 * rank * channels * layers
    plain["total"] += 2 * rank * channels * layers
    assert selective == plain


def test_a_model_learns_a_batch_by_heart_and_is_kept(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(model_config(selective_A=True))
    ids = torch.randint(16, (4, 17))
    ids[:, 0] = torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = model.layers[0].mixer.ssm.A_proj.weight.detach().clone()
    for _ in range(150):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        if loss.item() < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1
    assert (model.layers[0].mixer.ssm.A_proj.weight - before).abs().max() > 0.01
    model.save_pretrained(tmp_path / "kept", "ssmlab")
    again = LanguageModel.from_pretrained(tmp_path / "kept")
    assert torch.equal(again(ids), model.eval()(ids))
