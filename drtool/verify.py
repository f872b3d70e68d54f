"""Judge a set where it lies: are all its bytes there, and are they the bytes that were stored?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from drtool.catalog import BackupSet
from drtool.core.model import Volume
from drtool.engine import Clock, phase
from drtool.errors import SetDamaged, StoreError
from drtool.events import Emit, Progress

Level = Literal["present", "digest"]

_AT_ONCE = 2
"""Volumes. Each is fetched in several ranges at once, so this is for their digests; 45 MiB of memory for each."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, and what was wrong with it. ``problems`` empty means: nothing of what this level looks at."""

    set_id: str
    level: Level
    signature: Literal["valid", "not checked"]
    volumes: int
    bytes_read: int
    problems: tuple[str, ...]


def verify(backup_set: BackupSet, level: Level, *, signed: bool, clock: Clock, emit: Emit) -> Verdict:
    """Look at every volume, also after a bad one, so that one run tells everything.

    ``present`` compares sizes, ``digest`` reads every stored byte; neither needs an identity. ``signed`` says whether
    the manifest's signature was checked when the set was opened. Raises StoreError when the store fails, because
    then nothing was learned about the set.
    """
    volumes = backup_set.manifest.volumes
    total = len(volumes) if level == "present" else backup_set.manifest.stored_size
    problems: list[str] = []
    read = 0

    def saw(count: int) -> None:
        nonlocal read
        read += count
        emit(Progress("verify", read, total))

    with phase("verify", f"Verifying {backup_set.manifest.set_id}", clock, emit):
        if level == "present":
            for number, problem in enumerate(backup_set.look_at_volumes(), 1):
                problems += [str(problem)] if problem else []
                emit(Progress("verify", number, total, "volumes"))
        else:
            problems += [str(problem) for problem in _judge_stored(backup_set, saw) if problem]
    return Verdict(
        set_id=backup_set.manifest.set_id,
        level=level,
        signature="valid" if signed else "not checked",
        volumes=len(volumes),
        bytes_read=read,
        problems=tuple(problems),
    )


def _judge_stored(backup_set: BackupSet, saw: Callable[[int], None]) -> Iterator[SetDamaged | None]:
    """Say of every volume, in the manifest's order, what is wrong with its bytes. Reads several at once."""
    lock, over = threading.Lock(), threading.Event()

    def saw_from_any_thread(count: int) -> None:
        if over.is_set():
            raise StoreError("nobody waits for the verdict any more")  # and so nobody hears this
        with lock:
            saw(count)

    def judge(volume: Volume) -> SetDamaged | None:
        try:
            backup_set.check_stored(volume, saw_from_any_thread)
        except SetDamaged as problem:
            return problem
        return None

    with ThreadPoolExecutor(_AT_ONCE, "verify") as threads:
        try:
            yield from threads.map(judge, backup_set.manifest.volumes)
        finally:
            over.set()  # after an error, or Ctrl-C: a volume may be gigabytes
