"""The model class of the lm-evaluation-harness (the optional ``lm-eval`` extra).

``ssmlab eval --tasks NAME`` uses it for names that are no local files; in Python:
``lm_eval.simple_evaluate(model=HarnessModel(model, tokenizer), tasks=[...])``. The harness fetches
its data sets from the hub, so that its own tasks need a network.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from ssmlab.checkpoints.load import from_pretrained
from ssmlab.checkpoints.tokenizer import TokenizerLike, load_tokenizer
from ssmlab.core.errors import DataError
from ssmlab.evaluation.run import encode_pair
from ssmlab.evaluation.scoring import Request, score
from ssmlab.generation.generate import generate
from ssmlab.models.language_model import LanguageModel


@register_model("ssmlab")
class HarnessModel(LM):
    """A model of ssmlab as the harness calls it.

    Arguments:
        pretrained: a model, or a checkpoint's folder or hub name (``--model_args pretrained=...``).
        tokenizer: its tokenizer, or where that is; the checkpoint's own unless given.
        max_gen_toks: tokens generated where a task does not say.
        device: where a checkpoint is loaded to.
        batch_size: taken for the harness's sake; batches are cut by tokens here.
    """

    def __init__(
        self,
        pretrained: LanguageModel | str,
        tokenizer: TokenizerLike | str | None = None,
        max_gen_toks: int | str = 256,
        device: str | None = None,
        batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, LanguageModel):
            self.model = pretrained
            if tokenizer is None:
                raise DataError("a model without a folder needs its tokenizer named too")
        else:
            self.model = from_pretrained(pretrained, device=device or "cpu")
            tokenizer = tokenizer or pretrained
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.max_gen_toks = int(max_gen_toks)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each (context, continuation), and whether greedy decoding gives it."""
        pairs = [encode_pair(self.tokenizer, *request.args) for request in requests]
        return self._scores(pairs)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probability of each whole text, the state carried from its start to its end."""
        pairs = [encode_pair(self.tokenizer, "", request.args[0]) for request in requests]
        return [logprob for logprob, _ in self._scores(pairs)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """A continuation of each context, up to the first of its stop strings."""
        texts = []
        for request in requests:
            context, given = request.args
            options = _options(dict(given), self.max_gen_toks)
            texts += generate(self.model, context, tokenizer=self.tokenizer, **options).texts or []
        return texts

    def _scores(self, pairs: Sequence[Request]) -> list[tuple[float, bool]]:
        return [(one.logprob, one.is_greedy) for one in score(self.model, pairs)]


def _options(given: dict[str, Any], max_gen_toks: int) -> dict[str, Any]:
    """The harness's keys of generation as ours; what does not apply to a single sample is left."""
    until = given.get("until") or []
    sampled = given.get("do_sample", given.get("temperature", 0) > 0)
    options: dict[str, Any] = {
        "stop": [until] if isinstance(until, str) else [text for text in until if text],
        "max_new_tokens": int(given.get("max_gen_toks", given.get("max_new_tokens", max_gen_toks))),
        "temperature": float(given.get("temperature", 1.0)) if sampled else 0.0,
    }
    for key, kind in (("top_k", int), ("top_p", float), ("min_p", float)):
        if key in given:
            options[key] = kind(given[key])
    return options
