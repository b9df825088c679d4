"""Log-probabilities of continuations: each context is read once, its continuations go on from a copy
of its state.

Shapes: B rows, L tokens, T tokens packed, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmlab.core.errors import GenerationError
from ssmlab.generation.session import check_ids
from ssmlab.generation.states import CHUNK_TOKENS, read_rows, select
from ssmlab.models.language_model import LanguageModel, LayerStates

_MOST_ROWS = 64  # each holds a state
_HEAD_TOKENS = 256  # logits held at once


@dataclass(frozen=True)
class Request:
    """A continuation whose probability is asked for.

    Attributes:
        context: token ids before it; at least one.
        continuation: token ids; at least one.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """The probability of a continuation.

    Attributes:
        token_logprobs: natural logarithm of each token's probability given all before it, (L,)
            float64.
        is_greedy: every token is the most likely one.
    """

    token_logprobs: Tensor
    is_greedy: bool

    @property
    def logprob(self) -> float:
        """Of the whole continuation."""
        return float(self.token_logprobs.sum())


@torch.no_grad()
def score(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int = CHUNK_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """The scores of requests, in their order. Memory does not grow with their length or number.

    Args:
        batch_tokens: tokens computed at once, about.
        on_progress: told how many requests are done, and of how many.

    Raises:
        GenerationError: an empty context or continuation, or ids that the model has not.
    """
    size = model.config.vocab_size
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        if not request.context or not request.continuation:
            raise GenerationError(
                f"request {index}: expected at least one token of context and of continuation, got "
                f"{len(request.context)} and {len(request.continuation)}"
            )
        check_ids(request.continuation, size, index)
        by_context.setdefault(request.context, []).append(index)
    # Long ones first: the batch that needs most memory comes at once, and neighbours are alike.
    order = sorted(by_context, key=len, reverse=True)
    scores: dict[int, Score] = {}
    for contexts in _batches(order, by_context, requests, batch_tokens):
        indices = [by_context[context] for context in contexts]
        wanted = [[requests[i].continuation for i in group] for group in indices]
        for group, found in zip(
            indices, _score_batch(model, contexts, wanted, batch_tokens), strict=True
        ):
            scores |= dict(zip(group, found, strict=True))
        if on_progress is not None:
            on_progress(len(scores), len(requests))
    return [scores[index] for index in range(len(requests))]


def _batches(
    order: list[tuple[int, ...]],
    by_context: dict[tuple[int, ...], list[int]],
    requests: Sequence[Request],
    batch_tokens: int,
) -> list[list[tuple[int, ...]]]:
    batches: list[list[tuple[int, ...]]] = []
    tokens = rows = 0
    for context in order:
        group = by_context[context]
        more = len(context) + sum(len(requests[i].continuation) for i in group)
        if not batches or tokens + more > batch_tokens or rows + len(group) > _MOST_ROWS:
            batches.append([])
            tokens = rows = 0
        batches[-1].append(context)
        tokens, rows = tokens + more, rows + len(group)
    return batches


def _score_batch(
    model: LanguageModel,
    contexts: list[tuple[int, ...]],
    wanted: list[list[tuple[int, ...]]],
    batch_tokens: int,
) -> list[list[Score]]:
    rows = [check_ids(context, model.config.vocab_size, i) for i, context in enumerate(contexts)]
    logits, state = read_rows(model, rows, model.init_state(len(rows)), batch_tokens)
    owner = [i for i, group in enumerate(wanted) for _ in group]
    texts = [torch.tensor(text) for group in wanted for text in group]
    first = torch.tensor([int(text[0]) for text in texts], device=logits.device)
    chances, greedy = _look_up(logits[owner], first)
    parts = [[chance] for chance in chances.split(1)]
    all_greedy = greedy.tolist()
    longer = [i for i, text in enumerate(texts) if len(text) > 1]
    if longer:
        after = select(state, [owner[i] for i in longer])
        rest = _read_on(model, [texts[i] for i in longer], after, batch_tokens)
        for i, (more, is_greedy) in zip(longer, rest, strict=True):
            parts[i] += more
            all_greedy[i] = all_greedy[i] and is_greedy
    flat = [Score(torch.cat(p).cpu(), bool(g)) for p, g in zip(parts, all_greedy, strict=True)]
    cut = iter(flat)
    return [[next(cut) for _ in group] for group in wanted]


def _read_on(
    model: LanguageModel, texts: list[Tensor], state: LayerStates, batch_tokens: int
) -> list[tuple[list[Tensor], bool]]:
    """Log-probabilities of all tokens of each text but the first, which is read with the state."""
    device = model.embedding.weight.device
    found: list[tuple[list[Tensor], bool]] = [([], True) for _ in texts]
    active, position = list(range(len(texts))), 0
    while active:
        length = max(1, batch_tokens // len(active))
        inputs = [texts[i][:-1][position : position + length] for i in active]
        targets = [texts[i][1:][position : position + length] for i in active]
        sizes = [len(part) for part in inputs]
        offsets = torch.tensor([0, *sizes]).cumsum(0).to(device=device, dtype=torch.int32)
        position += length
        going = [k for k, i in enumerate(active) if len(texts[i]) - 1 > position]
        residual, after = model.trunk(
            torch.cat(inputs)[None].to(device), state, bool(going), offsets
        )
        wanted = torch.cat(targets).to(device)
        looked = [
            _look_up(model.head(residual[0, a : a + _HEAD_TOKENS]), wanted[a : a + _HEAD_TOKENS])
            for a in range(0, len(wanted), _HEAD_TOKENS)
        ]
        chances = torch.cat([pair[0] for pair in looked]).split(sizes)
        greedy = torch.cat([pair[1] for pair in looked]).split(sizes)
        for k, i in enumerate(active):
            parts, so_far = found[i]
            parts.append(chances[k])
            found[i] = (parts, so_far and bool(greedy[k].all()))
        if going and len(going) < len(active):
            after = select(after, going)
        active, state = [active[k] for k in going], after
    return found


def _look_up(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """logits (T, V), tokens (T,) -> log-probabilities (T,) float64, and whether each is the top."""
    logits = logits.float()
    picked = logits.gather(-1, tokens[:, None])[:, 0]
    return (picked - logits.logsumexp(-1)).double(), logits.argmax(-1) == tokens
