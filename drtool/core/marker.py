"""The mark that a restore leaves on its target until it is complete, so that nobody takes half of one for a GitLab."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from drtool.errors import HostUnfit

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MARKER: Final = ".drtool-restoring.json"
"""Its name in GitLab's backup directory."""

SAFETY: Final = "drtool-safety-"
"""Begins the id of the backup that GitLab makes of a target before a restore replaces it."""


@dataclass(frozen=True, slots=True)
class Marker:
    """An unfinished restore, as its target tells it.

    ``by`` is the machine that runs it. While ``staging``, nothing of the host was replaced. ``copies`` names the run
    that kept copies of what was there before, ``had_data`` says whether there were projects in it.
    """

    run_id: str
    set_id: str
    started_at: datetime
    by: str
    phase: Literal["staging", "replacing"]
    copies: str
    had_data: bool

    def __str__(self) -> str:
        return f"an unfinished restore ({self.run_id} of {self.set_id}, begun {self.started_at:%F %R} UTC by {self.by})"


def render_marker(marker: Marker) -> str:
    """Write it as one line of JSON, without a secret in it."""
    return _type().dump_json(marker).decode()


def parse_marker(content: bytes) -> Marker:
    """Read what ``render_marker`` wrote. Raises HostUnfit: what cannot be read may be anything."""
    from pydantic import ValidationError

    try:
        return _type().validate_json(content)
    except ValidationError as problem:
        raise HostUnfit(
            f"{MARKER} in GitLab's backup directory cannot be read",
            hint="A restore left it there, or a newer drtool. Look at the host, then move the file away.",
        ) from problem


@cache
def _type() -> TypeAdapter[Marker]:
    from pydantic import TypeAdapter

    return TypeAdapter(Marker)
