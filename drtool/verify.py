"""Judge a set where it lies: are all its bytes there, and are they the bytes that were stored?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drtool.catalog import BackupSet
from drtool.engine import Clock, phase
from drtool.errors import SetDamaged
from drtool.events import Emit, Progress

Level = Literal["present", "digest"]


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
        for number, volume in enumerate(volumes, 1):
            try:
                if level == "present":
                    backup_set.check_present(volume)
                    emit(Progress("verify", number, total, "volumes"))
                else:
                    backup_set.check_stored(volume, saw)
            except SetDamaged as problem:
                problems.append(str(problem))
    return Verdict(
        set_id=backup_set.manifest.set_id,
        level=level,
        signature="valid" if signed else "not checked",
        volumes=len(volumes),
        bytes_read=read,
        problems=tuple(problems),
    )
