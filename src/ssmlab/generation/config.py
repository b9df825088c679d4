"""How the next token is chosen, and when to stop."""

import math
from dataclasses import dataclass

from ssmlab.core.errors import ConfigError


@dataclass(frozen=True)
class GenerationConfig:
    """Choice of tokens, in the order in which the rules apply.

    Attributes:
        max_new_tokens: stop after so many.
        repetition_penalty: logits of tokens seen in the text are divided (where negative,
            multiplied) by this; 1 changes nothing (arXiv 1909.05858, section 4.1).
        temperature: logits are divided by this; 0 takes the most likely token (greedy), and the
            rules below have no say.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the fewest most likely tokens whose probabilities add up to this
            (arXiv 1904.09751); 1 keeps all.
        min_p: keep tokens at least this share as likely as the most likely one
            (arXiv 2407.01082); 0 keeps all.
        seed: names the random draws. Row r draws the same numbers whatever the other rows are.
        stop: strings that end a text; they are not part of it. Needs a tokenizer.
        stop_tokens: ids, or names known to the tokenizer, that end a text and are not part of it.
        stop_at_end: the tokenizer's end-of-text token is one of them.

    Raises:
        ConfigError: a value out of range.
    """

    max_new_tokens: int = 128
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int | str, ...] = ()
    stop_at_end: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
                raise ConfigError(f"{name}: expected a whole number >= 0, got {value!r}")
        for name, low, high, spelt in (
            ("temperature", 0.0, math.inf, "a number >= 0"),
            ("repetition_penalty", 1e-9, math.inf, "a number > 0"),
            ("top_p", 1e-9, 1.0, "a number above 0, at most 1"),
            ("min_p", 0.0, 1.0, "a number from 0 to 1"),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or not low <= value <= high:
                raise ConfigError(f"{name}: expected {spelt}, got {value!r}")
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise ConfigError(f"stop: expected a tuple of strings, none empty, got {self.stop!r}")
