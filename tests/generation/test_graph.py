"""Steps over buffers and their recording, against the model's own step.

Without a GPU a graph is played by something that computes the step anew at every replay.
"""

import copy
import gc
import sys
import weakref

import pytest
import torch

from ssmlab.blocks.h3 import H3Config
from ssmlab.core.errors import ConfigError
from ssmlab.generation import Session, generate, stream
from ssmlab.generation import graph as graphs
from ssmlab.generation.decoder import EagerDecoder, make_decoder
from ssmlab.generation.graph import GraphDecoder, StaticStep
from ssmlab.mixers.s6_config import S6Config

from .conftest import build, ids

MODELS = {
    "mamba": {},
    "biases, three taps": {"mamba": {"bias": True, "d_conv": 3}},
    "one tap": {"mamba": {"d_conv": 1}},
    "complex A": {"mamba": {"ssm": S6Config(d_state=4, a_init="s4d-lin")}},
    "selective A": {"mamba": {"ssm": S6Config(d_state=4, selective_A=True)}},
    "constant B and C": {
        "mamba": {"ssm": S6Config(d_state=4, selective_B=False, selective_C=False)}
    },
    "s4d inside": {"mamba": {"mixer": "s4d"}},
    "mlp": {"pattern": "M F"},
    "h3": {"pattern": "H", "h3": H3Config(head_dim=4)},
    "learned positions": {"positions": "learned", "max_positions": 32},
    "attention": {"pattern": "M A"},
    "no state": {"pattern": "F"},
}


class Replayed:
    """What a CUDA graph does, by hand."""

    def __init__(self, step: StaticStep, model) -> None:
        self.step, self.model = step, weakref.ref(model)

    def replay(self) -> None:
        model = self.model()
        assert model is not None
        assert self.step._logits is not None
        logits = model.step_(self.step._ids, self.step.state)
        self.step._logits.copy_(logits)


@pytest.fixture
def recording(monkeypatch) -> list[int]:
    """Let the CPU record; the sizes of what was recorded."""
    sizes: list[int] = []

    def record(self, model) -> None:
        sizes.append(self.size)
        self._graph = Replayed(self, model)
        self._logits = torch.empty(self.size, model.config.vocab_size)

    def decoder(model, state, backend):
        return EagerDecoder(model, state) if backend == "eager" else GraphDecoder(model, state)

    monkeypatch.setattr(graphs, "_on_cuda", lambda model: True)
    monkeypatch.setattr(StaticStep, "record", record)
    monkeypatch.setattr(sys.modules["ssmlab.generation.generate"], "make_decoder", decoder)
    return sizes


def prefilled(model, batch: int):
    _, state = model.prefill(ids(batch, 6))
    return state


@pytest.mark.parametrize("name", MODELS)
def test_steps_over_buffers_equal_the_models_own(name):
    model = build(**MODELS[name])
    with torch.no_grad():
        state = prefilled(model, 4)
        before = copy.deepcopy(state)
        fast, slow = GraphDecoder(model, state), EagerDecoder(model, before)
        for step in range(5):
            if step == 3:
                fast.keep([2, 0, 3])
                slow.keep([2, 0, 3])
            token = ids(4 if step < 3 else 3, seed=step)
            torch.testing.assert_close(fast.step(token), slow.step(token))
        for row in (0, 2):
            torch.testing.assert_close(fast.row_state(row), slow.row_state(row))
        torch.testing.assert_close(fast.state(), slow.state())
        torch.testing.assert_close(state, before)  # the state given is not written to


@pytest.mark.parametrize("batch", [1, 5])
def test_the_third_step_is_recorded_and_the_next_batch_replays_at_once(batch, recording):
    model = build()
    for tries in range(2):
        state = prefilled(model, batch)
        fast, slow = GraphDecoder(model, state), EagerDecoder(model, state)
        for step in range(4):
            token = ids(batch, seed=step)
            with torch.no_grad():
                torch.testing.assert_close(fast.step(token), slow.step(token))
            assert fast.recorded == (tries == 1 or step >= 2)
        del fast
    assert recording == [batch]


def test_two_batches_at_once_have_a_recording_each(recording):
    model = build()
    states = [model.prefill(ids(2, 6, seed=s))[1] for s in range(2)]
    fast = [GraphDecoder(model, state) for state in states]
    slow = [EagerDecoder(model, state) for state in states]
    for step in range(6):
        token = ids(2, seed=step)
        for one, other in zip(fast, slow, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(one.step(token), other.step(token))
    assert recording == [2, 2]


def test_a_batch_that_shrinks_is_recorded_anew_at_half_its_size(recording):
    model = build()
    state = prefilled(model, 8)
    fast, slow = GraphDecoder(model, state), EagerDecoder(model, state)
    rows = 8
    for step in range(20):
        if step > 3 and rows > 1:
            rows -= 1
            for decoder in (fast, slow):
                decoder.keep([*range(1, rows), 0])
        with torch.no_grad():
            token = ids(rows, seed=step)
            torch.testing.assert_close(fast.step(token), slow.step(token))
    assert recording[0] == 8
    assert len(recording) <= 4


@pytest.mark.parametrize("change", ["in place", "moved", "hooked", "mode"])
def test_a_model_that_changed_is_recorded_anew(change, recording):
    model = build()
    prompt = ids(2, 6)
    first = model.generate(prompt, max_new_tokens=8)
    if change == "in place":
        with torch.no_grad():
            model.layers[0].mixer.in_proj.weight.neg_()
    elif change == "moved":
        model.double()
    elif change == "hooked":
        model.layers[0].register_forward_hook(lambda *_: None)
    else:
        model.train()
    made = model.generate(prompt, max_new_tokens=8)
    expected = model.generate(prompt, max_new_tokens=8, backend="eager")
    assert [t.tolist() for t in made.tokens] == [t.tolist() for t in expected.tokens]
    assert recording == [2, 2]
    if change == "in place":
        assert [t.tolist() for t in made.tokens] != [t.tolist() for t in first.tokens]


def test_weights_that_change_under_way_count_from_the_next_step_on(recording):
    model = build(mamba={"mixer": "s4d"})  # which keeps what it made of its weights
    state = prefilled(model, 2)
    fast, slow = GraphDecoder(model, state), EagerDecoder(model, state)
    for step in range(10):
        with torch.no_grad():
            if step == 5:
                for parameter in model.layers[0].mixer.ssm.parameters():
                    parameter.mul_(1.1)
            token = ids(2, seed=step)
            torch.testing.assert_close(fast.step(token), slow.step(token))
    assert recording == [2, 2]


def test_what_was_recorded_goes_with_the_model(recording):
    model = build()
    unread = stream(model, ids(2, 6), max_new_tokens=20)
    for _ in range(12):
        next(unread)
    del unread
    assert model in graphs._recorded
    count = len(graphs._recorded)
    del model
    gc.collect()
    assert len(graphs._recorded) == count - 1


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is(monkeypatch):
    def fail(self, model):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "_on_cuda", lambda model: True)
    monkeypatch.setattr(StaticStep, "record", fail)
    model = build()
    state = prefilled(model, 2)
    fast, slow = GraphDecoder(model, state), EagerDecoder(model, state)
    for step in range(6):
        with torch.no_grad():
            token = ids(2, seed=step)
            torch.testing.assert_close(fast.step(token), slow.step(token))
    assert not fast.recorded


def test_the_backend_needs_a_gpu(model):
    with pytest.raises(ConfigError, match="needs a model on a CUDA device"):
        make_decoder(model, model.init_state(1), "cuda-graph")


gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def with_marks(test):
    for mark in gpu:
        test = mark(test)
    return test


@with_marks
@pytest.mark.parametrize("name", [name for name in MODELS if name != "no state"])
def test_replayed_steps_equal_the_models_own_on_a_gpu(name):
    model = build(**MODELS[name]).cuda()
    with torch.no_grad():
        state = model.prefill(ids(4, 6).cuda())[1]
        fast, slow = GraphDecoder(model, state), EagerDecoder(model, state)
        for step in range(9):
            if step == 6:
                fast.keep([2, 0, 3])
                slow.keep([2, 0, 3])
            token = ids(4 if step < 6 else 3, seed=step).cuda()
            torch.testing.assert_close(fast.step(token), slow.step(token), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fast.state(), slow.state(), rtol=1e-4, atol=1e-4)
    assert fast.recorded == (name != "attention")


@with_marks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_generates_the_same_tokens_from_unequal_prompts(dtype):
    models = [build(seed, d_model=64).to("cuda", dtype) for seed in range(2)]
    prompts = [ids(n, seed=n) for n in (7, 1, 4, 12, 3)]
    for _ in range(2):  # recorded, then replayed from the start; two models in turn
        for model in models:
            free = model.generate(prompts, max_new_tokens=24, backend="eager")
            stop = int(free.tokens[0][9])  # rows end at their own time
            options = {"max_new_tokens": 24, "stop_tokens": stop}
            expected = model.generate(prompts, backend="eager", **options)
            made = model.generate(prompts, **options)
            assert [t.tolist() for t in made.tokens] == [t.tolist() for t in expected.tokens]
            for one, other in zip(made.logprobs, expected.logprobs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@with_marks
def test_a_session_on_a_gpu_is_forked_saved_and_gone_on_with(tmp_path):
    model = build(d_model=64).cuda()
    options = {"temperature": 1.0, "seed": 5}
    whole = model.generate(ids(2, 6), max_new_tokens=24, backend="eager", **options).tokens
    first = model.generate(ids(2, 6), max_new_tokens=12, **options)
    first.session.save(tmp_path / "state")
    fork = first.session.fork([1])
    generate(model, fork, max_new_tokens=8, **options)  # must not move the others on
    for session in (first.session, Session.load(tmp_path / "state", model)):
        second = model.generate(session, max_new_tokens=12, **options)
        for one, head, tail in zip(whole, first.tokens, second.tokens, strict=True):
            assert one.tolist() == [*head.tolist(), *tail.tolist()]


@with_marks
def test_two_streams_of_one_model_on_a_gpu_do_not_disturb_each_other():
    model = build(d_model=64).cuda()
    prompts = [ids(6, seed=s) for s in range(2)]
    expected = [model.generate(p, max_new_tokens=16, backend="eager").tokens[0] for p in prompts]
    streams = [stream(model, p, max_new_tokens=16) for p in prompts]
    pieces = list(zip(*streams, strict=True))
    for place, tokens in enumerate(expected):
        assert [pair[place].token for pair in pieces] == tokens.tolist()


@with_marks
def test_a_model_moved_to_another_type_is_recorded_anew_on_a_gpu():
    model = build(d_model=64).cuda()
    prompt = ids(2, 6)
    for change in (
        lambda: None,
        model.bfloat16,
        model.float,
        lambda: model.norm_f.weight.data.neg_(),
    ):
        change()
        made = model.generate(prompt, max_new_tokens=10).tokens
        expected = model.generate(prompt, max_new_tokens=10, backend="eager").tokens
        assert [t.tolist() for t in made] == [t.tolist() for t in expected]
