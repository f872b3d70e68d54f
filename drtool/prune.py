"""Remove the sets that retention lets go, and nothing else.

The order is what makes a crash harmless. First the tombstone: from then on the set is in no list. Then its volumes,
then its manifest, then the manifest's signature, the tombstone last. So whatever is left of a volume is still named by
a signed manifest, and the next prune, which finds the tombstone, goes on where this one stopped. A tombstone alone is
believed by nobody: a set that is whole is decided over again, and if it stays, its tombstone goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from drtool.catalog import TOMBSTONE, BackupSet, Catalog
from drtool.clock import Clock
from drtool.core.model import Manifest
from drtool.core.policy import Retention
from drtool.errors import (
    ConfigError,
    DrtoolError,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
)
from drtool.events import Emit, Noticed, Progress
from drtool.locking import Extended, extend_locks
from drtool.marks import Pin, pinned, read_pin, remove_pin, remove_tombstone, write_pin, write_tombstone
from drtool.phases import phase
from drtool.prune_plan import PrunePlan, Removal, plan_prune
from drtool.signing import Signer, Verifier


class RemovalRefused(StoreAccessDenied):
    """The store does not let this set go. It may be locked; the others are not concerned."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done. ``problems``: what the store refused, or what was not safe any more; those sets stay or wait.

    ``locked``: sets that stay, and whose lock was made longer.
    """

    plan: PrunePlan
    dry_run: bool
    removed: tuple[str, ...]
    freed: int
    problems: tuple[DrtoolError, ...]
    locked: tuple[str, ...] = ()


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
            problems += _withdraw(catalog, plan.withdrawn)
            if plan.removals:
                _check_may_delete(catalog, plan.removals[0])
            guards = [catalog.read_manifest(set_id, verifier) for set_id in plan.decision.guards if plan.removals]
            total = sum(removal.size for removal in plan.removals)
            for removal in plan.removals:
                catalog.fence.check_now()
                _check_guards(catalog, guards)
                try:
                    if _remove(catalog, removal, clock, emit):
                        removed.append(removal)
                except RemovalRefused as problem:
                    problems.append(problem)
                emit(Progress("prune", sum(each.size for each in removed), total))
        except (StoreAccessDenied, SetDamaged, SetMissing, SignatureInvalid) as problem:
            problems.append(problem)  # of no single set: nothing more is removed
    extended = Extended()
    if locked_for:  # also where something is wrong with the sets, and then above all
        kept = [choice.set_id for choice in plan.decision.choices if choice.action == "keep"]
        extended = extend_locks(catalog, kept, locked_for, verifier=verifier, clock=clock)
    freed = sum(removal.size for removal in removed)
    gone = tuple(removal.set_id for removal in removed)
    return Pruned(plan, False, gone, freed, (*problems, *extended.problems), extended.locked)


def pin(
    catalog: Catalog,
    set_id: str,
    *,
    reason: str,
    by: str,
    clock: Clock,
    signer: Signer | None = None,
    baseline: bool = False,
) -> Pin:
    """Keep a set for ever, until ``unpin``. ``set_id`` is whole. Raises SetMissing, StoreError.

    ConfigError for a ``baseline`` without a key to sign with: it would count for nothing.
    """
    if baseline and signer is None:
        raise ConfigError(
            "--baseline needs signing_key: who can only write to the store must not thaw a prune",
            hint="Pin it on a host that signs, or let `drtool init` make a key and put its public half into "
            "trusted_signers.",
        )
    made = Pin(set_id, reason, by, clock.now(), baseline)
    write_pin(catalog, made, signer)
    return made


def unpin(catalog: Catalog, set_id: str, verifier: Verifier) -> Pin | None:
    """Let retention decide over a set again; return the pin that it had. Raises StoreError."""
    was = read_pin(catalog, set_id, verifier)
    remove_pin(catalog, set_id)
    return was


def list_pins(catalog: Catalog, verifier: Verifier) -> list[Pin]:
    """Every pin, the oldest set's first."""
    return pinned(catalog, verifier)


def _withdraw(catalog: Catalog, set_ids: Sequence[str]) -> list[RemovalRefused]:
    """Take the tombstones of these sets away; return what the store refused: such a set is in no list."""
    refused = []
    for set_id in set_ids:
        try:
            remove_tombstone(catalog, set_id)
        except StoreAccessDenied as problem:
            text = f"{set_id} stays, and is in no list because of a tombstone: {problem}"
            refused.append(RemovalRefused(text, hint=problem.hint))
    return refused


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
    if catalog.is_pinned(removal.set_id):  # looked for after the tombstone is there: a pin looks for that afterwards
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
