"""How an instance stands: what is promised against what was seen. Pure: whoever asks brings both, and the time.

What was not seen is never well: a store that does not answer, a drill that nobody did, a clock that cannot be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from drtool.core.findings import OpenFinding, find_open
from drtool.core.history import CLOCKS_APART, KnownSet, State, is_early
from drtool.core.policy import Objectives
from drtool.core.situation import Done, LockSeen, NextRun, Situation, StoreSeen
from drtool.errors import ObjectiveBreached

_SIZES: Final = 7


@dataclass(frozen=True, slots=True)
class Promises:
    """What is held against what is. ``digest`` and ``contents``: how often sets are verified so; ``stores`` in all."""

    objectives: Objectives = field(default_factory=Objectives)
    digest: timedelta | None = None
    contents: timedelta | None = None
    stores: int = 1
    locked_for: timedelta | None = None


Name = Literal["rpo", "rto", "drill_age", "digest", "contents", "copies", "lock", "removal"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise, and what was reached of it. Durations are None where there is nothing to measure."""

    name: Name
    verdict: Literal["met", "breached", "unknown", "not promised"]
    promised: timedelta | None = None
    reached: timedelta | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SetSeen:
    set_id: str
    taken_at: datetime
    state: State
    size: int


@dataclass(frozen=True, slots=True)
class CopyStanding:
    """One store besides the first. ``behind`` counts the sets that it lacks at the end; None where nobody knows."""

    store: str
    complete: bool
    behind: int | None
    newest: SetSeen | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an instance stands. ``exit_status`` is 0 only if every promise is known to be kept and no finding is red.

    ``sizes`` are what the newest restorable sets take, oldest first; ``growth`` of 0.1 means a tenth more than usual.
    """

    instance: str
    at: datetime
    store: str
    reachable: bool
    exit_status: int
    objectives: tuple[Objective, ...]
    last_restorable: SetSeen | None
    last_verified: SetSeen | None
    sets: Mapping[State, int]
    copies: tuple[CopyStanding, ...]
    next_run: NextRun
    drill: Done | None
    restore: Done | None
    lock: LockSeen
    sizes: tuple[SetSeen, ...]
    growth: float | None
    findings: tuple[OpenFinding, ...] = field(default=())


def judge(situation: Situation, promises: Promises, now: datetime) -> Standing:
    """Hold what was seen against what is promised."""
    restorable = find_restorable(situation.store, now)
    copies = tuple(_copy(copy, restorable, now) for copy in situation.copies)
    objectives = tuple(_objectives(situation, promises, restorable, copies, now))
    findings = tuple(find_open(situation, restorable, now))
    sizes = tuple(map(_seen, restorable[-_SIZES:]))
    states = [each.state for each in situation.store.known]
    return Standing(
        instance=situation.instance,
        at=now,
        store=situation.store.name,
        reachable=situation.store.problem is None,
        exit_status=_status(objectives, findings),
        objectives=objectives,
        last_restorable=_seen(restorable[-1]) if restorable else None,
        last_verified=next((_seen(each) for each in reversed(restorable) if each.state == "verified"), None),
        sets={state: states.count(state) for state in sorted({*states})},
        copies=copies,
        next_run=situation.next_run,
        drill=situation.drill,
        restore=situation.restore,
        lock=situation.lock,
        sizes=sizes,
        growth=_growth(sizes),
        findings=findings,
    )


def find_restorable(store: StoreSeen, now: datetime) -> list[KnownSet]:
    """The sets that can be restored as far as is known, oldest first: signed, whole, not red, not from the future."""
    by_id = {each.set_id: each for each in store.known}
    found = [each for each in store.known if _is_restorable(each, by_id, store.going, now)]
    return sorted(found, key=lambda each: (each.taken_at, each.set_id))


def _is_restorable(known: KnownSet, by_id: Mapping[str, KnownSet], going: frozenset[str], now: datetime) -> bool:
    seen: set[str] = set()
    link: KnownSet | None = known
    while link and link.set_id not in seen:
        if link.state not in ("verified", "unverified") or link.set_id in going or is_early(link, now):
            return False
        if link.base is None:
            return True
        seen.add(link.set_id)
        link = by_id.get(link.base)
    return False


def _status(objectives: Sequence[Objective], findings: Sequence[OpenFinding]) -> int:
    if any(each.verdict == "breached" for each in objectives):
        return ObjectiveBreached.exit_status
    if red := next((each for each in findings if each.severity == "red"), None):
        return red.exit_status
    # What is promised and cannot be seen is not kept, whatever the reason.
    return ObjectiveBreached.exit_status if any(each.verdict == "unknown" for each in objectives) else 0


def _seen(known: KnownSet) -> SetSeen:
    return SetSeen(known.set_id, known.taken_at, known.state, known.size)


def _growth(sizes: Sequence[SetSeen]) -> float | None:
    before = sorted(each.size for each in sizes[:-1])
    usual = before[len(before) // 2] if before else 0
    return round(sizes[-1].size / usual - 1, 3) if usual else None


# Objectives


def _objectives(
    situation: Situation,
    promises: Promises,
    restorable: Sequence[KnownSet],
    copies: Sequence[CopyStanding],
    now: datetime,
) -> Iterator[Objective]:
    is_known = situation.store.problem is None
    wanted = promises.objectives
    newest = restorable[-1] if restorable else None
    age = max(now - newest.taken_at, timedelta(0)) if newest else None
    yield _within("rpo", wanted.rpo, age, is_known, "" if newest else "no set can be restored")
    took = situation.restore.took if situation.restore else None
    yield _within("rto", wanted.rto, took, is_known, "" if took is not None else "no restore was ever measured")
    drilled = _age(situation.drill, now)
    yield _within("drill_age", wanted.drill_age, drilled, is_known, "" if drilled is not None else "no drill was done")
    yield _digest(situation, promises.digest, restorable, now)
    judged = _age(situation.contents, now)
    yield _within("contents", promises.contents, judged, is_known, "" if judged is not None else "never judged whole")
    yield _copies(promises, copies, is_known=is_known, now=now)
    yield _lock(situation.lock, promises.locked_for, newest, is_known=is_known)
    yield Objective(
        "removal",
        "breached" if situation.freeze else "met" if is_known else "unknown",
        detail=f"frozen: {situation.freeze}" if situation.freeze else "",
    )


def _within(
    name: Name, promised: timedelta | None, reached: timedelta | None, is_known: bool, detail: str = ""
) -> Objective:
    if promised is None:
        return Objective(name, "not promised", None, reached, detail)
    if not is_known:
        return Objective(name, "unknown", promised, None, "the store does not answer")
    kept = reached is not None and reached <= promised
    return Objective(name, "met" if kept else "breached", promised, reached, detail)


def _age(done: Done | None, now: datetime) -> timedelta | None:
    """How long ago; None for never, and for what is dated in the future: a clock was wrong, and it proves no age."""
    if done is None or done.finished_at > now + CLOCKS_APART:
        return None
    return max(now - done.finished_at, timedelta(0))


def _digest(
    situation: Situation, promised: timedelta | None, restorable: Sequence[KnownSet], now: datetime
) -> Objective:
    """Both the last verification and every single set: one that is verified daily does not make up for the others."""
    age = _age(situation.digest, now)
    found = _within(
        "digest", promised, age, situation.store.problem is None, "" if age is not None else "never verified"
    )
    if found.verdict != "met" or promised is None:
        return found
    late = [each for each in restorable if each.state == "unverified" and now - each.taken_at > promised]
    if not late:
        return found
    return Objective("digest", "breached", promised, age, f"{len(late)} older sets were never read whole")


def _copy(copy: StoreSeen, restorable: Sequence[KnownSet], now: datetime) -> CopyStanding:
    if copy.problem:
        return CopyStanding(copy.name, False, None, None)
    there = find_restorable(copy, now)
    ids = {each.set_id for each in there}
    behind = 0
    for each in reversed(restorable):
        if each.set_id in ids:
            break
        behind += 1
    return CopyStanding(copy.name, bool(there) and behind == 0, behind, _seen(there[-1]) if there else None)


def _copies(promises: Promises, copies: Sequence[CopyStanding], *, is_known: bool, now: datetime) -> Objective:
    wanted = max(promises.stores, 1 + len(copies))
    if wanted == 1:
        return Objective("copies", "not promised", detail="one store")
    if not is_known:
        return Objective("copies", "unknown", detail="the store does not answer")
    good = 1 + sum(_keeps_up(copy, promises.objectives.rpo, now) for copy in copies)
    detail = f"{good} of {wanted} stores hold what they must"
    if good < wanted and all(copy.behind is not None for copy in copies):
        return Objective("copies", "breached", detail=detail)
    return Objective("copies", "met" if good >= wanted else "unknown", detail=detail)


def _keeps_up(copy: CopyStanding, rpo: timedelta | None, now: datetime) -> bool:
    """A copy that is behind is good as long as it keeps the RPO by itself: it is made after the set."""
    return copy.complete or bool(copy.newest and rpo and now - copy.newest.taken_at <= rpo)


def _lock(lock: LockSeen, promised: timedelta | None, newest: KnownSet | None, *, is_known: bool) -> Objective:
    reached = lock.until - newest.taken_at if lock.until and newest else None
    if promised is None:
        return Objective("lock", "not promised", None, reached)
    if lock.kind == "unknown" or not is_known:
        return Objective("lock", "unknown", promised, None, "nobody could tell")
    if lock.kind == "none":
        return Objective("lock", "breached", promised, None, "the store locks nothing")
    kept = reached is not None and reached >= promised - CLOCKS_APART
    return Objective("lock", "met" if kept else "breached", promised, reached, "" if reached else "nothing is locked")
