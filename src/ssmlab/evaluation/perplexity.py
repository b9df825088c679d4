"""Perplexity of a model on text: every token given all of its document, or given a window."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ssmlab.checkpoints.tokenizer import TokenizerLike
from ssmlab.core.errors import DataError
from ssmlab.data.sources import find_files, read_documents
from ssmlab.evaluation.scoring import Request, score
from ssmlab.models.language_model import LanguageModel

_SEGMENT = 1024
_MANY = 30


@dataclass(frozen=True)
class Perplexity:
    """A text's perplexity.

    Attributes:
        nats_per_token: mean of -log p over all tokens.
        stderr: its standard error, of a ratio estimate over ``unit``; None for a single unit.
        ppl: exp(nats_per_token).
        ppl_stderr: ppl * stderr, to first order.
        bits_per_byte: the same per byte of UTF-8, comparable between tokenizers.
        tokens: tokens scored.
        documents: documents read.
        unit: what was taken as independent: "document", or "segment" of 1024 tokens where there
            are fewer than 30 documents. Neighbouring segments are alike, so their error is too small.
    """

    nats_per_token: float
    stderr: float | None
    ppl: float
    ppl_stderr: float | None
    bits_per_byte: float
    tokens: int
    documents: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def evaluate_text(
    model: LanguageModel,
    tokenizer: TokenizerLike,
    paths: Sequence[str],
    *,
    window: int | None = None,
    max_tokens: int | None = None,
    text_field: str = "text",
    on_progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity on files, document by document.

    Each document begins after the tokenizer's end-of-text token (without one, its first token is
    not scored).

    Args:
        paths: files, folders and globs, in the forms that training reads.
        window: tokens after which the model starts anew, as windows of training do; None carries
            the state through the whole document.
        max_tokens: read documents until there are so many tokens; the last one is cut.
        text_field: field of .jsonl and column of .parquet that holds the text.

    Raises:
        DataError: no text, or text that cannot be read.
    """
    if window is not None and window < 2:
        raise DataError(f"window is {window}: expected at least 2 tokens")
    requests: list[Request] = []
    owners: list[int] = []
    size = documents = 0
    for ids, count in _documents(tokenizer, paths, text_field, max_tokens):
        size += count
        for request in _requests(ids, tokenizer.end, window):
            requests.append(request)
            owners.append(documents)
        documents += 1
    if not requests:
        raise DataError("the text has no token to score; give more text")
    scores = score(model, requests, on_progress=on_progress)
    pieces: list[list[Tensor]] = [[] for _ in range(documents)]
    for owner, one in zip(owners, scores, strict=True):
        pieces[owner].append(-one.token_logprobs)
    texts = [torch.cat(parts) for parts in pieces if parts]
    unit = "document" if len(texts) >= _MANY else "segment"
    units = texts if unit == "document" else [part for t in texts for part in t.split(_SEGMENT)]
    average, error = _ratio(units)
    ppl = math.exp(average) if average < 700 else math.inf
    tokens = sum(len(text) for text in texts)
    return Perplexity(
        nats_per_token=average,
        stderr=error,
        ppl=ppl,
        ppl_stderr=None if error is None else ppl * error,
        bits_per_byte=average * tokens / math.log(2) / size,
        tokens=tokens,
        documents=documents,
        unit=unit,
    )


def _documents(
    tokenizer: TokenizerLike, paths: Sequence[str], text_field: str, max_tokens: int | None
) -> Iterator[tuple[list[int], int]]:
    """Token ids and size in bytes of each document."""
    left = math.inf if max_tokens is None else max_tokens
    for file in find_files(tuple(paths), "text"):
        for text in read_documents(file, text_field):
            (ids,) = tokenizer.encode([text])
            count = len(text)
            if len(ids) > left:
                ids = ids[: int(left)]
                count = len(tokenizer.decode(ids).encode())
            left -= len(ids)
            if len(ids):
                yield [int(i) for i in ids], count
            if left < 1:
                return


def _requests(ids: list[int], end: int | None, window: int | None) -> Iterator[Request]:
    if end is not None:
        ids = [end, *ids]
    step = len(ids) if window is None else window - 1
    for first in range(0, len(ids) - 1, step):
        part = ids[first : first + step + 1]
        yield Request((part[0],), tuple(part[1:]))


def _ratio(units: list[Tensor]) -> tuple[float, float | None]:
    """Mean over all tokens of units of unequal length, and its standard error (a ratio estimate)."""
    sums = torch.stack([unit.sum() for unit in units])
    counts = torch.tensor([len(unit) for unit in units], dtype=torch.float64)
    average = (sums.sum() / counts.sum()).item()
    if len(units) < 2:
        return average, None
    spread = ((sums - average * counts) ** 2).sum() * len(units) / (len(units) - 1)
    return average, (spread.sqrt() / counts.sum()).item()
