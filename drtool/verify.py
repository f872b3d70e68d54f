"""Judge a set where it lies: is all of it there, are its bytes those that were stored, is it still a good backup?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Literal, assert_never

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.contents import read_contents
from drtool.core.model import Check, Finding, Volume, time_of
from drtool.errors import DrtoolError, ObjectiveBreached, SetDamaged, StoreError
from drtool.events import Emit, Progress
from drtool.phases import phase

Level = Literal["present", "digest", "contents"]

_CLOCKS_APART = timedelta(hours=1)
_AT_ONCE = 2
"""Volumes. Each is fetched in several ranges at once, so this is for their digests; 45 MiB of memory for each."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, and what was wrong with it. ``problems`` empty means: nothing of what this level looks at.

    ``volumes`` of them were looked at, of ``of_volumes``. ``findings`` are warnings that stand in the manifest, and at
    the level ``contents`` those that reading it gave besides.
    """

    set_id: str
    level: Level
    signature: Literal["valid", "not checked"]
    volumes: int
    of_volumes: int
    bytes_read: int
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreVerdict:
    """What a store holds of a set: a verdict, or the error that kept it from one. ``problems`` are of either."""

    store: str
    verdict: Verdict | None
    error: DrtoolError | None
    exit_status: int
    problems: tuple[str, ...]


def verify(
    backup_set: BackupSet,
    level: Level,
    *,
    signed: bool,
    clock: Clock,
    emit: Emit,
    only: Sequence[Volume] | None = None,
) -> Verdict:
    """Look at every volume, also after a bad one, so that one run tells everything.

    ``present`` compares sizes, ``digest`` reads every stored byte, of the volumes in ``only`` if given; neither needs
    an identity. ``contents`` unseals everything and judges it as a backup does, with every secret tried. ``signed``
    says whether the manifest's signature was checked when the set was opened. Raises StoreError when the store fails,
    because then nothing was learned about the set, and at ``contents`` IdentityMismatch.
    """
    manifest = backup_set.manifest
    volumes = only if only is not None and level == "digest" else manifest.volumes
    checks = [Check("verdict", tuple(each.message for each in manifest.findings if each.severity == "red"))]
    findings = [each for each in manifest.findings if each.severity == "amber"]
    totals = {"present": len(volumes), "digest": _stored(volumes), "contents": manifest.plain_size}
    read = 0

    def saw(count: int) -> None:
        nonlocal read
        read += count
        emit(Progress("verify", read, totals[level]))

    with phase("verify", f"Verifying {manifest.set_id}", clock, emit):
        match level:
            case "present":
                for number, (volume, problem) in enumerate(zip(volumes, backup_set.look_at_volumes(), strict=True), 1):
                    checks.append(_check(volume, problem))
                    emit(Progress("verify", number, len(volumes), "volumes"))
            case "digest":
                found = _judge_stored(backup_set, volumes, saw)
                checks += [_check(volume, problem) for volume, problem in zip(volumes, found, strict=True)]
            case "contents":
                contents = read_contents(backup_set, saw)
                checks += contents.checks
                findings = _merged(findings, contents.findings)
            case _:
                assert_never(level)
    return Verdict(
        set_id=manifest.set_id,
        level=level,
        signature="valid" if signed else "not checked",
        volumes=len(volumes),
        of_volumes=len(manifest.volumes),
        bytes_read=read,
        checks=tuple(checks),
        findings=tuple(findings),
        problems=tuple(problem for check in checks for problem in check.problems),
    )


def choose(backup_set: BackupSet, read: Mapping[str, str], share: float) -> tuple[Volume, ...]:
    """Take ``share`` of a set's stored bytes, at least one volume: those that were never read, then the longest unread.

    ``read`` maps names of volumes to the time, as sortable text, when they were last found good.
    """
    waiting = sorted(backup_set.manifest.volumes, key=lambda volume: read.get(volume.name, ""))
    wanted = backup_set.manifest.stored_size * share
    before = accumulate((volume.stored_size for volume in waiting), initial=0)
    return tuple(volume for volume, size in zip(waiting, before, strict=False) if not size or size < wanted)


def judge_age(verdict: Verdict, now: datetime, oldest: timedelta) -> Verdict:
    """Add one more check: was the set taken no longer ago than this? What is intact may still be last year's.

    A set from the future fails too: a clock that was wrong one night would make it the latest, and new, for years.
    """
    age = now - time_of(verdict.set_id)
    late: tuple[str, ...] = ()
    if age > oldest:
        late = (f"taken {age_text(age)} ago, more than {age_text(oldest)}",)
    elif age < -_CLOCKS_APART:
        late = (f"taken {age_text(-age)} in the future: a clock is wrong, and how old it is is not known",)
    return replace(verdict, checks=(*verdict.checks, Check("age", late)), problems=(*verdict.problems, *late))


def worst(found: Iterable[StoreVerdict]) -> int:
    """Damage before all else, then the first store that could not be judged, then a set that is too old, then 0."""
    last = (0, ObjectiveBreached.exit_status)
    bad = [each.exit_status for each in found if each.exit_status]
    if SetDamaged.exit_status in bad:
        return SetDamaged.exit_status
    return next((status for status in bad if status not in last), max(bad, default=0))


def age_text(age: timedelta) -> str:
    """Say it in days or hours, rounded down."""
    hours = age // timedelta(hours=1)
    return f"{hours // 24} days" if hours >= 72 else f"{hours} hours"


def _stored(volumes: Iterable[Volume]) -> int:
    return sum(volume.stored_size for volume in volumes)


def _check(volume: Volume, problem: SetDamaged | None) -> Check:
    return Check(volume.name, (str(problem),) if problem else ())


def _merged(known: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """What the manifest warns of, and what is new: the same thing found again is not said twice."""
    codes = {finding.code for finding in known}
    return [*known, *(each for each in found if each.severity == "amber" and each.code not in codes)]


def _judge_stored(
    backup_set: BackupSet, volumes: Sequence[Volume], saw: Callable[[int], None]
) -> Iterator[SetDamaged | None]:
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
            yield from threads.map(judge, volumes)
        finally:
            over.set()  # after an error, or Ctrl-C: a volume may be gigabytes
