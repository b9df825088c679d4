"""What a running trial tells whoever watches: small values, safe to keep, print or send on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

EventKind = Literal["train", "val", "checkpoint", "resume", "warning", "done"]


@dataclass(frozen=True)
class Event:
    """One moment of a trial.

    Attributes:
        kind: what happened. ``train`` comes with every logged step, ``val`` with every evaluation.
        step: optimiser steps done.
        total_steps: optimiser steps in all.
        loss: nats per token, where the kind has one.
        tokens_per_second: speed of training since the last event of this kind.
        message: what a person should read, where there is something to say.
    """

    kind: EventKind
    step: int
    total_steps: int
    loss: float | None = None
    tokens_per_second: float | None = None
    message: str | None = None


OnEvent: TypeAlias = Callable[[Event], None]
