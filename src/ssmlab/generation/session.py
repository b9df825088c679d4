"""Texts being continued: their tokens, the model's state after them, and the logits of what is next.

A session is all that decoding needs, in memory that does not grow with the text (but for the tokens
themselves). It can be forked, saved and gone on with.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmlab.core.config import config_hash
from ssmlab.core.errors import CheckpointError, GenerationError
from ssmlab.core.files import write_atomic
from ssmlab.generation.states import join, read_rows, select
from ssmlab.models.language_model import LanguageModel, LayerStates

_FORMAT = "ssmlab session 1"


class Session:
    """Rows of text and the model's state after them.

    Attributes:
        model: the model.
        tokens: of each row all tokens, prompt and generated, (L_b,) int64 on the CPU.
        read: how many of each row's tokens the state has seen; a token just generated is not yet.
    """

    def __init__(self, model: LanguageModel, tokens: Sequence[Tensor]) -> None:
        self.model = model
        self.tokens = [check_ids(row, model.config.vocab_size, i) for i, row in enumerate(tokens)]
        if not self.tokens:
            raise GenerationError("no prompt was given; give at least one")
        self.read = [0] * len(self.tokens)
        self._state: LayerStates = model.init_state(len(self.tokens))
        self._logits: Tensor | None = None

    @torch.no_grad()
    def catch_up(self) -> tuple[Tensor, LayerStates]:
        """Read what is unread.

        Returns:
            logits (B, V) of the token after each row, and the state.
        """
        behind = [i for i, row in enumerate(self.tokens) if self.read[i] < len(row)]
        if behind:
            unread = [self.tokens[i][self.read[i] :] for i in behind]
            everyone = len(behind) == len(self.tokens)
            state = self._state if everyone else select(self._state, behind)
            logits, state = read_rows(self.model, unread, state)
            if not everyone:
                assert self._logits is not None
                place = {row: i for i, row in enumerate(behind)}
                rows = range(len(self.tokens))
                # Rows already read keep theirs.
                parts = [
                    select(state, [place[r]]) if r in place else select(self._state, [r])
                    for r in rows
                ]
                old, new, state = self._logits, logits, join(parts)
                logits = torch.stack([new[place[r]] if r in place else old[r] for r in rows])
            self.settle(self.tokens, [len(row) for row in self.tokens], state, logits)
        assert self._logits is not None
        return self._logits, self._state

    def settle(
        self, tokens: list[Tensor], read: list[int], state: LayerStates, logits: Tensor | None
    ) -> None:
        """Take over what a decoder came to; ``logits`` (B, V) may be None if nothing was read to
        the end."""
        self.tokens, self.read, self._state, self._logits = tokens, read, state, logits

    def append(self, rows: Sequence[Tensor | Sequence[int]]) -> None:
        """Add tokens to the rows, to be read with the next use; an empty row adds nothing.

        Raises:
            GenerationError: another number of rows, or ids out of range.
        """
        if len(rows) != len(self.tokens):
            raise GenerationError(
                f"{len(rows)} rows were given, the session has {len(self.tokens)}"
            )
        size = self.model.config.vocab_size
        added = [
            check_ids(torch.as_tensor(row, dtype=torch.int64), size, i, may_be_empty=True)
            for i, row in enumerate(rows)
        ]
        self.tokens = [torch.cat(pair) for pair in zip(self.tokens, added, strict=True)]

    def fork(self, rows: Sequence[int] | None = None) -> "Session":
        """An independent session of some rows (each as often as named); None for all.

        Raises:
            GenerationError: there is no such row.
        """
        chosen = list(range(len(self.tokens))) if rows is None else list(rows)
        wrong = [row for row in chosen if not 0 <= row < len(self.tokens)]
        if wrong or not chosen:
            raise GenerationError(f"rows {wrong or chosen}: expected 0 to {len(self.tokens) - 1}")
        other = Session(self.model, [self.tokens[row].clone() for row in chosen])
        other.settle(
            other.tokens,
            [self.read[row] for row in chosen],
            select(self._state, chosen),
            None if self._logits is None else self._logits[chosen].clone(),
        )
        return other

    def save(self, path: str | Path) -> None:
        """Write the session as one safetensors file.

        Raises:
            StorageError: it cannot be written; what was there stays.
        """
        leaves = [leaf for leaf in pytree.tree_flatten(self._state)[0] if isinstance(leaf, Tensor)]
        tensors = {f"state.{i}": leaf for i, leaf in enumerate(leaves)}
        tensors |= {f"tokens.{i}": row for i, row in enumerate(self.tokens)}
        if self._logits is not None:
            tensors["logits"] = self._logits
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        about = {"format": _FORMAT, "read": self.read, "model": fingerprint(self.model)}

        def write(temporary: Path) -> None:
            try:
                save_file(tensors, temporary, {"session": json.dumps(about)})
            except SafetensorError as error:
                raise OSError(str(error)) from error

        write_atomic(path, write)

    @classmethod
    def load(cls, path: str | Path, model: LanguageModel) -> "Session":
        """Read a saved session, to go on with.

        Raises:
            CheckpointError: it is missing, damaged, or of another model.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["session"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']!r}")
            read = [int(count) for count in about["read"]]
            rows = [tensors[f"tokens.{i}"] for i in range(len(read))]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a session that can be read: {error}") from error
        if about["model"] != fingerprint(model):
            raise CheckpointError(f"{path} is a session of another model; load that one")
        session = cls(model, rows)
        session.settle(session.tokens, read, _restored(session, tensors, path), None)
        if "logits" in tensors:
            session._logits = tensors["logits"].to(model.embedding.weight.device)
        return session


def _restored(session: Session, tensors: dict[str, Tensor], path: str | Path) -> LayerStates:
    leaves, spec = pytree.tree_flatten(session._state)
    stored, index = [], 0
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            stored.append(leaf)
            continue
        tensor = tensors.get(f"state.{index}")
        if tensor is None or tensor.shape != leaf.shape:
            raise CheckpointError(f"{path} is damaged: its state does not fit the model")
        stored.append(tensor.to(leaf.device))
        index += 1
    return pytree.tree_unflatten(stored, spec)


def fingerprint(model: LanguageModel) -> str:
    """What tells one model from another: its config and a sample of its weights."""
    sample = (model.norm_f.weight, model.embedding.weight[0])
    value = 0
    for tensor in sample:
        value = zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes(), value)
    return f"{config_hash(model.config)}-{value:08x}"


def check_ids(ids: Any, vocab_size: int, row: int, may_be_empty: bool = False) -> Tensor:
    """One row of token ids, (L,) int64 on the CPU.

    Raises:
        GenerationError: it is empty, or an id is not of the vocabulary.
    """
    tensor = torch.as_tensor(ids)
    if tensor.numel() == 0:
        if may_be_empty:
            return torch.empty(0, dtype=torch.int64)
        raise GenerationError(
            f"prompt {row} is empty; give at least one token, for example the end-of-text token "
            "to start a new text"
        )
    if tensor.dim() != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise GenerationError(
            f"prompt {row}: expected (L,) of whole numbers, got shape {tuple(tensor.shape)} of "
            f"{tensor.dtype}"
        )
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= vocab_size:
        raise GenerationError(
            f"prompt {row} has token {low if low < 0 else high}, but the model's vocabulary is 0 to "
            f"{vocab_size - 1}; is the tokenizer the model's own?"
        )
    return tensor.to(device="cpu", dtype=torch.int64)
