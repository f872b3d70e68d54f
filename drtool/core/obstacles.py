"""What stands in the way of a restore, and how it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drtool.errors import DrtoolError, HostUnfit

Severity = Literal["refuse", "warn"]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing in the way. ``message`` is one line that names the host, ``remedy`` one sentence: what to do."""

    code: str
    message: str
    remedy: str
    error: type[DrtoolError] = HostUnfit
    severity: Severity = "refuse"


def refuse(obstacles: Sequence[Obstacle]) -> None:
    """Raise the first refusal as its own error, saying what else is in the way; return if there is none."""
    refusals = [obstacle for obstacle in obstacles if obstacle.severity == "refuse"]
    if not refusals:
        return
    first, *others = refusals
    more = f" (and {len(others)} more: {', '.join(other.code for other in others)})" if others else ""
    raise first.error(first.message + more, hint=first.remedy)
