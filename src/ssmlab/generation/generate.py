"""Generate text: read the prompts, then choose a token and step, until every row has stopped."""

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ssmlab.checkpoints.tokenizer import TokenizerLike
from ssmlab.core.errors import ConfigError, GenerationError
from ssmlab.data.tokenize import ByteTokenizer
from ssmlab.generation.config import GenerationConfig
from ssmlab.generation.decoder import make_decoder
from ssmlab.generation.detokenise import TextStream
from ssmlab.generation.sampling import choose
from ssmlab.generation.session import Session
from ssmlab.generation.states import join
from ssmlab.models.language_model import LanguageModel, LayerStates

Finish = Literal["length", "token", "string"]


@dataclass(frozen=True)
class Piece:
    """A token as it comes.

    Attributes:
        row: of the batch.
        token: its id.
        logprob: the logarithm of its probability under the model, before any rule of sampling.
        text: what may be shown now; empty while a character or a stop string is incomplete, and
            without a tokenizer.
        finish: why the row stops here: its "length", a stop "token" or a stop "string".
    """

    row: int
    token: int
    logprob: float
    text: str
    finish: Finish | None


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        tokens: the new tokens of each row, (n,) int64; a stop token is not among them.
        logprobs: of each of them, (n,) float32.
        finish: why each row stopped.
        texts: the new text of each row, cut before a stop string; None without a tokenizer.
        session: the rows with all their tokens, to go on from.
    """

    tokens: list[Tensor]
    logprobs: list[Tensor]
    finish: list[Finish]
    texts: list[str] | None
    session: Session


def generate(
    model: LanguageModel,
    prompts: Any,
    *,
    attention_mask: Tensor | None = None,
    tokenizer: TokenizerLike | None = None,
    config: GenerationConfig | None = None,
    backend: str | None = None,
    **options: Any,
) -> Generated:
    """Continue each prompt.

    Args:
        prompts: a string or several (with a tokenizer), token ids (L,) or (B, L), a list of rows of
            ids of any lengths, or a :class:`Session` to go on with.
        attention_mask: (B, L), 0 where ids (B, L) are padding.
        tokenizer: for prompts of text, stop strings and ``texts``.
        config: how to choose and when to stop; the default is greedy.
        backend: "cpu" (compiled), "cuda-graph", "eager", or None for the fastest that works.
        options: keys of :class:`GenerationConfig`, changed in ``config``.

    Raises:
        GenerationError: an empty prompt, ids that the model has not, an unknown stop token, or not
            enough memory.
        ConfigError: an unknown or impossible option.
    """
    steps = stream(
        model,
        prompts,
        attention_mask=attention_mask,
        tokenizer=tokenizer,
        config=config,
        backend=backend,
        **options,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def stream(
    model: LanguageModel,
    prompts: Any,
    *,
    attention_mask: Tensor | None = None,
    tokenizer: TokenizerLike | None = None,
    config: GenerationConfig | None = None,
    backend: str | None = None,
    **options: Any,
) -> Generator[Piece, None, Generated]:
    """As :func:`generate`, giving out each token as it comes; the generator's value is the whole."""
    config = _changed(config or GenerationConfig(), options)
    if config.stop and tokenizer is None:
        raise ConfigError("stop strings need a tokenizer; give one, or use stop_tokens")
    session = _session(model, prompts, attention_mask, tokenizer)
    stops = _stop_ids(config, tokenizer, model.config.vocab_size)
    return _Run(session, config, stops, tokenizer, backend).steps()


@dataclass
class _Row:
    """A row while it is generated."""

    number: int
    text: TextStream | None
    prompt: int
    tokens: list[int]
    logprobs: list[float]


class _Run:
    def __init__(
        self,
        session: Session,
        config: GenerationConfig,
        stops: set[int],
        tokenizer: TokenizerLike | None,
        backend: str | None,
    ) -> None:
        self.session, self.config, self.stops, self.backend = session, config, stops, backend
        self.rows = [
            _Row(
                number,
                None if tokenizer is None else TextStream(tokenizer, config.stop),
                len(tokens),
                [],
                [],
            )
            for number, tokens in enumerate(session.tokens)
        ]
        self.finish: dict[int, Finish] = {}
        self.ended: dict[int, tuple[Tensor, LayerStates]] = {}

    def steps(self) -> Generator[Piece, None, Generated]:
        if self.config.max_new_tokens == 0:
            self.finish = dict.fromkeys(range(len(self.rows)), "length")
            return self._generated()
        with torch.no_grad():
            logits, state = self.session.catch_up()
            decoder = make_decoder(self.session.model, state, self.backend)
        device = logits.device
        active, seen = list(self.rows), self._seen(device)
        while True:
            # No gradient mode is left switched while the caller has the turn.
            with torch.no_grad():
                draws = [(row.number, row.prompt + len(row.tokens)) for row in active]
                tokens, logprobs = choose(logits, self.config, draws, seen)
                ids, chances = tokens.tolist(), logprobs.tolist()
            going = []
            for place, (row, token, logprob) in enumerate(zip(active, ids, chances, strict=True)):
                piece = self._take(row, token, logprob)
                if piece.finish is None:
                    going.append(place)
                else:
                    self.ended[row.number] = logits[place], decoder.row_state(place)
                yield piece
            if not going:
                return self._generated()
            with torch.no_grad():
                if len(going) < len(active):
                    decoder.keep(going)
                    active, tokens = [active[i] for i in going], tokens[going]
                    seen = None if seen is None else seen[going]
                if seen is not None:
                    seen.scatter_(1, tokens[:, None], True)
                logits = decoder.step(tokens)

    def _take(self, row: _Row, token: int, logprob: float) -> Piece:
        finish: Finish | None = None
        text = ""
        if token in self.stops:
            finish = "token"
        else:
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if row.text is not None:
                text = row.text.push(token)
                if row.text.stopped:
                    finish = "string"
            if finish is None and len(row.tokens) == self.config.max_new_tokens:
                finish = "length"
        if finish is not None:
            text += "" if row.text is None else row.text.finish()
            self.finish[row.number] = finish
        return Piece(row.number, token, logprob, text, finish)

    def _generated(self) -> Generated:
        new = [torch.tensor(row.tokens, dtype=torch.int64) for row in self.rows]
        if self.ended:
            tokens = [torch.cat(pair) for pair in zip(self.session.tokens, new, strict=True)]
            # The last token taken is still to be read; a stop token is dropped, and then the logits
            # that chose it are those of what is next.
            read = [len(row) - (self.finish[i] != "token") for i, row in enumerate(tokens)]
            ended = [self.ended[i] for i in range(len(self.rows))]
            state = join([state for _, state in ended])
            self.session.settle(tokens, read, state, torch.stack([row for row, _ in ended]))
        return Generated(
            tokens=new,
            logprobs=[torch.tensor(row.logprobs) for row in self.rows],
            finish=[self.finish[i] for i in range(len(self.rows))],
            texts=None
            if self.rows[0].text is None
            else [row.text.text for row in self.rows if row.text is not None],
            session=self.session,
        )

    def _seen(self, device: torch.device) -> Tensor | None:
        if self.config.repetition_penalty == 1:
            return None
        size = self.session.model.config.vocab_size
        seen = torch.zeros(len(self.rows), size, dtype=torch.bool, device=device)
        for index, tokens in enumerate(self.session.tokens):
            seen[index, tokens.to(device)] = True
        return seen


def _changed(config: GenerationConfig, options: dict[str, Any]) -> GenerationConfig:
    from ssmlab.core.config import override

    for key in ("stop", "stop_tokens"):
        if isinstance(options.get(key), str | int):
            options[key] = [options[key]]
    return override(config, options) if options else dataclasses.replace(config)


def _session(
    model: LanguageModel,
    prompts: Any,
    attention_mask: Tensor | None,
    tokenizer: TokenizerLike | None,
) -> Session:
    if isinstance(prompts, Session):
        if prompts.model is not model:
            raise GenerationError("the session belongs to another model; use that one")
        return prompts
    if isinstance(prompts, str):
        prompts = [prompts]
    if isinstance(prompts, Tensor):
        return Session(model, _tensor_rows(prompts, attention_mask))
    rows: Sequence[Any] = list(prompts)
    if rows and all(isinstance(row, int) for row in rows):
        rows = [torch.tensor(rows)]
    if attention_mask is not None:
        raise GenerationError("attention_mask goes with ids (B, L); rows of a list have no padding")
    return Session(model, [_ids(row, index, tokenizer) for index, row in enumerate(rows)])


def _tensor_rows(ids: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    if ids.dim() == 1:
        ids = ids[None]
        attention_mask = None if attention_mask is None else attention_mask.reshape(1, -1)
    if ids.dim() != 2:
        raise GenerationError(f"prompts: expected (L,) or (B, L), got shape {tuple(ids.shape)}")
    if attention_mask is None:
        return list(ids)
    from ssmlab.models.padding import pack

    packed = pack(ids, attention_mask)
    bounds = packed.cu_seqlens.tolist()
    return [packed.input_ids[0, a:b] for a, b in pairwise(bounds)]


def _ids(row: Any, index: int, tokenizer: TokenizerLike | None) -> Any:
    if not isinstance(row, str):
        return row
    if tokenizer is None:
        raise GenerationError("a prompt of text needs a tokenizer; give one, or token ids")
    (ids,) = tokenizer.encode([row.encode("utf-8")])
    return torch.from_numpy(ids)


def _stop_ids(
    config: GenerationConfig, tokenizer: TokenizerLike | None, vocab_size: int
) -> set[int]:
    stops = set()
    if config.stop_at_end and tokenizer is not None and tokenizer.end is not None:
        stops.add(tokenizer.end)
    for token in config.stop_tokens:
        stops.add(_stop_id(token, tokenizer, vocab_size))
    return stops


def _stop_id(token: int | str, tokenizer: TokenizerLike | None, vocab_size: int) -> int:
    if isinstance(token, int):
        if not 0 <= token < vocab_size:
            raise GenerationError(
                f"stop token {token} is unknown: the model's vocabulary is 0 to {vocab_size - 1}"
            )
        return token
    found = None
    if tokenizer is not None and not isinstance(tokenizer, ByteTokenizer):
        found = tokenizer.tokenizer.token_to_id(token)
    if found is None:
        raise GenerationError(
            f"stop token {token!r} is unknown to the tokenizer; give a token of its vocabulary, an "
            "id, or a stop string, which may be any text"
        )
    return found
