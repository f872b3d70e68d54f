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
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

from drtool.core.model import is_set_id
from drtool.errors import Busy, ConfigError, DrtoolError, ResumeError

Entry = dict[str, Any]


class Journal:
    """One run's journal. Opening it reads what is there; ``append`` adds to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._torn_at: int | None = None
        if path.exists():
            self._read()

    @property
    def run_id(self) -> str:
        return self.path.stem

    def append(self, what: str, **fields: Any) -> None:
        """Write one entry and force it to the disk before returning. Raises DrtoolError, e.g. if there is no room."""
        entry = {"what": what, **fields}
        fresh = not self.path.exists()
        try:
            with self.path.open("ab", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                self._write(file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
                os.fsync(file.fileno())
        except OSError as problem:
            raise DrtoolError(
                f"{self.path}: cannot be written: {problem.strerror}", hint="Make room there, then run this again."
            ) from problem
        if fresh:
            sync_directory(self.path.parent)
        self.entries.append(entry)

    def find(self, what: str) -> Entry | None:
        """The newest entry of this kind."""
        return next((entry for entry in reversed(self.entries) if entry["what"] == what), None)

    def all(self, what: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["what"] == what]

    def _write(self, file: FileIO, line: bytes) -> None:
        if self._torn_at is not None:  # only now: whoever merely reads may be looking at a line half written by another
            os.ftruncate(file.fileno(), self._torn_at)
        self._torn_at = os.fstat(file.fileno()).st_size
        while line:  # a full disk first shows as a write that took less than it was given
            line = line[file.write(line) :]
        self._torn_at = None

    def _read(self) -> None:
        whole, end, torn = self.path.read_bytes().rpartition(b"\n")
        if torn:
            self._torn_at = len(whole) + len(end)
        for number, line in enumerate(whole.split(b"\n") if end else (), 1):
            try:
                self.entries.append(_parse(line))
            except (ValueError, RecursionError) as problem:
                raise ResumeError(
                    f"{self.path}:{number}: not a journal entry",
                    hint="The file was changed from outside. Move it away; the run then starts from the beginning.",
                ) from problem


def _parse(line: bytes) -> Entry:
    entry = json.loads(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("what"), str):
        raise ValueError("not an entry")  # noqa: TRY004 - of the file, not of our caller
    return entry


def journals(state: Path, prefix: str) -> list[Journal]:
    """All journals of runs whose id is ``prefix`` and the time and token of a run, oldest first."""
    return [Journal(path) for path in _paths(state, prefix)]


def forget_old(state: Path, prefix: str, *, keep: int = 50) -> None:
    """Remove the journals of all but the newest ``keep`` runs of a kind, none of which may be unfinished."""
    for path in _paths(state, prefix)[:-keep]:
        path.unlink(missing_ok=True)


def _paths(state: Path, prefix: str) -> list[Path]:
    found = sorted((state / "runs").glob(f"{prefix}*.jsonl"))
    # one instance may be called gitlab and another gitlab-eu: what follows the prefix tells them apart
    return [path for path in found if is_set_id(path.stem.removeprefix(prefix))]


def new_journal(state: Path, run_id: str) -> Journal:
    """A journal for a run. Nothing is written before the first ``append``."""
    runs = state / "runs"
    make_state_directory(runs)
    return Journal(runs / f"{run_id}.jsonl")


@contextmanager
def only_run(state: Path, name: str, *, doing: str) -> Iterator[None]:
    """Hold the lock of an instance. The kernel lets go of it when the process dies, so it is never stale.

    Raises Busy, naming the process that holds it, or ConfigError.
    """
    make_state_directory(state)
    with _open_lock(state / f"{name}.lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            file.seek(0)
            holder = file.read().strip() or "another drtool"
            raise Busy(
                f"{name}: {holder} is still at work", hint="Wait for it to end, then run this again."
            ) from problem
        except OSError as problem:  # network file systems that know no locks
            raise ConfigError(
                f"state_dir: {state} cannot be locked: {problem.strerror}", hint="Use a directory on a local disk."
            ) from problem
        file.truncate(0)
        file.write(f"{doing} (process {os.getpid()})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _open_lock(path: Path) -> TextIO:
    try:
        return path.open("a+")
    except OSError as problem:
        raise ConfigError(
            f"state_dir: {path} cannot be opened: {problem.strerror}",
            hint="Run as the user whose directory it is, mostly root.",
        ) from problem


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
