"""Remove the sets that retention lets go, and nothing else.

The order is what makes a crash harmless. First the tombstone: from then on the set is in no list. Then its volumes,
then its manifest, then the manifest's signature, the tombstone last. So whatever is left of a volume is still named by
a signed manifest, and the next prune, which finds the tombstone, goes on where this one stopped. A tombstone alone is
believed by nobody: a set that is whole is decided over again, and if it stays, its tombstone goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from drtool.catalog import MANIFEST, PIN, REJECTED, SIGNATURE, TOMBSTONE, BackupSet, Catalog
from drtool.clock import Clock
from drtool.core.history import KnownSet, State
from drtool.core.model import Manifest, is_set_id, time_of
from drtool.core.policy import Decision, Retention, decide
from drtool.phases import phase
from drtool.errors import (
    DrtoolError,
    FormatTooNew,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
)
from drtool.events import Emit, Noticed, Progress
from drtool.evidence import Proof, weigh
from drtool.marks import Pin, pinned, read_pin, remove_pin, remove_tombstone, write_pin, write_tombstone
from drtool.signing import Verifier
from drtool.stores import ObjectInfo

_RECORDS = (REJECTED, MANIFEST, f"{REJECTED}.sig", SIGNATURE)
"""What commits a set, in the order in which it goes: without its signature a manifest would name nothing any more."""
_CONTROL = (*_RECORDS, TOMBSTONE, PIN)


class RemovalRefused(StoreAccessDenied):
    """The store does not let this set go. It may be locked; the others are not concerned."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes of one set: whole keys, first the volumes that its manifest names, then its own records, in order."""

    set_id: str
    reasons: tuple[str, ...]
    volumes: tuple[str, ...]
    records: tuple[str, ...]
    size: int
    begun: bool


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do, from one look at the store.

    ``withdrawn`` are sets that stay and have a tombstone, which goes. ``unfinished`` folders have no manifest: a backup
    is running, or died; nothing in them is named by anybody, so nothing is touched. Nor are the keys in ``foreign``.
    """

    instance: str
    store: str
    decision: Decision
    removals: tuple[Removal, ...]
    withdrawn: tuple[str, ...]
    unfinished: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done. ``problems``: what the store refused, or what was not safe any more; those sets stay or wait."""

    plan: PrunePlan
    dry_run: bool
    removed: tuple[str, ...]
    freed: int
    problems: tuple[DrtoolError, ...]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A set's folder; ``manifest`` is None where there is none that is ours."""

    set_id: str
    objects: Mapping[str, ObjectInfo]
    manifest: Manifest | None

    @property
    def is_recorded(self) -> bool:
        return MANIFEST in self.objects or REJECTED in self.objects

    @property
    def named(self) -> set[str]:
        return {volume.name for volume in self.manifest.volumes} if self.manifest else set()

    @property
    def is_half_gone(self) -> bool:
        """Tell whether a prune had begun to take its volumes, or has only its records left to take."""
        marked = TOMBSTONE in self.objects and PIN not in self.objects
        return marked and (not self.is_recorded or not self.named <= self.objects.keys())

    @property
    def is_whole(self) -> bool:
        volumes = self.manifest.volumes if self.manifest else ()
        sizes = {name: info.size for name, info in self.objects.items()}
        return all(sizes.get(volume.name) == volume.stored_size for volume in volumes)


def plan_prune(
    catalog: Catalog,
    retention: Retention,
    *,
    verifier: Verifier,
    clock: Clock,
    emit: Emit,
    locked_for: timedelta | None = None,
) -> PrunePlan:
    """Look at every set and decide. Changes nothing.

    ``locked_for``: how long the policy locks what is stored; None where it does not. Raises StoreError.
    """
    folders = [_open(catalog, set_id, objects, verifier) for set_id, objects in _folders(catalog).items()]
    whole = [each for each in folders if each.is_recorded and not each.is_half_gone]
    proofs = weigh(catalog, {each.set_id: each.manifest for each in whole if each.manifest}, verifier, emit)
    known = [_known(catalog, each, proofs.get(each.set_id), locked_for) for each in whole]
    decision = decide(known, retention, clock.now())
    reasons = {choice.set_id: choice.reasons for choice in decision.choices if choice.action == "remove"}
    if not decision.freeze:
        reasons |= {each.set_id: ("its removal had begun",) for each in folders if each.is_half_gone}
    return PrunePlan(
        instance=catalog.instance,
        store=catalog.store.name,
        decision=decision,
        removals=tuple(_removal(each, reasons[each.set_id]) for each in folders if each.set_id in reasons),
        withdrawn=tuple(
            each.set_id for each in whole if TOMBSTONE in each.objects and each.set_id not in reasons and each.manifest
        ),
        unfinished=tuple(each.set_id for each in folders if not each.is_recorded and each.objects.keys() - {*_CONTROL}),
        foreign=tuple(key for each in folders if each.manifest for key in _foreign(each)),
    )


def prune(
    catalog: Catalog,
    retention: Retention,
    *,
    verifier: Verifier,
    clock: Clock,
    emit: Emit,
    locked_for: timedelta | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove what the policy lets go, oldest first. May be called again after anything, and then finishes.

    What the store refuses to delete is a problem of the result, and the others still go. Raises StoreError when the
    store fails otherwise, and leaves what a next call finishes.
    """
    plan = plan_prune(catalog, retention, verifier=verifier, clock=clock, emit=emit, locked_for=locked_for)
    if dry_run:
        return Pruned(plan, True, (), 0, ())
    removed: list[Removal] = []
    problems: list[DrtoolError] = []
    with phase("prune", f"Pruning {plan.instance} in {plan.store}", clock, emit):
        try:
            for set_id in plan.withdrawn:
                remove_tombstone(catalog, set_id)
            if plan.removals:
                _check_may_delete(catalog, plan.removals[0])
            guards = [catalog.read_manifest(set_id, verifier) for set_id in plan.decision.guards if plan.removals]
            total = sum(removal.size for removal in plan.removals)
            for removal in plan.removals:
                _check_guards(catalog, guards)
                try:
                    if _remove(catalog, removal, clock, emit):
                        removed.append(removal)
                except RemovalRefused as problem:
                    problems.append(problem)
                emit(Progress("prune", sum(each.size for each in removed), total))
        except (StoreAccessDenied, SetDamaged, SetMissing, SignatureInvalid) as problem:
            problems.append(problem)  # of no single set: nothing more is removed
    freed = sum(removal.size for removal in removed)
    return Pruned(plan, False, tuple(removal.set_id for removal in removed), freed, tuple(problems))


def pin(catalog: Catalog, set_id: str, *, reason: str, by: str, clock: Clock, baseline: bool = False) -> Pin:
    """Keep a set for ever, until ``unpin``. ``set_id`` is whole. Raises SetMissing, StoreError."""
    made = Pin(set_id, reason, by, clock.now(), baseline)
    write_pin(catalog, made)
    return made


def unpin(catalog: Catalog, set_id: str) -> Pin | None:
    """Let retention decide over a set again; return the pin that it had. Raises StoreError."""
    return remove_pin(catalog, set_id)


def list_pins(catalog: Catalog) -> list[Pin]:
    """Every pin, the oldest set's first."""
    return pinned(catalog)


# -- looking ---------------------------------------------------------------------------------------------------------


def _folders(catalog: Catalog) -> dict[str, dict[str, ObjectInfo]]:
    found: dict[str, dict[str, ObjectInfo]] = {}
    for set_id, name, info in catalog.objects():
        if is_set_id(set_id):
            found.setdefault(set_id, {})[name] = info
    return found


def _open(catalog: Catalog, set_id: str, objects: Mapping[str, ObjectInfo], verifier: Verifier) -> _Folder:
    if MANIFEST in objects or REJECTED in objects:
        with suppress(SetDamaged, SetMissing, SignatureInvalid, FormatTooNew):
            manifest = catalog.read_manifest(set_id, verifier)
            if not {volume.name for volume in manifest.volumes} & {*_CONTROL}:
                return _Folder(set_id, objects, manifest)
    return _Folder(set_id, objects, None)


def _known(catalog: Catalog, folder: _Folder, proof: Proof | None, locked_for: timedelta | None) -> KnownSet:
    manifest = folder.manifest
    stored_at = folder.objects[MANIFEST if MANIFEST in folder.objects else REJECTED].modified_at
    found = read_pin(catalog, folder.set_id) if PIN in folder.objects else None
    text = f"{found.reason} ({found.by})" if found else "" if PIN in folder.objects else None
    return KnownSet(
        set_id=folder.set_id,
        taken_at=time_of(folder.set_id),
        stored_at=stored_at,
        state=_state(folder, proof),
        size=sum(info.size for info in folder.objects.values()),
        contents=manifest.contents if manifest else (),
        pin=text,
        baseline=bool(found and found.baseline),
        locked_until=stored_at + locked_for if locked_for else None,
    )


def _state(folder: _Folder, proof: Proof | None) -> State:
    if folder.manifest is None or proof is None:
        return "unknown"
    if folder.manifest.verdict == "red":
        return "red"
    return proof if folder.is_whole else "damaged"


def _removal(folder: _Folder, reasons: tuple[str, ...]) -> Removal:
    """Only what is listed, and only if the manifest names it or it is the set's own record."""
    gone = [info for name, info in folder.objects.items() if name in folder.named]
    return Removal(
        set_id=folder.set_id,
        reasons=reasons,
        volumes=tuple(info.key for info in gone),
        records=tuple(folder.objects[name].key for name in _RECORDS if name in folder.objects),
        size=sum(info.size for info in gone),
        begun=folder.is_half_gone,
    )


def _foreign(folder: _Folder) -> Iterator[str]:
    for name, info in folder.objects.items():
        if name not in folder.named and name not in _CONTROL:
            yield info.key


# -- removing --------------------------------------------------------------------------------------------------------


def _check_may_delete(catalog: Catalog, first: Removal) -> None:
    """Raise StoreAccessDenied if nothing may be deleted: before any tombstone, which could then not be taken back.

    A key that is not there shows it: deleting one is no error, but needs the right.
    """
    catalog.store.delete([catalog.key(first.set_id, f"{TOMBSTONE}.tried")])


def _check_guards(catalog: Catalog, guards: Sequence[Manifest]) -> None:
    """Raise SetDamaged or SetMissing unless the sets that the decision relies on are still there, the newest whole."""
    for number, guard in enumerate(guards):
        if not catalog.is_committed(guard.set_id) or catalog.is_being_removed(guard.set_id):
            raise SetMissing(
                f"{guard.set_id} is gone, which was to stay: nothing more is removed", hint="Prune again, and look why."
            )
        if number == 0 and (lost := next(filter(None, BackupSet(catalog, guard).look_at_volumes()), None)):
            raise SetDamaged(
                f"{guard.set_id} is the newest verified set, and not whole any more: nothing more is removed: {lost}",
                hint="Verify it, and find out who changed it.",
            )


def _remove(catalog: Catalog, removal: Removal, clock: Clock, emit: Emit) -> bool:
    """Take one set away, unless it was pinned meanwhile. Raises RemovalRefused."""
    if not removal.begun:
        write_tombstone(catalog, removal.set_id, clock.now(), "; ".join(removal.reasons))
    if read_pin(catalog, removal.set_id):  # looked for after the tombstone is there: a pin looks for that afterwards
        remove_tombstone(catalog, removal.set_id)
        emit(Noticed("pinned-meanwhile", f"{removal.set_id} was pinned while this prune ran, and stays"))
        return False
    try:
        if removal.volumes:
            catalog.store.delete(removal.volumes)
        for key in removal.records:
            catalog.store.delete([key])
    except StoreAccessDenied as refused:
        raise _refusal(catalog, removal, refused) from refused
    try:
        remove_tombstone(catalog, removal.set_id)
    except StoreAccessDenied:  # a bucket that locks whatever is put into it: nothing is wrong, it only takes its time
        emit(Noticed("tombstone-stays", f"{removal.set_id} is removed, its tombstone is still locked"))
        return bool(removal.volumes or removal.records)
    return True


def _refusal(catalog: Catalog, removal: Removal, refused: StoreAccessDenied) -> RemovalRefused:
    """Take the tombstone back if the set is still whole, so that it is listed; else a next prune goes on."""
    left = {info.key for info in catalog.store.list(catalog.key(removal.set_id, ""))}
    hint = refused.hint or "It may be locked; a later prune tries again."
    if removal.begun or not {*removal.volumes, *removal.records} <= left:
        return RemovalRefused(f"{removal.set_id} is removed only in part: {refused}", hint=hint)
    with suppress(StoreError):
        remove_tombstone(catalog, removal.set_id)
    return RemovalRefused(f"{removal.set_id} stays: {refused}", hint=hint)
