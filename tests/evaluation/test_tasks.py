"""Tasks from files: kinds, prompts, figures and errors."""

import json
import math

import pytest

from ssmlab.core.errors import DataError
from ssmlab.data.tokenize import train_bpe
from ssmlab.evaluation import evaluate_task, load_task
from ssmlab.evaluation.run import encode_pair, mean, perplexity


@pytest.fixture
def write(tmp_path):
    def make(*rows, name="task.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        return path

    return make


def test_kinds_and_their_prompts(write):
    piqa = load_task(write({"query": "Question: why?\n", "choices": ["so", "thus"], "gold": 1}))
    assert piqa.kind == "multiple choice"
    assert piqa.items[0].pairs == (
        ("Question: why?\nAnswer:", " so"),
        ("Question: why?\nAnswer:", " thus"),
    )
    swag = load_task(write({"ind": 3, "query": "He runs.", "choices": ["He", "A"], "gold": 0}))
    assert swag.items[0].pairs[0] == ("He runs.", " He")
    grande = load_task(
        write({"context_options": ["a", "b"], "continuation": "is late.", "gold": 1})
    )
    assert grande.items[0].pairs == (("a", " is late."), ("b", " is late."))
    words = load_task(write({"text": "one two three"}, "", {"text": "four five"}))
    assert [item.pairs for item in words.items] == [(("one two", " three"),), (("four", " five"),)]
    assert words.name == "task"


def test_figures_are_means_with_standard_errors():
    figure = mean([1.0, 0.0, 1.0, 1.0])
    assert figure.value == 0.75
    assert figure.stderr == pytest.approx(0.25)  # sqrt(p (1 - p) / (n - 1))
    assert mean([1.0]).stderr is None
    found = perplexity([-1.0, -3.0])
    assert found.value == pytest.approx(math.exp(2))
    assert found.stderr == pytest.approx(math.exp(2))


def test_accuracy_counts_what_the_scores_say(write, model, words):
    rows = [{"query": "ab", "choices": ["c", "dd", "eee"], "gold": g} for g in (0, 1, 2)]
    result = evaluate_task(model, words, load_task(write(*rows)))
    choice = result.items[0]["choice"]
    assert [row["choice"] for row in result.items] == [choice] * 3
    assert result.figures["acc"].value == pytest.approx(1 / 3)
    scaled = [lp / n for lp, n in zip(result.items[0]["logprobs"], (1, 2, 3), strict=True)]
    assert result.items[0]["choice_norm"] == scaled.index(max(scaled))
    assert set(result.to_dict()) == {"task", "kind", "n", "acc", "acc_norm"}


def test_pairs_are_cut_where_the_contexts_tokens_end():
    words = train_bpe([b"the cat sat on the mat"] * 4, 290, "b")
    pair = encode_pair(words, "the cat", " sat on")
    assert list(pair.context) == words.encode([b"the cat"])[0].tolist()
    both = list(pair.context + pair.continuation)
    assert both == words.encode([b"the cat sat on"])[0].tolist()
    # Spaces at the end of a context belong to the continuation, as the tokenizer has them.
    assert encode_pair(words, "the cat ", "sat on") == pair
    assert encode_pair(words, "", "the").context == (words.end,)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no questions"),
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: expected a JSON object, got list"),
        ([{"question": "x"}], "fields question are of no known task; expected"),
        ([{"query": "x", "choices": ["a"], "gold": 1}], "gold is 1, expected 0 to 0"),
        ([{"query": "x", "choices": ["a"], "gold": True}], "gold is True"),
        ([{"query": "x", "choices": ["a", ""], "gold": 0}], "an empty context or answer"),
        ([{"query": 3, "choices": ["a"], "gold": 0}], "3 is not text"),
        ([{"text": "one two"}, {"text": "alone"}], "line 2: .*at least two words"),
        ([{"text": "one two"}, {"query": "x"}], "line 2: not a question of kind 'last word'"),
    ],
)
def test_bad_files_name_the_line(write, rows, said):
    with pytest.raises(DataError, match=said):
        load_task(write(*rows))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot read the task"):
        load_task(tmp_path / "none.jsonl")


def test_a_limit_reads_no_further(write):
    path = write({"text": "one two"}, {"text": "three four"}, "{")
    assert len(load_task(path, limit=2).items) == 2
