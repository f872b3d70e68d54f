"""Object locks: until when what is put into a set is locked, and for which sets that is made longer.

A set is locked for the policy's days from when it was taken. One that retention keeps longer gets as many days again
whenever less than half of them is left; its manifest last, so that it stands for all the others: a run that dies in
between does it over. Locks are only ever made longer. A set that is let go loses its lock by itself, within the days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.catalog import MANIFEST, REJECTED, Catalog
from drtool.clock import Clock
from drtool.core.model import time_of
from drtool.errors import DrtoolError, FormatTooNew, SetDamaged, SetMissing, SignatureInvalid, StoreError
from drtool.signing import Verifier
from drtool.stores import LocksBucket, LocksObjects, ObjectInfo

_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Extended:
    """``locked``: the sets whose lock is longer now. ``problems``: of those for which that did not work."""

    locked: tuple[str, ...] = ()
    problems: tuple[DrtoolError, ...] = ()


def lock_rule(lock_for: timedelta, clock: Clock) -> Callable[[str], datetime | None]:
    """What a Catalog wants to know: until when objects of a set are locked. None for a set that is older than that."""

    def lock(set_id: str) -> datetime | None:
        until = time_of(set_id) + lock_for
        return until if until > clock.now() else None

    return lock


def extend_locks(
    catalog: Catalog, set_ids: Iterable[str], lock_for: timedelta, *, verifier: Verifier, clock: Clock
) -> Extended:
    """Lock every object of these sets for ``lock_for`` from now, where less than half of that is left.

    Does nothing on a store that locks no single objects. What the store refuses of one set is a problem of the result.
    """
    store = catalog.store
    if not isinstance(store, LocksObjects) or store.capabilities.lock != "object":
        return Extended()
    now = clock.now()
    locked: list[str] = []
    problems: list[DrtoolError] = []
    for set_id in set_ids:
        catalog.fence.check()
        try:
            record = _record_of(catalog, set_id)
            until = store.locked_until(catalog.key(set_id, record))
            if until is not None and until - now >= lock_for / 2:
                continue
            volumes = catalog.read_manifest(set_id, verifier).volumes
            for name in (*(volume.name for volume in volumes), f"{record}.sig", record):
                store.extend_lock(catalog.key(set_id, name), now + lock_for)
            locked.append(set_id)
        except (StoreError, SetDamaged, SetMissing, SignatureInvalid, FormatTooNew) as problem:
            text = f"{set_id} is locked for no longer than it was: {problem}"
            problems.append(type(problem)(text, hint=problem.hint))
    return Extended(tuple(locked), tuple(problems))


def locked_until(catalog: Catalog, objects: Sequence[ObjectInfo]) -> datetime | None:
    """Until when the store keeps one of these from being deleted, as it says itself; None where nothing does.

    It matters where a store would take the delete all the same, and only hide a locked version. Raises StoreError.
    """
    store = catalog.store
    if store.capabilities.lock == "object" and isinstance(store, LocksObjects):
        with ThreadPoolExecutor(_ASKED_AT_ONCE, "locks") as threads:
            return max(filter(None, threads.map(store.locked_until, [info.key for info in objects])), default=None)
    if store.capabilities.lock == "bucket" and isinstance(store, LocksBucket):
        state = store.worm_state()
        if state.state == "locked":
            return max((info.modified_at + state.retention for info in objects), default=None)
    return None


def _record_of(catalog: Catalog, set_id: str) -> str:
    return MANIFEST if catalog.is_committed(set_id) else REJECTED
