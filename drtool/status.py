"""How does an instance stand? Looks at its stores, its receipts and this host, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from drtool.arrivals import OpenCatalog
from drtool.capabilities import Facts
from drtool.catalog import MANIFEST
from drtool.clock import Clock
from drtool.core.history import KnownSet
from drtool.core.policy import Retention, decide
from drtool.core.situation import LockSeen, NextRun, Situation, StoreSeen, find_lost
from drtool.core.standing import Promises, Standing, find_restorable, judge
from drtool.errors import DrtoolError, HostUnfit, ResumeError
from drtool.events import Emit
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal
from drtool.last_done import Records, newer, read_records, read_restores
from drtool.next_run import look_at_next_run
from drtool.policies import Policy
from drtool.prune_plan import look_at_sets
from drtool.signing import Verifier
from drtool.survey import look_at_version, unfinished_restore


@dataclass(frozen=True)
class Sources:
    """Where to look. Stores are opened late: one that cannot be opened is something to tell, not the end.

    ``facts`` is what can be asked of the first store's bucket. ``witnesses`` names, by the name of a store, those that
    may tell when it could have had a set already.
    """

    instance: str
    store: tuple[str, OpenCatalog]
    copies: Sequence[tuple[str, OpenCatalog]]
    facts: Callable[[], Facts]
    policy: Policy | None
    verifier: Verifier
    runner: Runner
    install: Omnibus
    state: Path
    clock: Clock
    emit: Emit
    witnesses: Callable[[str], Sequence[OpenCatalog]] = lambda _: ()


def status(sources: Sources) -> Standing:
    """Look everywhere, and hold what was seen against what is promised. A store that fails is part of the answer."""
    return judge(look(sources), promises_of(sources.policy), sources.clock.now())


def promises_of(policy: Policy | None) -> Promises:
    """What a policy promises; without one nothing is."""
    if policy is None:
        return Promises()
    return Promises(
        policy.objectives.as_objectives(),
        policy.verification.digest,
        policy.verification.contents,
        policy.copies.stores,
        policy.lock.duration if policy.lock else None,
    )


def look(sources: Sources) -> Situation:
    """Look at the stores, the newest receipts, and what this host knows."""
    retention = sources.policy.retention.as_retention() if sources.policy else Retention()
    stores = [_look_at_store(name, catalog, sources) for name, catalog in (sources.store, *sources.copies)]
    records, store = _read_records(stores, sources)
    now = sources.clock.now()
    frozen = [f"{each.name}: {why}" for each in stores if (why := decide(each.known, retention, now).freeze)]
    restorable = find_restorable(store, now)
    half_restored, unseen = _half_restored(sources)
    return Situation(
        instance=sources.instance,
        store=store,
        copies=tuple(stores[1:]),
        freeze=frozen[0] if frozen else None,
        digest=records.digest,
        contents=records.contents,
        drill=records.drill,
        restore=records.restore,
        next_run=_next_run(sources),
        lock=_look_at_lock(sources, restorable[-1] if restorable else None),
        half_restored=half_restored,
        unseen=unseen,
        unfinished=_unfinished(sources),
        lost=tuple(find_lost(stores, retention, now)),
        moved=records.moved,
    )


def _look_at_store(name: str, open_catalog: OpenCatalog, sources: Sources) -> StoreSeen:
    try:
        others = sources.witnesses(name)
        seen = look_at_sets(open_catalog(), verifier=sources.verifier, emit=sources.emit, others=others)
    except DrtoolError as problem:
        return StoreSeen(name, problem=problem)
    amber = frozenset(set_id for set_id, manifest in seen.manifests.items() if manifest.verdict == "amber")
    return StoreSeen(name, seen.known, seen.going, amber, seen.doubts)


def _read_records(stores: Sequence[StoreSeen], sources: Sources) -> tuple[Records, StoreSeen]:
    """The receipts in the first store; without them it counts as one that does not answer. Restores from any store."""
    nothing, store = Records(None, None, None, None, None), stores[0]
    if store.problem:
        return nothing, store
    try:
        records = read_records(sources.store[1](), sources.verifier, sources.emit)
    except DrtoolError as problem:
        return nothing, StoreSeen(store.name, problem=problem)
    for seen, (_, open_catalog) in zip(stores[1:], sources.copies, strict=True):
        with suppress(DrtoolError):  # whose word then proves no drill
            if seen.problem is None:
                drill, restore = read_restores(open_catalog(), sources.verifier, sources.emit)
                records = replace(records, drill=newer(records.drill, drill), restore=newer(records.restore, restore))
    return records, store


def _next_run(sources: Sources) -> NextRun:
    try:
        return look_at_next_run(sources.runner, sources.install.root, sources.instance, sources.clock.now())
    except DrtoolError as problem:
        return NextRun("unknown", None, str(problem))


def _look_at_lock(sources: Sources, newest: KnownSet | None) -> LockSeen:
    """Until when the newest set's manifest cannot be deleted, which was written last and so is locked longest."""
    try:
        catalog = sources.store[1]()
        kind = catalog.store.capabilities.lock
        if kind == "none" or newest is None:
            return LockSeen(kind)
        facts = sources.facts()
        if kind == "bucket":
            state = facts.worm_state() if facts.worm_state else None
            is_locked = state is not None and state.state == "locked"
            return LockSeen(kind, newest.stored_at + state.retention if state and is_locked else None)
        if facts.locked_until is None:
            return LockSeen("unknown")
        return LockSeen(kind, facts.locked_until(catalog.key(newest.set_id, MANIFEST)))
    except DrtoolError:
        return LockSeen("unknown")


def _half_restored(sources: Sources) -> tuple[str | None, tuple[str, ...]]:
    """What restore did not end on this host, and what could not be seen of that. Without GitLab here there is none."""
    try:
        look_at_version(sources.install, sources.runner)
    except HostUnfit:
        return None, ()  # status may be asked from anywhere
    try:
        marker = unfinished_restore(sources.install, sources.runner)
    except DrtoolError as problem:
        return None, (f"whether a restore did not end on this host: {problem}",)
    return str(marker) if marker else None, ()


def _unfinished(sources: Sources) -> tuple[str, ...]:
    """The restores of this instance that were run from here and did not end; also whose journal cannot be read."""
    found = []
    for path in sorted((sources.state / "runs").glob("restore-*.jsonl")):
        try:
            if _is_open(Journal(path), sources.instance):
                found.append(path.stem)
        except (ResumeError, OSError, ValueError, KeyError, TypeError):
            found.append(path.stem)
    return tuple(found)


def _is_open(journal: Journal, instance: str) -> bool:
    entry = journal.find("plan")
    if entry is None or journal.find("undone"):
        return False
    plan = json.loads(entry["plan"])
    finished = {done["step"] for done in journal.all("finished")}
    return plan["instance"] == instance and not {step["name"] for step in plan["steps"]} <= finished
