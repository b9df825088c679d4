"""Run a task: score every pair of its questions and sum up, with standard errors."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssmlab.checkpoints.tokenizer import TokenizerLike
from ssmlab.core.errors import DataError
from ssmlab.evaluation.scoring import Request, Score, score
from ssmlab.evaluation.tasks import Item, Task
from ssmlab.models.language_model import LanguageModel


@dataclass(frozen=True)
class Figure:
    """A mean over questions.

    Attributes:
        value: the mean (or, for a perplexity, its exponential).
        stderr: its standard error; None for a single question.
    """

    value: float
    stderr: float | None


@dataclass(frozen=True)
class TaskResult:
    """What a task came to.

    Attributes:
        task: its name.
        kind: its kind.
        n: number of questions.
        figures: ``acc``, the share answered right; ``acc_norm``, the same with log-probabilities
            divided by the answers' characters; ``ppl``, the perplexity of last words, per word.
        items: of each question the log-probability of each pair, the choice and the gold.
    """

    task: str
    kind: str
    n: int
    figures: dict[str, Figure]
    items: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the questions."""
        figures = {
            name: {"value": figure.value, "stderr": figure.stderr}
            for name, figure in self.figures.items()
        }
        return {"task": self.task, "kind": self.kind, "n": self.n, **figures}


def evaluate_task(
    model: LanguageModel,
    tokenizer: TokenizerLike,
    task: Task,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Score a task's questions, zero-shot.

    Context and continuation are tokenised together and cut where the context's own tokens end, as
    the common harness does, so that its figures are comparable.

    Raises:
        DataError: the tokenizer leaves nothing of a text.
        GenerationError: the tokenizer is not the model's.
    """
    requests = [
        encode_pair(tokenizer, context, answer)
        for item in task.items
        for context, answer in item.pairs
    ]
    scores = iter(score(model, requests, on_progress=on_progress))
    rows, right, right_norm, words = [], [], [], []
    for item in task.items:
        found = [next(scores) for _ in item.pairs]
        row = _row(task, item, found)
        rows.append(row)
        right.append(float(row["correct"]))
        if task.kind == "multiple choice":
            right_norm.append(float(row["choice_norm"] == item.gold))
        if task.kind == "last word":
            words.append(found[0].logprob)
    figures = {"acc": mean(right)}
    if right_norm:
        figures["acc_norm"] = mean(right_norm)
    if words:
        figures["ppl"] = perplexity(words)
    return TaskResult(task.name, task.kind, len(task.items), figures, rows)


def _row(task: Task, item: Item, found: list[Score]) -> dict[str, Any]:
    logprobs = [one.logprob for one in found]
    row: dict[str, Any] = {"gold": item.gold, "logprobs": logprobs}
    if task.kind == "last word":
        return row | {"correct": found[0].is_greedy}
    choice = max(range(len(logprobs)), key=logprobs.__getitem__)
    row |= {"choice": choice, "correct": choice == item.gold}
    if task.kind == "multiple choice":
        scaled = [value / length for value, length in zip(logprobs, item.lengths, strict=True)]
        row["choice_norm"] = max(range(len(scaled)), key=scaled.__getitem__)
    return row


def encode_pair(tokenizer: TokenizerLike, context: str, continuation: str) -> Request:
    """Tokens of a context and its continuation; spaces that end the context begin the continuation.

    An empty context stands for the start of a text: the tokenizer's end-of-text token.

    Raises:
        DataError: nothing is left of one of them.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    ids, alone = tokenizer.encode([(kept + continuation).encode(), kept.encode()])
    before = [int(i) for i in alone]
    after = [int(i) for i in ids[len(before) :]]
    if not before:
        if tokenizer.end is None:
            raise DataError(
                "an empty context needs a tokenizer with an end-of-text token, to stand for the "
                "start of a text"
            )
        before = [tokenizer.end]
    if not after:
        raise DataError(f"the tokenizer {tokenizer.name} leaves no token of {continuation!r}")
    return Request(tuple(before), tuple(after))


def mean(values: list[float]) -> Figure:
    """A mean and its standard error, s / sqrt(n) with n - 1 in s."""
    average = statistics.fmean(values)
    if len(values) < 2:
        return Figure(average, None)
    return Figure(average, statistics.stdev(values, average) / math.sqrt(len(values)))


def perplexity(logprobs: list[float]) -> Figure:
    """exp of the mean of -logprobs; its error to first order, exp(m) times that of m."""
    average = mean([-value for value in logprobs])
    value = math.exp(average.value) if average.value < 700 else math.inf
    return Figure(value, None if average.stderr is None else value * average.stderr)
