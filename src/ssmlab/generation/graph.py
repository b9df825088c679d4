"""Decoding on a GPU by replaying a CUDA graph of one step, recorded once for each batch size.

A step is some hundred short kernels, which Python takes longer to launch than the GPU to run. The
graph reads its tokens from, and moves its state on in, buffers that stay where they are.

Shapes: B rows of the buffers, V vocabulary.
"""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmlab.generation.states import select
from ssmlab.models.language_model import LanguageModel, LayerStates
from ssmlab.ops._cuda.recording import record


class StaticStep:
    """One step of a model over buffers that stay where they are, recorded or not.

    Attributes:
        size: B.
        state: after the last step.
        recorded: steps are replayed.
    """

    def __init__(self, model: LanguageModel, state: LayerStates, size: int) -> None:
        self.size = size
        # Buffers made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            device = model.embedding.weight.device
            self._ids = torch.zeros(size, dtype=torch.int64, device=device)
            self.state: LayerStates = pytree.tree_map_only(
                Tensor, lambda t: t.new_empty(t.shape), state
            )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self.load(state)

    @property
    def recorded(self) -> bool:
        return self._graph is not None

    def load(self, state: LayerStates) -> None:
        """Go on from ``state``, of B rows."""
        pairs = zip(pytree.tree_leaves(self.state), pytree.tree_leaves(state), strict=True)
        for old, new in pairs:
            if isinstance(old, Tensor):
                old.copy_(new)

    def run(self, model: LanguageModel, input_ids: Tensor) -> Tensor:
        """input_ids (B,) int64 -> logits (B, V), which the next step may overwrite."""
        self._ids.copy_(input_ids)
        if self._graph is None:
            return model.step_(self._ids, self.state)
        self._graph.replay()
        assert self._logits is not None
        return self._logits

    def record(self, model: LanguageModel) -> None:
        """Record the step; nothing is computed. It must have run before, so that all is compiled.

        Raises:
            RuntimeError: something in it cannot be recorded.
        """
        self._graph, self._logits = record(
            lambda: model.step_(self._ids, self.state), self._ids.device
        )


class GraphDecoder:
    """A batch being decoded: an ordinary step, one over the buffers, from then on a graph of it.

    What was recorded for a batch size is kept with the model and replayed from the first step of the
    next batch of that size on, until the model's weights change. Steps stay ordinary ones where a
    state grows with the text (attention), and unrecorded where recording fails.

    Arguments:
        model: on one device; nothing is recorded unless it is a CUDA device.
        state: of B rows; it is not written to.
    """

    def __init__(self, model: LanguageModel, state: LayerStates) -> None:
        self._model = model
        self._may_record = _on_cuda(model)
        # Were the model moved meanwhile, the graph would read memory that is no longer its own.
        self._weights = [weight.detach() for weight in model.parameters()]
        self._identity: Hashable = None
        self._give_back: Callable[[], object] = lambda: None
        self._start(state)

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed."""
        return self._static is not None and self._static.recorded

    @torch.no_grad()
    def step(self, input_ids: Tensor) -> Tensor:
        """input_ids (B,) int64 -> logits (B, V) of the token after each, in fresh memory."""
        rows = len(input_ids)
        if self.recorded and _changes(self._weights) != self._seen:
            # What a mixer made of its weights once and for all is part of the graph.
            self._start(self.state())
        if self._static is None:
            logits, after = self._model.step(input_ids, self._state)
            if _shapes(after) == _shapes(self._state):
                self._static = StaticStep(self._model, after, rows)
            self._state = after
            return logits
        if self._steps and self._may_record and not self._static.recorded:
            self._record(self._static)
        self._steps += 1
        # Idle rows do as the first one does.
        idle = input_ids[:1].expand(self._static.size - rows)
        return self._static.run(self._model, torch.cat((input_ids, idle)))[:rows].clone()

    def state(self) -> LayerStates:
        """The state after the last step, in fresh memory."""
        state = self._current()
        return pytree.tree_map_only(Tensor, lambda t: t[: self._rows].clone(), state)

    def row_state(self, row: int) -> LayerStates:
        """The state of one row, as a batch of one."""
        return select(self._current(), [row])

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone."""
        if self._static is None or 2 * len(rows) <= self._static.size:
            self._start(select(self._current(), rows))
            return
        # Until half of them are idle the buffers keep their size: recording takes its time too.
        idle = rows[:1] * (self._static.size - len(rows))
        self._static.load(select(self._static.state, rows + idle))
        self._rows = len(rows)

    def _start(self, state: LayerStates) -> None:
        self._give_back()
        self._state, self._steps, self._rows = state, 0, _rows(state)
        self._seen = _changes(self._weights)
        self._static = None
        if self._may_record:
            self._identity = _identity(self._model)
            self._static = _take(self._model, self._identity, self._rows)
        if self._static is not None:
            self._static.load(state)
            self._give_back_later(self._static)

    def _current(self) -> LayerStates:
        return self._state if self._static is None else self._static.state

    def _record(self, static: StaticStep) -> None:
        try:
            static.record(self._model)
        except RuntimeError:
            self._may_record = False
        else:
            self._give_back_later(static)

    def _give_back_later(self, static: StaticStep) -> None:
        # At the latest when this decoder is forgotten: a stream need not be read to its end.
        model = weakref.ref(self._model)
        self._give_back = weakref.finalize(self, _put, model, self._identity, static)


# What was recorded and is not in use, by model: how the model was then, and a step for each size.
_recorded: weakref.WeakKeyDictionary[LanguageModel, tuple[Hashable, dict[int, StaticStep]]] = (
    weakref.WeakKeyDictionary()
)


def _take(model: LanguageModel, identity: Hashable, size: int) -> StaticStep | None:
    known, steps = _recorded.get(model, (None, {}))
    if identity is None or known != identity:
        _recorded.pop(model, None)
        return None
    return steps.pop(size, None)


def _put(model: "weakref.ref[LanguageModel]", identity: Hashable, static: StaticStep) -> None:
    owner = model()
    if owner is None or identity is None:
        return
    known, steps = _recorded.setdefault(owner, (identity, {}))
    if known == identity:
        steps[static.size] = static


def _on_cuda(model: LanguageModel) -> bool:
    return model.embedding.weight.device.type == "cuda"


def _identity(model: LanguageModel) -> Hashable:
    """What a recorded step depends on; None where that cannot be told from outside."""
    modules = list(model.modules())
    for module in modules:
        known = type(module).__module__.startswith(("ssmlab.", "torch.nn."))
        if not known or module._forward_hooks or module._forward_pre_hooks:
            return None
    return (
        tuple((t.data_ptr(), t.dtype) for t in (*model.parameters(), *model.buffers())),
        _changes(list(model.parameters())),
        tuple(module.training for module in modules),
        (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")),
        torch.get_float32_matmul_precision(),
    )


def _changes(weights: list[Tensor]) -> int:
    """How often weights were changed in place."""
    return sum(weight._version for weight in weights if not weight.is_inference())


def _rows(state: LayerStates) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
    return len(tensors[0]) if tensors else 0


def _shapes(state: LayerStates) -> list[Any]:
    return [getattr(leaf, "shape", None) for leaf in pytree.tree_leaves(state)]
