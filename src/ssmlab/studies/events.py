"""What a running study tells whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from ssmlab.training.events import Event

StudyEventKind = Literal[
    "prepare",
    "preflight",
    "reuse",
    "start",
    "trial-start",
    "trial-event",
    "trial-done",
    "trial-skipped",
    "warning",
    "done",
]


@dataclass(frozen=True)
class StudyEvent:
    """One moment of a study.

    Attributes:
        kind: what happened. ``reuse`` says what was taken over from other studies;
            ``trial-skipped`` is a trial that was finished before, or that another process holds.
        trial: name of the trial, where it is about one.
        index: the trial's place among all, from 1.
        total: trials in all.
        event: what the trial itself told, for ``trial-event``.
        message: what a person should read, where there is something to say.
    """

    kind: StudyEventKind
    trial: str | None = None
    index: int = 0
    total: int = 0
    event: "Event | None" = None
    message: str | None = None


OnStudyEvent: TypeAlias = Callable[[StudyEvent], None]
