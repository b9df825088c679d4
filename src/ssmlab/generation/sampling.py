"""From logits to the next token.

Shapes: B rows, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from ssmlab.generation.config import GenerationConfig


def choose(
    logits: Tensor, config: GenerationConfig, draws: list[tuple[int, int]], seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The next token of each row.

    Args:
        logits: (B, V), any floating type.
        draws: for each row, which row of the batch it is and how many tokens it has: with the seed
            they name its random number, so that a text never depends on its neighbours.
        seen: (B, V) bool, tokens that a repetition penalty applies to; None without one.

    Returns:
        tokens (B,) int64, and the logarithm of their probability under the model itself, before any
        rule (B,) float32.
    """
    logits = logits.float()
    ruled = logits
    if seen is not None:
        penalty = config.repetition_penalty
        ruled = torch.where(seen, torch.where(ruled < 0, ruled * penalty, ruled / penalty), ruled)
    if config.temperature == 0:
        tokens = ruled.argmax(-1)
    else:
        tokens = _sample(ruled / config.temperature, config, draws)
    picked = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, picked - logits.logsumexp(-1)


def _sample(logits: Tensor, config: GenerationConfig, draws: list[tuple[int, int]]) -> Tensor:
    values, order = keep_likely(logits, config)
    probabilities = values.double().softmax(-1)
    uniform = [_uniform(config.seed, row, count) for row, count in draws]
    # The inverse of the distribution function at one uniform number per row.
    cumulative = probabilities.cumsum(-1)
    target = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    index = torch.searchsorted(cumulative, target * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, index.minimum(last))[:, 0]


def keep_likely(logits: Tensor, config: GenerationConfig) -> tuple[Tensor, Tensor]:
    """Apply top-k, top-p and min-p.

    Returns:
        the logits that may be drawn, most likely first, -inf after them, and their tokens, both
        (B, K) with K = top_k or V.
    """
    vocabulary = logits.shape[-1]
    count = min(config.top_k or vocabulary, vocabulary)
    values, order = logits.topk(count) if count < vocabulary else logits.sort(-1, descending=True)
    probabilities = values.double().softmax(-1)
    kept = torch.ones_like(values, dtype=torch.bool)
    if config.top_p < 1:
        # A token stays as long as those before it do not yet add up to top_p.
        kept &= probabilities.cumsum(-1) - probabilities < config.top_p
    if config.min_p > 0:
        if config.top_p < 1:
            probabilities = values.double().masked_fill(~kept, -torch.inf).softmax(-1)
        kept &= probabilities >= config.min_p * probabilities[:, :1]
    kept[:, 0] = True
    return values.masked_fill(~kept, -torch.inf), order


def _uniform(seed: int, row: int, count: int) -> float:
    """A number in [0, 1) that depends on its arguments alone (Philox, keyed)."""
    bits = np.random.Philox(key=np.array([seed, row], np.uint64), counter=count)
    return float(np.random.Generator(bits).random())
