"""What was seen of an instance and its stores, and which sets are gone from one of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from drtool.core.history import KnownSet
from drtool.core.policy import Retention, decide
from drtool.errors import DrtoolError


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """The sets in one store; with a ``problem`` it did not answer, and nothing is known.

    ``going`` are being removed. ``doubts`` say why a manifest is not believed; ``amber`` which sets have findings.
    """

    name: str
    known: tuple[KnownSet, ...] = ()
    going: frozenset[str] = frozenset()
    amber: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()
    problem: DrtoolError | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What a signed receipt says was done. ``took`` is how long its steps took, where that is told."""

    finished_at: datetime
    set_id: str
    took: timedelta | None = None


@dataclass(frozen=True, slots=True)
class NextRun:
    """When the next backup begins. ``none``: there is no timer; ``unknown``: nobody could tell, ``source`` says why."""

    state: Literal["known", "none", "unknown"]
    at: datetime | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class LockSeen:
    """What keeps the newest set from being deleted, and until when. ``unknown``: it could not be asked."""

    kind: Literal["object", "bucket", "none", "unknown"]
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """The public address went to another host: when, and whereto."""

    at: datetime
    to: str


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that was seen of one instance. Receipts are None where there is none that counts.

    ``freeze`` says why nothing may be removed. ``half_restored`` says what restore did not end on this host, and
    ``unfinished`` names those that were run from here. ``unseen`` could not be looked at.
    """

    instance: str
    store: StoreSeen
    copies: tuple[StoreSeen, ...] = ()
    freeze: str | None = None
    digest: Done | None = None
    contents: Done | None = None
    drill: Done | None = None
    restore: Done | None = None
    next_run: NextRun = NextRun("unknown")
    lock: LockSeen = LockSeen("none")
    half_restored: str | None = None
    unfinished: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()
    moved: Moved | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Sets that are gone from a store, though another has them and no rule lets go of them."""

    store: str
    set_ids: tuple[str, ...]
    kept_in: str


def find_lost(stores: Sequence[StoreSeen], retention: Retention, now: datetime) -> Iterator[Lost]:
    """Name what one store lacks of another between its own sets, and in the first store, which no copy is older than,
    before them.

    What prune removed, the same rules let go of here too: so it counts as verified, as it did then, and no pin or lock
    of the other store counts, which held nothing here.
    """
    for place, store in enumerate(stores):
        here = {each.set_id for each in store.known}
        times = [each.taken_at for each in store.known] or [now]
        for other in stores:
            missing = [
                replace(each, state="verified", pin=None, locked_until=None)
                for each in other.known
                if each.set_id not in here and each.state in ("verified", "unverified") and each.taken_at < max(times)
                and (place == 0 or each.taken_at > min(times))
            ]  # fmt: skip
            if other is store or store.problem or other.problem or not missing:
                continue
            decision = decide((*store.known, *missing), retention, now)
            if decision.freeze:  # then nothing is let go of, and what was let go of before cannot be told from the rest
                continue
            if lost := tuple(each.set_id for each in missing if each.set_id in decision.kept):
                yield Lost(store.name, lost, other.name)
