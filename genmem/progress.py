"""How long-running work tells what it is doing; who listens is the caller's business."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units of `stage`, and what is being worked on."""

    stage: str
    done: float
    total: float
    detail: str = ""


Listener = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Listen to nothing."""
