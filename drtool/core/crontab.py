"""What lines of crontabs and of systemd's units say about backups. Pure: whoever asks brings the lines and the time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from cronsim import CronSim, CronSimError

_GITLABS_OWN: Final = re.compile(r"gitlab:backup:create|gitlab-backup\s+create|gitlab-ctl\s+backup-etc")
_SHORT: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file that is no comment."""

    path: str
    text: str


def parse_lines(output: str) -> tuple[Line, ...]:
    """Read what grep prints: a path, a colon, a line."""
    found = (line.partition(":") for line in output.splitlines())
    return tuple(Line(path, text.strip()) for path, _, text in found if text.strip() and text.strip()[0] not in "#;")


def gitlabs_own(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Those that start a backup of GitLab's own."""
    return tuple(line for line in lines if _GITLABS_OWN.search(line.text))


def next_backup(lines: Sequence[Line], instance: str, now: datetime) -> tuple[datetime, str] | None:
    """When cron starts ``drtool backup`` for the instance next, and by which file. ``now`` in the host's own zone.

    A line that names no instance is for the only one there is.
    """
    times = [(moment, line.path) for line in lines if _is_ours(line, instance) and (moment := _next(line.text, now))]
    return min(times, default=None)


def _is_ours(line: Line, instance: str) -> bool:
    try:
        words = shlex.split(line.text)
    except ValueError:
        return False
    places = [place for place, word in enumerate(words) if word.rpartition("/")[2] == "drtool"]
    if not places or "backup" not in words[places[0] + 1 :]:
        return False
    named = [after for word, after in pairwise(words) if word == "--instance"]
    return named in ([], [instance])


def _next(text: str, now: datetime) -> datetime | None:
    first = text.split(maxsplit=1)[0]
    expression = _SHORT.get(first) or " ".join(text.split()[:5])
    try:
        return next(CronSim(expression, now))
    except (CronSimError, StopIteration):
        return None
