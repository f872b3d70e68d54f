"""What is said of a run to services outside: short, and without anything that is nobody else's business.

Messages of errors are made for whoever sits at the host. Out there they lose paths, addresses, names of projects and
whatever looks like a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

Kind = Literal["start", "success", "failure", "breach"]
KINDS: tuple[Kind, ...] = ("start", "success", "failure", "breach")

_LONGEST = 400
_SAID = {"start": "began", "success": "done", "failure": "FAILED", "breach": "a promise is broken"}
# In order: text in quotes with a slash in it (paths may hold blanks), any word with one, and long words with digits.
_PRIVATE = (
    re.compile(r"(['\"`])(?:(?!\1)[^\n])*/(?:(?!\1)[^\n])*\1"),
    re.compile(r"[^\s()\[\]{}<>,;]*/[^\s()\[\]{}<>,;]*"),
    re.compile(r"\S*(?<![A-Za-z0-9])(?=[A-Za-z_+=-]*\d)[A-Za-z0-9_+=-]{24,}\S*"),
    re.compile(r"(?i)\b(?:password|passwd|secret|token|key)[=:]\s*\S+"),
    re.compile(r"[^\s@]+@[^\s@]+"),
)


@dataclass(frozen=True, slots=True)
class Bulletin:
    """How a run stands. ``error`` is the name of its class; ``exit_status`` is None as long as it runs."""

    kind: Kind
    command: str
    instance: str
    host: str
    exit_status: int | None = None
    took: timedelta | None = None
    set_id: str = ""
    error: str = ""
    message: str = ""
    hint: str = ""

    @property
    def title(self) -> str:
        return f"drtool: {self.command} of {self.instance} on {self.host}: {_SAID[self.kind]}"

    @property
    def body(self) -> str:
        """A few lines, each with what it is about."""
        lines = {
            "Instance": self.instance,
            "Host": self.host,
            "Command": self.command,
            "Outcome": self._outcome(),
            "Took": _duration_text(self.took) if self.took is not None else "",
            "Set": self.set_id,
            "Message": discreet(self.message),
            "What to do": discreet(self.hint),
        }
        return "\n".join(f"{name}: {text}" for name, text in lines.items() if text)

    def _outcome(self) -> str:
        if self.exit_status is None:
            return _SAID[self.kind]
        return f"{self.kind}, exit status {self.exit_status}{f', {self.error}' if self.error else ''}"


def discreet(text: str) -> str:
    """The text in one line without paths, addresses and what may be a key, cut to a few lines of a mail."""
    for pattern in _PRIVATE:
        text = pattern.sub("…", text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _duration_text(took: timedelta) -> str:
    minutes, seconds = divmod(round(took.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
