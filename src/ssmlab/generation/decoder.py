"""Stepping a batch: compiled on a CPU, recorded on a GPU, the model's own ``step`` elsewhere."""

from typing import Protocol

from torch import Tensor

from ssmlab.core.errors import ConfigError
from ssmlab.generation.graph import GraphDecoder
from ssmlab.generation.states import select
from ssmlab.models.language_model import LanguageModel, LayerStates

BACKENDS = ("eager", "cpu", "cuda-graph")


class Decoder(Protocol):
    """A batch being decoded; its state moves on in place."""

    def step(self, input_ids: Tensor) -> Tensor:
        """input_ids (B,) int64 -> logits (B, V) of the token after each."""
        ...

    def state(self) -> LayerStates:
        """The state after the last step."""
        ...

    def row_state(self, row: int) -> LayerStates:
        """The state of one row, as a batch of one."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone."""
        ...


class EagerDecoder:
    """The model's own ``step``: any model, any device."""

    def __init__(self, model: LanguageModel, state: LayerStates) -> None:
        self._model, self._state = model, state

    def step(self, input_ids: Tensor) -> Tensor:
        """input_ids (B,) int64 -> logits (B, V) of the token after each."""
        logits, self._state = self._model.step(input_ids, self._state)
        return logits

    def state(self) -> LayerStates:
        """The state after the last step."""
        return self._state

    def row_state(self, row: int) -> LayerStates:
        """The state of one row, as a batch of one."""
        return select(self._state, [row])

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone."""
        self._state = select(self._state, rows)


def make_decoder(model: LanguageModel, state: LayerStates, backend: str | None = None) -> Decoder:
    """A decoder that goes on from ``state``, which it may change.

    Args:
        backend: "cpu" (compiled; float32 Mamba models on the CPU), "cuda-graph" (on a CUDA device;
            it runs as "eager" does what cannot be recorded), "eager" (any), or None for the fastest
            that works.

    Raises:
        ConfigError: the backend asked for is unknown or cannot run this model.
    """
    if backend not in (None, *BACKENDS):
        raise ConfigError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}, or None")
    if backend == "eager":
        return EagerDecoder(model, state)
    device = model.embedding.weight.device
    if backend == "cuda-graph" and device.type != "cuda":
        raise ConfigError(
            f'backend "cuda-graph" needs a model on a CUDA device, this one is on {device}; use '
            '"eager"'
        )
    if device.type == "cuda" and backend != "cpu":
        return GraphDecoder(model, state)
    reason = _why_not_compiled(model)
    if reason is None:
        from ssmlab.generation.cpu.decoder import CpuDecoder

        return CpuDecoder(model, state)
    if backend == "cpu":
        raise ConfigError(f'backend "cpu" cannot run this model: {reason}; use "eager"')
    return EagerDecoder(model, state)


def _why_not_compiled(model: LanguageModel) -> str | None:
    try:
        from ssmlab.generation.cpu.decoder import unsupported
    except Exception as error:  # a broken Numba fails in many ways; plain torch still works
        return f"Numba does not work here: {type(error).__name__}: {error}"
    return unsupported(model)
