"""Causal language model out of residual blocks.

Shapes: B batch, L length, M model width, V vocabulary.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.blocks.in_place import step_in_place
from ssmlab.blocks.residual import NORMS
from ssmlab.blocks.stream import fuses, read_block, read_last, settle
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.linear import Linear
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.layers import build_layers
from ssmlab.models.padding import Packed, pack, unpack
from ssmlab.ops import linear_cross_entropy

if TYPE_CHECKING:
    from ssmlab.checkpoints.formats import Format
    from ssmlab.checkpoints.tokenizer import TokenizerLike
    from ssmlab.generation import Generated

LayerStates = list[Any]
"""The state of every layer, first to last; None for a layer without one."""


class LanguageModel(nn.Module):
    """Embedding, pre-norm residual blocks, final norm and head.

    The last matrix of every block starts smaller by 1/sqrt(n_layers), so that the residual does not
    grow with depth; linear maps start from U(±1/sqrt(fan-in)) unless the config says otherwise, the
    embedding from N(0, init_std²).

    Source: section 3.4 of arXiv 2312.00752; start values as in its released code.

    Raises:
        ConfigError: the config's vocab_size is still 0.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        if config.vocab_size == 0:
            raise ConfigError(
                "LanguageModelConfig.vocab_size is 0, which stands for the size of the data's "
                "vocabulary; set it before a model is built, for example to 256 for bytes"
            )
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.init_std)
        self.layers = build_layers(config)
        self.norm_f = NORMS[config.norm](config.d_model, config.norm_eps)
        self.lm_head = Linear(config.d_model, config.padded_vocab_size, std=config.init_std)
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    @overload
    def forward(
        self,
        input_ids: Tensor,
        *,
        state: LayerStates | None = None,
        return_state: Literal[False] = False,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        input_ids: Tensor,
        *,
        state: LayerStates | None = None,
        return_state: Literal[True],
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, LayerStates]: ...
    def forward(
        self,
        input_ids: Tensor,
        *,
        state: LayerStates | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LayerStates]:
        """Logits of the token after each one.

        Args:
            input_ids: (B, L) int64, 0 <= id < V.
            state: what an earlier call returned, to go on from it.
            return_state: return the state after the last token too.
            cu_seqlens: (S+1,) int32 offsets of S texts packed along L, with B = 1; the states are
                then S rows.
            attention_mask: (B, L), 0 where a row is padding (left or right). Each row is computed
                as if it were alone; logits of padding are zero, a row's state is that after its
                last token. Not together with ``cu_seqlens``.

        Returns:
            logits (B, L, V), or (logits, state).

        Raises:
            ValueError: input_ids is not (B, L) of whole numbers, or the mask does not fit it.
        """
        packed = _packed(input_ids, attention_mask, cu_seqlens)
        if packed is not None:
            input_ids, cu_seqlens = packed.input_ids, packed.cu_seqlens
        residual, pending, states = self._stack(input_ids, state, return_state, cu_seqlens)
        logits = self.head(residual, pending)
        if packed is not None:
            logits = unpack(logits, packed)
        return (logits, states) if return_state else logits

    def prefill(
        self,
        input_ids: Tensor,
        state: LayerStates | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, LayerStates]:
        """Read a text by the scan, for :meth:`step` to go on from.

        Arguments and errors as in ``forward``; the head sees the last token of each row alone.

        Returns:
            logits (B, V) of the token after the last of each row (or of each packed text), and the
            state.
        """
        packed = _packed(input_ids, attention_mask, cu_seqlens)
        if packed is not None:
            input_ids, cu_seqlens = packed.input_ids, packed.cu_seqlens
        residual, pending, states = self._stack(input_ids, state, True, cu_seqlens)
        last = (slice(None), -1) if cu_seqlens is None else (0, cu_seqlens[1:].long() - 1)
        return self.head(residual[last], None if pending is None else pending[last]), states

    def step(self, input_ids: Tensor, state: LayerStates) -> tuple[Tensor, LayerStates]:
        """One token of each row: input_ids (B,) and state -> logits (B, V) and the new state."""
        residual, pending = self._embed(input_ids, 1, "(B,)"), None
        states: LayerStates = []
        for layer, before in zip(self.layers, state, strict=True):
            if fuses(layer, residual):
                x, residual = read_block(layer, residual, pending)
                pending, after = layer.mixer.step(x, before)  # type: ignore[operator]
            else:
                residual, pending = settle(residual, pending), None
                residual, after = layer.step(residual, before)  # type: ignore[operator]
            states.append(after)
        return self.head(residual, pending), states

    def step_(self, input_ids: Tensor, state: LayerStates) -> Tensor:
        """As :meth:`step`, the new state written over the old one: the logits (B, V) alone.

        Only without gradients, and for states whose tensors keep their shapes (attention's do not).
        """
        residual, pending = self._embed(input_ids, 1, "(B,)"), None
        for layer, before in zip(self.layers, state, strict=True):
            if fuses(layer, residual):
                x, residual = read_block(layer, residual, pending)
                pending = step_in_place(layer.mixer, x, before)
            else:
                residual, pending = step_in_place(layer, settle(residual, pending), before), None
        return self.head(residual, pending)

    def init_state(self, batch_size: int) -> LayerStates:
        """The state before the first token."""
        weight = self.embedding.weight
        return [
            layer.init_state(batch_size, weight.device, weight.dtype)  # type: ignore[operator]
            for layer in self.layers
        ]

    def loss(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, 0-d fp32, made without holding all logits at once.

        Args:
            input_ids: (B, L) int64.
            targets: (B, L) int64, the token after each; -100 where none counts.
        """
        # A compiled model is compiled where it is called; a head that somebody wrapped must be.
        if self._compiled_call_impl is None and type(self.lm_head) is Linear:
            residual, pending, _ = self._stack(input_ids)
            hidden = read_last(self.norm_f, residual, pending).flatten(0, 1)
            weight = self.lm_head.weight[: self.config.vocab_size]
            return linear_cross_entropy(hidden, weight, targets.flatten())
        logits = self(input_ids).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> "LanguageModel":
        """The model of a checkpoint: see :func:`ssmlab.checkpoints.from_pretrained`."""
        from ssmlab.checkpoints import from_pretrained

        return from_pretrained(path_or_repo_id, dtype=dtype, device=device, revision=revision)

    def save_pretrained(
        self,
        path: str | Path,
        format: "Format" = "ssmlab",
        *,
        tokenizer: "TokenizerLike | None" = None,
        max_shard_size: int | str = "5GB",
        overwrite: bool = False,
    ) -> Path:
        """Write the model as a checkpoint: see :func:`ssmlab.checkpoints.save_pretrained`."""
        from ssmlab.checkpoints import save_pretrained

        return save_pretrained(
            self,
            path,
            format,
            tokenizer=tokenizer,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
        )

    def generate(self, prompts: Any, **options: Any) -> "Generated":
        """Tokens that go on from each prompt: see :func:`ssmlab.generation.generate`."""
        from ssmlab.generation import generate

        return generate(self, prompts, **options)

    def trunk(
        self,
        input_ids: Tensor,
        state: LayerStates | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, LayerStates]:
        """All but the head: arguments as in ``forward`` -> residual (B, L, M) after the last block,
        and the states (None each, unless asked for)."""
        residual, pending, states = self._stack(input_ids, state, return_state, cu_seqlens)
        return settle(residual, pending), states

    def head(self, residual: Tensor, pending: Tensor | None = None) -> Tensor:
        """Final norm and head: residual (..., M) -> logits (..., V).

        ``pending`` (..., M) is an output of the last block that is yet to be added.
        """
        x = read_last(self.norm_f, residual, pending, self.lm_head)
        # Rows that only pad the vocabulary are not tokens: they are never offered.
        return self.lm_head(x)[..., : self.config.vocab_size]

    def _stack(
        self,
        input_ids: Tensor,
        state: LayerStates | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, LayerStates]:
        """As ``trunk``, the last block's output apart where it is not added yet."""
        residual, pending = self._embed(input_ids, 2, "(B, L)"), None
        states: LayerStates = []
        for index, layer in enumerate(self.layers):
            before = None if state is None else state[index]
            if fuses(layer, residual):
                x, residual = read_block(layer, residual, pending)
                pending, after = layer.mix(x, before, return_state, cu_seqlens)
            else:
                residual, pending = settle(residual, pending), None
                residual, after = layer(residual, before, return_state, cu_seqlens)
            states.append(after)
        return residual, pending, states

    def _embed(self, input_ids: Tensor, dims: int, spelt: str) -> Tensor:
        if input_ids.dim() != dims or input_ids.is_floating_point() or input_ids.numel() == 0:
            raise ValueError(
                f"input_ids: expected {spelt} of int64 with at least one token, got shape "
                f"{tuple(input_ids.shape)} of {input_ids.dtype}"
            )
        x = self.embedding(input_ids)
        if self.config.residual_in_fp32:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x


def _packed(
    input_ids: Tensor, attention_mask: Tensor | None, cu_seqlens: Tensor | None
) -> Packed | None:
    if attention_mask is None:
        return None
    if cu_seqlens is not None:
        raise ValueError("attention_mask and cu_seqlens were both given; keep one of them")
    return pack(input_ids, attention_mask)
