"""What a run has done, so that the same run can be taken up again after any kill.

A journal is a file of JSON lines, only ever appended to, and flushed to the disk line by line: a line that can be
read was written before what follows it was begun. A torn last line is what a kill leaves; it never happened.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from drtool.errors import Busy, ConfigError, ResumeError

Entry = dict[str, Any]


class Journal:
    """One run's journal. Opening it reads what is there; ``append`` adds to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        if path.exists():
            self._read()

    @property
    def run_id(self) -> str:
        return self.path.stem

    def append(self, what: str, **fields: Any) -> None:
        """Write one entry and force it to the disk before returning."""
        entry = {"what": what, **fields}
        fresh = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            os.fsync(file.fileno())
        if fresh:
            sync_directory(self.path.parent)
        self.entries.append(entry)

    def find(self, what: str) -> Entry | None:
        """The newest entry of this kind."""
        return next((entry for entry in reversed(self.entries) if entry["what"] == what), None)

    def all(self, what: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["what"] == what]

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            os.truncate(self.path, len(whole) + bool(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self.entries.append(json.loads(line))
            except ValueError as problem:
                raise ResumeError(
                    f"{self.path}:{number}: not a journal entry",
                    hint="The file was changed from outside. Move it away; the run then starts from the beginning.",
                ) from problem


def journals(state: Path, prefix: str) -> list[Journal]:
    """All journals whose run id begins with ``prefix``, oldest first by name."""
    return [Journal(path) for path in sorted((state / "runs").glob(f"{prefix}*.jsonl"))]


def forget_old(state: Path, prefix: str, *, keep: int = 50) -> None:
    """Remove the journals of all but the newest ``keep`` runs of a kind, none of which may be unfinished."""
    for path in sorted((state / "runs").glob(f"{prefix}*.jsonl"))[:-keep]:
        path.unlink(missing_ok=True)


def new_journal(state: Path, run_id: str) -> Journal:
    """A journal for a run. Nothing is written before the first ``append``."""
    runs = state / "runs"
    make_state_directory(runs)
    return Journal(runs / f"{run_id}.jsonl")


@contextmanager
def only_run(state: Path, name: str, *, doing: str) -> Iterator[None]:
    """Hold the lock of an instance. The kernel lets go of it when the process dies, so it is never stale.

    Raises Busy, naming the process that holds it.
    """
    make_state_directory(state)
    with (state / f"{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            file.seek(0)
            holder = file.read().strip() or "another drtool"
            raise Busy(
                f"{name}: {holder} is still at work", hint="Wait for it to end, then run this again."
            ) from problem
        file.truncate(0)
        file.write(f"{doing} (process {os.getpid()})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def make_state_directory(path: Path) -> None:
    """Make a directory that only its owner can read. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(
            f"state_dir: {path} cannot be made: {problem.strerror}",
            hint="Run as root, or set state_dir in drtool.toml to a directory of yours.",
        ) from problem


def sync_directory(path: Path) -> None:
    with suppress(OSError):  # not every file system lets a directory be synced; the file itself is
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
