"""Remove one set that somebody named: what a prune keeps on purpose, and nobody wants.

Such sets are dated in the future, damaged, red, or not believed. A good one goes as well, if enough others stay.

By the same way as a prune (``removing``), and only keys that were listed. If the manifest is believed, they are what it
names. If not, nothing that it says counts: then they are what lies in the set's own folder under names that a backup
gives, and the records; whatever else lies there stays, and is told. A signed receipt says who wanted it, when and why,
and is written before anything goes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC

from drtool import __version__
from drtool.catalog import PIN, TOMBSTONE, Catalog
from drtool.clock import Clock
from drtool.core.history import State
from drtool.core.policy import Retention, why_needed
from drtool.errors import Busy, ObjectiveBreached, SetDamaged, SetMissing, SignatureInvalid
from drtool.events import Emit
from drtool.layout import could_be_volume
from drtool.locking import locked_until
from drtool.marks import read_pin
from drtool.phases import phase
from drtool.prune_plan import Folder, Removal, look, removal_of
from drtool.removing import RemovalRefused, check_may_delete, remove
from drtool.signing import Signer, Verifier

_FORMAT = 1


class MustStay(ObjectiveBreached):
    """Without this set something that was promised would be broken: a pin, a lock, the minimum of verified sets."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a discard works with. Without a ``signer`` nobody could trust its receipt, so there is always one."""

    retention: Retention
    verifier: Verifier
    signer: Signer
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]


@dataclass(frozen=True, slots=True)
class DiscardPlan:
    """What would go from one store. ``doubt`` says why the manifest is not believed; ``left`` are keys that stay."""

    store: str
    state: State
    doubt: str
    removal: Removal
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was done in one store. With a ``problem`` the set is still there, or in part and in no list."""

    plan: DiscardPlan
    receipt: str
    removed: bool
    problem: RemovalRefused | MustStay | None = None


def plan_discard(catalog: Catalog, set_id: str, place: Place) -> DiscardPlan | None:
    """Look at every set, and say what of this one would go; None where the store has no such set. Changes nothing.

    One whose removal began counts as there. Raises MustStay, StoreError; FormatTooNew for a set of a newer drtool,
    which may be as good as any.
    """
    folders, known = look(catalog, place.verifier, place.emit, None)
    folder = next((each for each in folders if each.set_id == set_id), None)
    if folder is None or not (folder.is_recorded or TOMBSTONE in folder.objects):
        return None
    if folder.doubt:
        with suppress(SetDamaged, SetMissing, SignatureInvalid):
            catalog.read_manifest(set_id, place.verifier)
    removal = _removal(folder)
    _refuse_pinned(catalog, folder, place.verifier)
    if why := why_needed(set_id, known, place.retention, place.clock.now()):
        told = f"{set_id} must stay in {catalog.store.name}: {why}"
        raise MustStay(told, hint="Take and verify other sets first, then discard it.")
    _refuse_locked(catalog, folder, removal, place)
    goes = {*removal.volumes, *removal.records, catalog.key(set_id, TOMBSTONE)}
    return DiscardPlan(
        store=catalog.store.name,
        state=next((each.state for each in known if each.set_id == set_id), "unknown"),
        doubt=folder.doubt,
        removal=removal,
        left=tuple(info.key for info in folder.objects.values() if info.key not in goes),
    )


def discard(catalog: Catalog, plan: DiscardPlan, place: Place, *, reason: str, by: str) -> Discarded:
    """Remove what the plan names, if it is still so. May be called again after anything, and then finishes.

    Raises Busy if the store has changed since, MustStay, StoreError; a refusal of the store is part of the result.
    """
    set_id = plan.removal.set_id
    if plan_discard(catalog, set_id, place) != plan:
        raise Busy(f"{set_id} in {plan.store} has changed since you were asked", hint="Look again, and say yes again.")
    with phase("discard", f"Discarding {set_id} from {plan.store}", place.clock, place.emit):
        check_may_delete(catalog, plan.removal)
        catalog.fence.check_now()
        receipt = _record(catalog, plan, place, reason, by)
        removal = replace(plan.removal, reasons=(f"discarded by {by}: {reason}",))
        try:
            removed = remove(catalog, removal, place.clock, place.emit)
        except RemovalRefused as problem:
            return Discarded(plan, receipt, False, problem)
    stays = None if removed else MustStay(f"{set_id} was pinned meanwhile in {plan.store}, and stays")
    return Discarded(plan, receipt, removed, stays)


def _removal(folder: Folder) -> Removal:
    if folder.manifest:
        return removal_of(folder, ())
    found = [info for name, info in folder.objects.items() if could_be_volume(name)]
    records = removal_of(folder, ())
    return replace(records, volumes=tuple(info.key for info in found), size=sum(info.size for info in found))


def _refuse_pinned(catalog: Catalog, folder: Folder, verifier: Verifier) -> None:
    if PIN in folder.objects:
        pin = read_pin(catalog, folder.set_id, verifier)
        told = f": {pin.reason} ({pin.by})" if pin else ""
        raise MustStay(
            f"{folder.set_id} is pinned in {catalog.store.name}{told}",
            hint=f"If nobody needs it any more: `drtool unpin {folder.set_id}`.",
        )


def _refuse_locked(catalog: Catalog, folder: Folder, removal: Removal, place: Place) -> None:
    goes = {*removal.volumes, *removal.records}
    until = locked_until(catalog, [info for info in folder.objects.values() if info.key in goes])
    if until and until > place.clock.now():
        raise MustStay(
            f"{folder.set_id} is locked in {catalog.store.name} until {until.astimezone(UTC):%F %R} UTC",
            hint="Nobody can delete it before; then discard it.",
        )


def _record(catalog: Catalog, plan: DiscardPlan, place: Place, reason: str, by: str) -> str:
    now = place.clock.now()
    set_id = plan.removal.set_id
    receipt = {
        "format": _FORMAT,
        "tool": f"drtool {__version__}",
        "purpose": "discard",
        "instance": catalog.instance,
        "set_id": set_id,
        "store": plan.store,
        "state": plan.state,
        "doubt": plan.doubt,
        "by": by,
        "reason": reason,
        "decided_at": now.isoformat(),
        "keys": [*plan.removal.volumes, *plan.removal.records],
    }
    run_id = f"discard-{set_id}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{place.new_token()}"
    return catalog.put_receipt(run_id, json.dumps(receipt, indent=1).encode() + b"\n", place.signer)
