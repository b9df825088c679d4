"""The compiled decoder against the model's own step."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from ssmlab.core.errors import ConfigError
from ssmlab.generation.cpu import decoder as cpu_decoder
from ssmlab.generation.cpu.decoder import CpuDecoder, unsupported
from ssmlab.generation.decoder import EagerDecoder, make_decoder
from ssmlab.mixers.s6_config import S6Config

from .conftest import build, ids

VARIANTS = {
    "plain": {},
    "biases": {"mamba": {"bias": True, "d_conv": 3}},
    "no bias, narrow": {"mamba": {"conv_bias": False, "d_conv": 2, "expand": 1}, "d_model": 24},
    "one tap, one state": {"mamba": {"d_conv": 1, "ssm": S6Config(d_state=1, dt_rank=7)}},
    "untied, padded": {"tie_embeddings": False, "vocab_size": 61, "pad_vocab_size_multiple": 8},
    "odd width": {"d_model": 20, "mamba": {"expand": 3}, "norm_eps": 1e-3},
}


@pytest.fixture(params=["torch's threads", "our own"])
def any_threads(request, monkeypatch):
    """Whose threads a step runs on."""
    if request.param == "our own":
        monkeypatch.setattr(cpu_decoder, "find_team", lambda: None)
    elif cpu_decoder.find_team() is None:
        pytest.skip("torch's threads cannot be had here")


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_and_states_equal_the_models_own(variant, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = build(**VARIANTS[variant])
    size = model.config.vocab_size
    for batch in (1, 2, 5, 14):
        _, state = model.prefill(ids(batch, 6) % size)
        fast, slow = CpuDecoder(model, state), EagerDecoder(model, state)
        for step in range(4):
            token = ids(batch, seed=step) % size
            logits = fast.step(token)
            assert logits.shape == (batch, size)
            torch.testing.assert_close(logits, slow.step(token), rtol=1e-4, atol=1e-4)
        for a, b in zip(fast.state(), slow.state(), strict=True):
            torch.testing.assert_close(a.ssm, b.ssm, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(a.conv, b.conv, rtol=1e-4, atol=1e-5)


def test_large_steps_of_delta_and_large_inputs_stay_finite():
    model = build()
    with torch.no_grad():
        model.layers[0].mixer.ssm.dt_proj.bias.fill_(80.0)
        model.layers[1].mixer.in_proj.weight.mul_(300)
    _, state = model.prefill(ids(1, 3))
    fast, slow = CpuDecoder(model, state), EagerDecoder(model, state)
    token = ids(1)
    expected = slow.step(token)
    assert expected.isfinite().all()
    torch.testing.assert_close(fast.step(token), expected, rtol=1e-3, atol=1e-3)


def test_nan_in_is_nan_out():
    model = build()
    _, state = model.prefill(ids(1, 3))
    state[0].ssm[0, 0, 0] = torch.nan
    assert CpuDecoder(model, state).step(ids(1)).isnan().any()


def test_the_same_bits_every_time(model):
    _, state = model.prefill(ids(3, 6))
    runs = []
    for _ in range(5):
        decoder = CpuDecoder(model, state)
        runs.append(torch.stack([decoder.step(ids(3, seed=s)) for s in range(6)]))
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_the_given_state_is_not_written_to(model):
    _, state = model.prefill(ids(2, 6))
    before = [(s.conv.clone(), s.ssm.clone()) for s in state]
    decoder = CpuDecoder(model, state)
    kept = decoder.step(ids(2))
    copy = kept.clone()
    decoder.step(ids(2))
    for s, (conv, ssm) in zip(state, before, strict=True):
        assert torch.equal(s.conv, conv)
        assert torch.equal(s.ssm, ssm)
    assert torch.equal(kept, copy)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_rows_leave_and_the_others_go_on(backend, model):
    _, state = model.prefill(ids(4, 6))
    decoder, alone = make_decoder(model, state, backend), make_decoder(model, state, backend)
    tokens = ids(4)
    decoder.step(tokens)
    alone.step(tokens)
    row = decoder.row_state(2)
    decoder.keep([3, 1])
    expected = alone.step(tokens)
    torch.testing.assert_close(decoder.step(tokens[[3, 1]]), expected[[3, 1]])
    torch.testing.assert_close(
        make_decoder(model, row, backend).step(tokens[2:3]), expected[2:3], rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("any_threads")
def test_several_threads_may_decode_at_once(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    _, state = model.prefill(ids(1, 6))
    expected = [CpuDecoder(model, state).step(ids(1, seed=s)) for s in range(8)]
    found: dict[int, torch.Tensor] = {}

    def run(seed: int) -> None:
        found[seed] = CpuDecoder(model, state).step(ids(1, seed=seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(found[seed], expected[seed]) for seed in range(8))


def test_an_interrupted_step_leaves_no_thread_waiting(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu_decoder, "find_team", lambda: None)
    _, state = model.prefill(ids(1, 6))
    stopped = CpuDecoder(model, state)
    real = cpu_decoder.kernel.decode

    def interrupted(buffers, sizes, thread):
        if thread == 0:
            raise KeyboardInterrupt
        real(buffers, sizes, thread)

    monkeypatch.setattr(cpu_decoder.kernel, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.step(ids(1))
    monkeypatch.setattr(cpu_decoder.kernel, "decode", real)
    expected = EagerDecoder(model, state).step(ids(1))
    torch.testing.assert_close(
        CpuDecoder(model, state).step(ids(1)), expected, rtol=1e-4, atol=1e-4
    )


@pytest.fixture
def interrupts():
    """SIGINT raises KeyboardInterrupt, also where the tests were started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("any_threads", "interrupts")
def test_a_signal_at_any_time_stops_the_steps_and_no_more(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    _, state = model.prefill(ids(1, 6))
    expected = CpuDecoder(model, state).step(ids(1))
    stopped = CpuDecoder(model, state)
    for tries in range(20):
        timer = threading.Timer(0.002 + tries * 1e-4, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come anywhere
            timer.start()
            while True:
                stopped.step(ids(1))
        timer.join()
    assert torch.equal(CpuDecoder(model, state).step(ids(1)), expected)


def test_fewer_threads_than_asked_for_are_noticed(model, monkeypatch):
    team = cpu_decoder.find_team()
    if team is None:
        pytest.skip("torch's threads cannot be had here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    _, state = model.prefill(ids(1, 6))
    expected = CpuDecoder(model, state).step(ids(1))
    alone = team._replace(start=lambda f, argument, threads, flags: team.start(f, argument, 1, 0))
    monkeypatch.setattr(cpu_decoder, "find_team", lambda: alone)
    assert torch.equal(CpuDecoder(model, state).step(ids(1)), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_steps_too():
    program = """
import os, torch
torch.set_num_threads(2)
from ssmlab.generation.cpu.decoder import CpuDecoder
from tests.generation.conftest import build, ids
model = build()
state = model.init_state(1)
expected = CpuDecoder(model, state).step(ids(1)).tolist()
decoder = CpuDecoder(model, state)
child = os.fork()
if child == 0:
    os._exit(0 if decoder.step(ids(1)).tolist() == expected else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, timeout=120, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pattern": "M F"}, "block 1 is GatedMLP"),
        ({"mamba": {"ssm": S6Config(d_state=4, selective_C=False)}}, "selective_C=False"),
        ({"mamba": {"ssm": S6Config(d_state=4, a_init="s4d-lin")}}, "complex A"),
        ({"mamba": {"ssm": S6Config(d_state=4, selective_A=True)}}, "selective_A=True"),
    ],
)
def test_other_models_take_the_general_way(values, said):
    model = build(**values)
    assert said in (unsupported(model) or "")
    state = model.init_state(1)
    assert isinstance(make_decoder(model, state), EagerDecoder)
    with pytest.raises(ConfigError, match=said):
        make_decoder(model, state, "cpu")


def test_other_types_take_the_general_way(model):
    assert "float32" in (unsupported(build().bfloat16()) or "")
    assert unsupported(model) is None
    with pytest.raises(ConfigError, match="expected one of eager, cpu"):
        make_decoder(model, model.init_state(1), "gpu")
