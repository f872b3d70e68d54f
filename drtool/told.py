"""What was told last, and to whom: a memory for whoever asks later, one entry for each command of each instance."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drtool.core.bulletin import Bulletin
from drtool.errors import DrtoolError
from drtool.files import replace_file
from drtool.journal import make_state_directory
from drtool.notifying import Delivered


def record(state: Path, bulletin: Bulletin, told: list[Delivered]) -> None:
    """Remember the newest end of each command of each instance, and who was told of it. Raises DrtoolError."""
    make_state_directory(state)
    with _only_writer(state):
        known = read_record(state)
        known.setdefault(bulletin.instance, {})[bulletin.command] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "outcome": bulletin.kind,
            "exit_status": bulletin.exit_status,
            "error": bulletin.error,
            "set_id": bulletin.set_id,
            "invocation": os.environ.get("INVOCATION_ID", ""),
            "told": [{"service": one.service, "kind": one.kind, "failed": one.reason} for one in told],
        }
        replace_file(record_path(state), json.dumps(known, indent=1).encode() + b"\n")


@contextmanager
def _only_writer(state: Path) -> Iterator[None]:
    """Wait for the others, who hold this for the moment of a write. A kill lets go of it."""
    try:
        lock = (state / ".notified.lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as problem:
        raise DrtoolError(
            f"{state}: cannot be written: {problem.strerror}",
            hint="Run as the user whose directory it is, mostly root.",
        ) from problem
    with lock:
        yield


def record_path(state: Path) -> Path:
    return state / "notified.json"


def read_record(state: Path) -> dict[str, dict[str, Any]]:
    """By instance and command. Empty where there is none, or none that can be read: it is only a memory."""
    try:
        found = json.loads(record_path(state).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()) else {}
