"""What happens during a run, as values. A public contract: fields are added, never removed or renamed.

``--json`` prints one object per line: the event's fields and ``"event"``, the class name in snake case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    phase: str
    title: str


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` units so far; ``total`` is None while nobody knows."""

    phase: str
    done: int
    total: int | None
    unit: Literal["bytes", "volumes", "repositories"] = "bytes"


@dataclass(frozen=True, slots=True)
class HostSaid:
    """One line that a command on a host printed. It can hold project names; it is shown with -v, never stored."""

    phase: str
    line: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something a person should know that did not stop the run."""

    code: str
    message: str
    hint: str = ""
    details: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Waiting:
    phase: str
    reason: str


Event = PhaseStarted | PhaseFinished | Progress | HostSaid | Noticed | Waiting
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An Emit for callers that do not listen."""
