"""Log-probabilities of continuations, against the plain forward pass and against transformers."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlab.core.errors import GenerationError
from ssmlab.evaluation import Request, evaluate_task, load_task, score
from ssmlab.evaluation.run import encode_pair
from tests.shared import shared_data


def plain(model, request: Request) -> torch.Tensor:
    ids = torch.tensor([[*request.context, *request.continuation]])
    logp = model(ids).double().log_softmax(-1)[0, len(request.context) - 1 : -1]
    return logp.gather(-1, torch.tensor(request.continuation)[:, None])[:, 0]


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=9),
    batch_tokens=st.sampled_from([3, 17, 4096]),
    share=st.booleans(),
)
def test_equal_the_plain_forward_pass(model, sizes, batch_tokens, share):
    draw = torch.Generator().manual_seed(sum(a + b for a, b in sizes))
    context = tuple(torch.randint(0, 256, (9,), generator=draw).tolist())
    requests = [
        Request(
            context
            if share and i % 2
            else tuple(torch.randint(0, 256, (a,), generator=draw).tolist()),
            tuple(torch.randint(0, 256, (b,), generator=draw).tolist()),
        )
        for i, (a, b) in enumerate(sizes)
    ]
    with torch.no_grad():
        found = score(model, requests, batch_tokens=batch_tokens)
        for request, one in zip(requests, found, strict=True):
            expected = plain(model, request)
            torch.testing.assert_close(one.token_logprobs, expected, rtol=1e-4, atol=1e-4)
            assert one.logprob == pytest.approx(expected.sum().item(), abs=1e-3)


def test_greedy_continuations_are_known_as_such(model):
    prompt = [5, 6, 7]
    tokens = model.generate([prompt], max_new_tokens=6).tokens[0].tolist()
    spoilt = [*tokens[:-1], (tokens[-1] + 1) % 256]
    early = [(tokens[0] + 1) % 256, *tokens[1:]]
    requests = [Request(tuple(prompt), tuple(text)) for text in (tokens, spoilt, early)]
    for batch_tokens in (2, 4096):
        found = score(model, requests, batch_tokens=batch_tokens)
        assert [one.is_greedy for one in found] == [True, False, False]


def test_progress_ends_with_all(model):
    told = []
    requests = [Request((i,), (1, 2)) for i in range(200)]
    score(model, requests, on_progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (200, 200)
    assert len(told) > 2


@pytest.mark.parametrize("request_", [Request((), (1,)), Request((1,), ())])
def test_nothing_to_score(model, request_):
    with pytest.raises(GenerationError, match="at least one token"):
        score(model, [request_])


def test_ids_that_the_model_has_not(model):
    with pytest.raises(GenerationError, match="999"):
        score(model, [Request((1,), (999,))])


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["piqa", "arc_easy", "winogrande", "lambada_test", "hellaswag_val_1000"]
)
def test_public_tasks_equal_transformers_item_by_item(task, tmp_path):
    """The same folder in both libraries: every log-probability to 1e-4 times its size."""
    transformers = pytest.importorskip("transformers")
    from ssmlab.checkpoints import load_tokenizer, save_pretrained
    from ssmlab.models import LanguageModel, LanguageModelConfig

    data, files = shared_data("eval"), shared_data("tokenizers")
    if data is None or files is None:
        pytest.skip("the public evaluation sets are not on this machine")
    words = load_tokenizer(files / "gpt_neox_20b_tokenizer.json")
    torch.manual_seed(0)
    model = LanguageModel(
        LanguageModelConfig(vocab_size=words.vocab_size, d_model=32, n_layers=2)
    ).eval()
    save_pretrained(model, tmp_path / "m", "transformers", tokenizer=words)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    loaded = load_task(data / f"{task}.jsonl", limit=6)
    result = evaluate_task(model, words, loaded)
    with torch.no_grad():
        for item, row in zip(loaded.items, result.items, strict=True):
            for (context, answer), logprob in zip(item.pairs, row["logprobs"], strict=True):
                request = encode_pair(words, context, answer)
                ids = torch.tensor([[*request.context, *request.continuation]])
                logp = theirs(ids).logits[0, len(request.context) - 1 : -1].log_softmax(-1)
                expected = logp.gather(-1, ids[0, len(request.context) :, None]).sum().item()
                assert logprob == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_trained_model_beats_chance_and_a_random_one(tmp_path):
    """Sixteen rules of "after x comes y", learnt by a small model, then asked as choices."""
    from ssmlab.data.tokenize import ByteTokenizer
    from ssmlab.models import LanguageModel, LanguageModelConfig

    torch.manual_seed(0)
    names = "abcdefghijklmnop"
    answer = {a: names[(3 * i + 1) % 16] for i, a in enumerate(names)}
    texts = torch.tensor([list(f"{a}: {answer[a]}".encode()) for a in names])
    model = LanguageModel(LanguageModelConfig(vocab_size=256, d_model=16, n_layers=2))
    rows = [
        {"query": f"{a}:", "choices": [answer[a], answer[b]], "gold": 0}
        for a, b in zip(names, names[1:] + names[0], strict=True)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = load_task(tmp_path / "t.jsonl")
    before = evaluate_task(model.eval(), ByteTokenizer(), task).figures["acc"]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(50):
        loss = model.loss(texts[:, :-1], texts[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = evaluate_task(model, ByteTokenizer(), task).figures["acc"]
    assert before.value < 0.9
    assert after.value == 1.0
    assert after.stderr == 0.0
