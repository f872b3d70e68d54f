"""What to run on a host, as a value."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments, never a shell string.

    Arguments hold no secrets: whatever is secret travels on standard input. ``timeout`` of None waits for ever.
    """

    argv: tuple[str, ...]
    timeout: timedelta | None = None

    def __str__(self) -> str:
        return shlex.join(self.argv)
