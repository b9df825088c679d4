"""Generation end to end: rows, stops, streams, sessions."""

import pytest
import torch

from ssmlab.core.errors import CheckpointError, ConfigError, GenerationError
from ssmlab.data.tokenize import ByteTokenizer, train_bpe
from ssmlab.generation import GenerationConfig, Session, generate, stream
from ssmlab.generation.detokenise import TextStream
from ssmlab.generation.states import read_rows

from .conftest import build, ids

BACKENDS = ("cpu", "eager")


def slow_greedy(model, prompt: torch.Tensor, count: int) -> list[int]:
    """Without any state: the whole text again for every token."""
    text = prompt[None]
    for _ in range(count):
        text = torch.cat([text, model(text)[:, -1].argmax(-1, keepdim=True)], 1)
    return text[0, len(prompt) :].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_equals_reading_the_whole_text_again(backend, model):
    prompts = [ids(n, seed=n) for n in (7, 1, 4)]
    made = model.generate(prompts, max_new_tokens=12, backend=backend)
    for prompt, tokens in zip(prompts, made.tokens, strict=True):
        assert tokens.tolist() == slow_greedy(model, prompt, 12)
    assert made.finish == ["length"] * 3
    assert made.texts is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_know_each_other(temperature, model):
    prompts = [ids(n, seed=n) for n in (9, 2, 5)]
    options = {"max_new_tokens": 10, "temperature": temperature, "seed": 3}
    together = model.generate(prompts, **options).tokens
    alone = model.generate(prompts[:1], **options).tokens[0]
    assert together[0].tolist() == alone.tolist()


def test_padded_ids_with_a_mask_equal_rows(model):
    from ssmlab.models.padding import pad_left

    rows = [ids(6), ids(3, seed=2)]
    padded, mask = pad_left(rows)
    made = model.generate(padded, attention_mask=mask, max_new_tokens=6)
    expected = model.generate(rows, max_new_tokens=6)
    assert [t.tolist() for t in made.tokens] == [t.tolist() for t in expected.tokens]


def test_log_probabilities_are_the_models(model):
    prompt = ids(5)
    made = model.generate(prompt, max_new_tokens=8, temperature=0.7, top_k=9, seed=1)
    whole = torch.cat([prompt, made.tokens[0]])
    logp = model(whole[None]).log_softmax(-1)[0, 4:-1]
    expected = logp.gather(-1, made.tokens[0][:, None])[:, 0]
    torch.testing.assert_close(made.logprobs[0], expected, rtol=1e-4, atol=1e-4)


def test_stop_tokens_end_rows_at_their_own_time(model):
    prompts = [ids(4, seed=s) for s in range(6)]
    free = model.generate(prompts, max_new_tokens=20).tokens
    stop = int(free[0][5])
    made = model.generate(prompts, max_new_tokens=20, stop_tokens=stop)
    for before, after, finish in zip(free, made.tokens, made.finish, strict=True):
        text = before.tolist()
        wanted = text[: text.index(stop)] if stop in text else text
        assert after.tolist() == wanted
        assert finish == ("token" if stop in text else "length")


def test_stop_strings_cut_the_text_and_the_stream(model, words):
    free = generate(model, "hello", tokenizer=words, max_new_tokens=40, temperature=1.5, seed=2)
    assert free.texts is not None
    text = free.texts[0]
    stop = text[10:13]
    assert stop
    pieces = []
    steps = stream(
        model, "hello", tokenizer=words, max_new_tokens=40, temperature=1.5, seed=2, stop=stop
    )
    while True:
        try:
            pieces.append(next(steps))
        except StopIteration as end:
            made = end.value
            break
    assert made.texts == [text[: text.index(stop)]]
    assert "".join(p.text for p in pieces) == made.texts[0]
    assert made.finish == ["string"]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_text_streams_whole_characters(kind):
    text = "naïve — 日本語 🙂 end"
    words = ByteTokenizer() if kind == "bytes" else train_bpe([text.encode()] * 3, 270, "b")
    (tokens,) = words.encode([text.encode()])
    flow = TextStream(words, ())
    parts = [flow.push(int(token)) for token in tokens]
    assert all("\ufffd" not in part for part in parts)
    assert "".join(parts) + flow.finish() == text == flow.text


def test_a_held_back_start_of_a_stop_string_comes_at_the_end():
    flow = TextStream(ByteTokenizer(), ("xyz",))
    assert "".join(flow.push(b) for b in b"abxy") == "ab"
    assert flow.finish() == "xy"
    assert not flow.stopped


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_session_goes_on_as_if_never_stopped(backend, temperature, model, tmp_path):
    prompts = [ids(9), ids(4, seed=3)]
    options = {"temperature": temperature, "seed": 5, "backend": backend, "repetition_penalty": 1.2}
    whole = model.generate(prompts, max_new_tokens=14, **options)
    part = model.generate(prompts, max_new_tokens=5, **options).session
    part.save(tmp_path / "state")
    fork = part.fork()
    for session in (part, fork, Session.load(tmp_path / "state", model)):
        on = model.generate(session, max_new_tokens=9, **options)
        for a, b in zip(on.session.tokens, whole.session.tokens, strict=True):
            assert a.tolist() == b.tolist()


def test_forks_are_independent_and_may_repeat_rows(model):
    session = model.generate([ids(5), ids(3, seed=2)], max_new_tokens=2).session
    fork = session.fork([1, 1, 0])
    made = model.generate(fork, max_new_tokens=6, temperature=1.0, seed=1)
    assert made.tokens[0].tolist() != made.tokens[1].tolist()
    assert [len(row) for row in session.tokens] == [7, 5]
    with pytest.raises(GenerationError, match=r"rows \[7\]: expected 0 to 1"):
        session.fork([7])


def test_a_session_takes_more_text(model):
    first, second = ids(6), ids(5, seed=4)
    session = Session(model, [first])
    session.catch_up()
    session.append([second])
    made = model.generate(session, max_new_tokens=7)
    expected = model.generate(torch.cat([first, second]), max_new_tokens=7)
    assert made.tokens[0].tolist() == expected.tokens[0].tolist()


def test_rows_that_have_nothing_new_wait_for_the_others(model):
    session = Session(model, [ids(6), ids(3, seed=2)])
    session.catch_up()
    session.append([[], [7, 8]])
    made = model.generate(session, max_new_tokens=5)
    expected = model.generate(
        [ids(6), torch.cat([ids(3, seed=2), torch.tensor([7, 8])])], max_new_tokens=5
    )
    assert [t.tolist() for t in made.tokens] == [t.tolist() for t in expected.tokens]


def test_a_row_stopped_by_a_token_goes_on_from_before_it(model):
    prompt = ids(4)
    drawn = {"temperature": 1.0, "seed": 2}
    free = model.generate(prompt, max_new_tokens=12, **drawn).tokens[0].tolist()
    stop = next(t for i, t in enumerate(free) if i > 2 and t not in free[:i])
    made = model.generate(prompt, max_new_tokens=12, stop_tokens=stop, **drawn)
    assert made.finish == ["token"]
    on = model.generate(made.session, max_new_tokens=12 - len(made.tokens[0]), **drawn)
    assert made.tokens[0].tolist() + on.tokens[0].tolist() == free


@pytest.mark.parametrize("chunk", [1, 3, 8, 1000])
def test_long_prompts_are_read_in_pieces(chunk, model):
    rows = [ids(n, seed=n) for n in (13, 4, 9, 1)]
    with torch.no_grad():
        logits, state = read_rows(model, rows, model.init_state(4), chunk)
    for index, row in enumerate(rows):
        alone, own = model.prefill(row[None])
        torch.testing.assert_close(logits[index], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state[1].ssm[index], own[1].ssm[0], rtol=1e-4, atol=1e-5)


def test_no_new_tokens_are_none(model):
    made = model.generate(ids(3), max_new_tokens=0)
    assert made.tokens[0].numel() == 0
    assert made.finish == ["length"]


def test_a_model_with_other_blocks_generates_too():
    model = build(pattern="M F")
    prompt = ids(5)
    assert model.generate(prompt, max_new_tokens=6).tokens[0].tolist() == slow_greedy(
        model, prompt, 6
    )


def test_a_stream_leaves_gradients_as_they_are(model):
    steps = stream(model, ids(3), max_new_tokens=3)
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "no prompt was given"),
        ([[1, 2], []], {}, "prompt 1 is empty"),
        ("", {"tokenizer": ByteTokenizer()}, "prompt 0 is empty"),
        ("text", {}, "needs a tokenizer"),
        ([[1, 999]], {}, "prompt 0 has token 999, but the model's vocabulary is 0 to 255"),
        ([[-1]], {}, "prompt 0 has token -1"),
        (torch.ones(2, 2), {}, "whole numbers"),
        (torch.ones(1, 2, 2, dtype=torch.long), {}, r"expected \(L,\) or \(B, L\)"),
        ([[1]], {"stop_tokens": (999,)}, "stop token 999 is unknown"),
        ([[1]], {"stop_tokens": ("<none>",), "tokenizer": ByteTokenizer()}, "'<none>' is unknown"),
        ([[1]], {"stop": ("x",)}, "stop strings need a tokenizer"),
        ([[1]], {"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ([[1]], {"backend": "gpu"}, "expected one of eager, cpu"),
    ],
)
def test_bad_input_is_one_clear_error(prompts, options, said, model):
    with pytest.raises((GenerationError, ConfigError), match=said):
        model.generate(prompts, **options)


def test_states_of_another_model_or_damaged_are_refused(model, tmp_path):
    session = model.generate(ids(4), max_new_tokens=2).session
    session.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match="another model"):
        Session.load(tmp_path / "state", build(seed=1))
    data = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(data[:-10])
    with pytest.raises(CheckpointError, match="not a session that can be read"):
        Session.load(tmp_path / "state", model)
    with pytest.raises(GenerationError, match="another model"):
        build(seed=1).generate(session)


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), MemoryError()]
)
def test_too_little_memory_says_what_to_do(error, model, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(model, "prefill", fail)
    with pytest.raises(GenerationError, match="not enough memory to read 2 prompts at once"):
        model.generate([[1], [2]])


def test_a_bug_is_not_taken_for_too_little_memory(model, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(model, "prefill", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        model.generate([[1]])


def test_memory_does_not_grow_with_the_text(model):
    config = GenerationConfig(max_new_tokens=3)
    sizes = []
    for length in (5, 500):
        session = generate(model, ids(length), config=config).session
        sizes.append(sum(s.conv.numel() + s.ssm.numel() for s in session.catch_up()[1]))
    assert sizes[0] == sizes[1]
