"""Remove the sets that retention lets go, and nothing else. In which order a set goes is told in ``removing``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from drtool.arrivals import OpenCatalog
from drtool.catalog import BackupSet, Catalog
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
)
from drtool.events import Emit, Progress
from drtool.locking import Extended, extend_locks
from drtool.marks import Pin, pinned, read_pin, remove_pin, remove_tombstone, write_pin
from drtool.phases import phase
from drtool.prune_plan import PrunePlan, Removal, plan_prune
from drtool.removing import RemovalRefused, check_may_delete, remove
from drtool.signing import Signer, Verifier


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
    others: Sequence[OpenCatalog] = (),
    dry_run: bool = False,
) -> Pruned:
    """Remove what the policy lets go, oldest first. May be called again after anything, and then finishes.

    ``others`` are asked about what was stored late, see ``arrivals``.
    What the store refuses to delete is a problem of the result, and the others still go. Raises StoreError when the
    store fails otherwise, and leaves what a next call finishes.
    """
    plan = plan_prune(
        catalog, retention, verifier=verifier, clock=clock, emit=emit, locked_for=locked_for, others=others
    )
    if dry_run:
        return Pruned(plan, True, (), 0, ())
    removed: list[Removal] = []
    problems: list[DrtoolError] = []
    with phase("prune", f"Pruning {plan.instance} in {plan.store}", clock, emit):
        try:
            problems += _withdraw(catalog, plan.withdrawn)
            if plan.removals:
                check_may_delete(catalog, plan.removals[0])
            guards = [catalog.read_manifest(set_id, verifier) for set_id in plan.decision.guards if plan.removals]
            total = sum(removal.size for removal in plan.removals)
            for removal in plan.removals:
                catalog.fence.check_now()
                _check_guards(catalog, guards)
                try:
                    if remove(catalog, removal, clock, emit):
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
