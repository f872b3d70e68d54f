"""What a store can do and what its credentials may do, against what its settings declare: one row for each."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from drtool.clock import Clock
from drtool.errors import DrtoolError, ObjectExists, StoreAccessDenied, StoreError
from drtool.events import Emit
from drtool.stores import LeavesUploads, Store
from drtool.stores.conformance import NotApplicable, forward_only, noise
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.oss_answers import WormState
from drtool.stores.scratch import ScratchStore

Verdict = Literal["ok", "note", "bad", "unknown"]

UNRELIABLE = "drtool relies on this: keep no backups there before it is put right."
_LOCKED_FOR = timedelta(minutes=5)
_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the settings say of a bucket, and what can be asked of its service besides what every store answers.

    ``versioned``: whether versioning was ever turned on, where that must be told; ``keeps_versions``: that it is on.
    ``declared``: how the settings want objects to be kept; ``kept_as`` says how one is.
    """

    versioned: bool | None = None
    keeps_versions: bool = False
    worm: bool = False
    checksums: str = "none"
    versioning: Callable[[], Literal["never", "enabled", "suspended"]] | None = None
    worm_state: Callable[[], WormState] | None = None
    lock_enabled: Callable[[], bool] | None = None
    locked_until: Callable[[str], datetime | None] | None = None
    checksum_kept: Callable[[str], str | None] | None = None
    declared: Mapping[str, str] = field(default_factory=dict)
    kept_as: Callable[[str], Mapping[str, str]] | None = None
    lifecycle: Callable[[], LifecycleEffects] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried, and as what.

    ``several_parts``: how many bytes make the store send three parts; 0 if it knows none. ``bolder``: the same store,
    made to use a conditional put that the settings do not declare.
    """

    store: Store
    instance: str
    clock: Clock
    emit: Emit
    facts: Facts = field(default_factory=Facts)
    several_parts: int = 0
    bolder: Store | None = None
    ca_bundle: Path | None = None

    @property
    def two_parts(self) -> int:
        """How many bytes make the store send two parts; 0 if it knows none."""
        return self.several_parts - self.several_parts // 2


@dataclass(frozen=True, slots=True)
class Capability:
    """One row: what the settings declare ("" if they cannot), what was seen, and what follows."""

    name: str
    declared: str
    seen: str
    verdict: Verdict = "ok"
    hint: str = ""
    error: DrtoolError | None = None


# What these credentials may do


def rights(trial: Trial, scratch: ScratchStore) -> Iterator[Capability]:
    """Find out what these credentials may do, and tell ``scratch``. Nothing more is asked if they may not put."""
    key = f"{scratch.prefix}/probe"
    before = trial.clock.now()
    put = _ask("put", lambda: _put(scratch, key))
    yield put
    if put.error:
        return
    yield _ask("read", lambda: _read(scratch, key))
    yield _ask("clock", lambda: _clock(trial, scratch, key, before))
    yield _ask("list", lambda: _list(scratch, key))
    delete = _ask("delete", lambda: _delete(scratch))
    yield delete
    yield _ask("replace", lambda: _replace(trial, scratch, key, noted=delete.verdict == "note"))


def _ask(name: str, question: Callable[[], Capability]) -> Capability:
    try:
        return question()
    except StoreError as error:
        return Capability(name, "", "failed", "bad", error=error)


def _put(scratch: ScratchStore, key: str) -> Capability:
    _ = scratch.capabilities  # a bucket that declares worm is asked for it here, and may refuse to say
    scratch.put(key, io.BytesIO(b"drtool check\n"))
    return Capability("put", "", "allowed")


def _read(scratch: ScratchStore, key: str) -> Capability:
    with scratch.open(key) as body:
        if body.read() != b"drtool check\n":
            raise StoreError(f"{scratch.name}{key}: other bytes came back than were put", hint=UNRELIABLE)
    return Capability("read", "", "allowed")


def _clock(trial: Trial, scratch: ScratchStore, key: str, before: datetime) -> Capability:
    """Compare our clock with the time that the store gave to an object, which has whole seconds mostly."""
    stored = scratch.stat(key).modified_at
    after = trial.clock.now()
    skew = max(before - timedelta(seconds=1) - stored, stored - after, timedelta(0))
    if skew <= _SKEW:
        return Capability("clock", "", "as here, within a minute")
    direction = "behind" if stored < before else "ahead of"
    seen = f"the store is {round(skew.total_seconds())} s {direction} this host"
    return Capability(
        "clock", "", seen, "note", "Set this host's clock: at 15 minutes most services refuse every request."
    )


def _list(scratch: ScratchStore, key: str) -> Capability:
    try:
        found = [info.key for info in scratch.list(f"{scratch.prefix}/")]
    except StoreAccessDenied as error:
        scratch.may_list = False
        hint = "drtool finds its sets by listing: allow that below the store's prefix."
        return Capability("list", "", "not allowed", "bad", error=type(error)(str(error), hint=hint))
    if key not in found:
        raise StoreError(f"{scratch.name}: an object that was just put is not listed", hint=UNRELIABLE)
    return Capability("list", "", "allowed")


def _delete(scratch: ScratchStore) -> Capability:
    key = f"{scratch.prefix}/to-delete"
    scratch.put(key, io.BytesIO(b""))
    try:
        scratch.delete([key])
    except StoreAccessDenied:
        scratch.may_delete = False
        return Capability("delete", "", "not allowed")
    hint = "Backups are safer when this host's keys may not delete, or when the bucket locks its objects."
    return Capability("delete", "", "allowed: this host could delete backups", "note", hint)


def _replace(trial: Trial, scratch: ScratchStore, key: str, *, noted: bool) -> Capability:
    try:
        scratch.put(key, io.BytesIO(b"drtool check, again\n"))
    except (StoreAccessDenied, ObjectExists, NotApplicable):
        scratch.may_replace = False
        return Capability("replace", "", "not allowed")
    if noted or _kept_versions(trial):
        return Capability("replace", "", "allowed")
    hint = "Turn on versioning: without it, replacing is deleting."
    return Capability("replace", "", "allowed: this host could overwrite backups", "note", hint)


def _kept_versions(trial: Trial) -> bool:
    try:
        return trial.facts.versioning is not None and trial.facts.versioning() == "enabled"
    except StoreError:
        return False  # who may not ask does not know


# What the settings declare


def settings(trial: Trial, scratch: ScratchStore) -> Iterator[Capability]:
    """Compare what the settings declare with what is there."""
    yield _ask("checksums", lambda: _checksums(trial, scratch))
    if not trial.store.capabilities.conditional_put:
        yield _ask("conditional put", lambda: _undeclared_condition(trial, scratch))
    for name, value in trial.facts.declared.items():
        yield _ask(name, functools.partial(_kept, trial, scratch, name, value))
    yield _ask("lock", lambda: _lock(trial, scratch))
    yield _ask("versioning", lambda: _versioning(trial))
    if trial.facts.lifecycle:
        yield _ask("lifecycle", functools.partial(_lifecycle, trial.facts.lifecycle))
    if isinstance(trial.store, LeavesUploads):
        yield _ask("unfinished uploads", functools.partial(_unfinished, trial.store, scratch))


def _checksums(trial: Trial, scratch: ScratchStore) -> Capability:
    facts = trial.facts
    kept = facts.checksum_kept(f"{scratch.prefix}/probe") if facts.checksum_kept else None
    if kept:
        return Capability("checksums", facts.checksums, f"the server keeps {kept}")
    return Capability("checksums", facts.checksums, "accepted; drtool compares its own digests in any case")


def _kept(trial: Trial, scratch: ScratchStore, name: str, declared: str) -> Capability:
    assert trial.facts.kept_as is not None
    kept = trial.facts.kept_as(f"{scratch.prefix}/probe").get(name, "none")
    if kept == declared or (name == "kms_key_id" and _is_that_key(declared, kept)):
        return Capability(name, declared, f"an object is kept so: {kept}")
    hint = f"Set {name} to what the store has, or leave it out."
    problem = StoreError(f"{name} = {declared}, but an object that was put so is kept as {kept}", hint=hint)
    return Capability(name, declared, kept, "bad", hint, problem)


def _is_that_key(declared: str, kept: str) -> bool:
    """Compare a key with the ARN by which S3 names it. What an alias stands for is not ours to know."""
    return kept.endswith(f"/{declared}") or ("alias/" in declared and kept != "none")


def _undeclared_condition(trial: Trial, scratch: ScratchStore) -> Capability:
    if trial.bolder is None:
        return Capability("conditional put", "no", "not tried", "unknown")
    bold, key = ScratchStore(trial.bolder, scratch.prefix), f"{scratch.prefix}/condition"
    seen = _condition(bold, scratch, f"{key}-1", 4)
    if seen != "kept":
        return Capability("conditional put", "no", seen)
    if trial.several_parts and _condition(bold, scratch, f"{key}-2", trial.several_parts) != "kept":
        return Capability("conditional put", "no", "only for objects in one piece")
    hint = "Set conditional_put = true, if the store's kind has it."
    return Capability("conditional put", "no", "there, and not declared", "note", hint)


def _condition(bold: Store, scratch: ScratchStore, key: str, size: int) -> Literal["kept", "ignored", "refused"]:
    def overtaken() -> Iterator[bytes]:
        yield from noise(size)
        scratch.put(key, io.BytesIO(b"fast"))

    try:
        bold.put(key, forward_only(overtaken()), only_if_absent=True)
    except ObjectExists:
        return "kept"
    except StoreError:
        return "refused"
    return "ignored"


def _lock(trial: Trial, scratch: ScratchStore) -> Capability:
    facts = trial.facts
    if facts.worm_state:
        try:
            return _bucket_lock(facts.worm, facts.worm_state())
        except StoreAccessDenied:
            return Capability("lock", "worm = false", "may not be asked", "unknown")
    if trial.store.capabilities.lock == "object":
        return _object_lock(trial, scratch)
    try:
        enabled = facts.lock_enabled is not None and facts.lock_enabled()
    except StoreAccessDenied:
        return Capability("lock", "no", "may not be asked", "unknown")
    if enabled:
        return Capability(
            "lock", "no", "there, and not declared", "note", "Set object_lock, so that a policy can use it."
        )
    return Capability("lock", "no", "none")


def _bucket_lock(declared: bool, worm: WormState) -> Capability:
    said = "worm = true" if declared else "worm = false"
    match worm.state:
        case "locked":
            seen = f"locked, for {worm.retention.days} days"
            hint = "" if declared else "Set worm = true, so that a policy can rely on it."
            return Capability("lock", said, seen, "ok" if declared else "note", hint)
        case "in progress":
            lapses = f" at {worm.lapses_at:%Y-%m-%d %H:%M} UTC" if worm.lapses_at else ""
            seen = f"in progress, not locked: it lapses 24 hours after it was begun{lapses}"
        case _:
            seen = "none"
    hint = "Lock the bucket's retention policy, or set worm = false."
    if declared:
        return Capability("lock", said, seen, "bad", hint, StoreError(f"{said}, but the policy is {seen}", hint=hint))
    return Capability("lock", said, seen, "note" if worm.state == "in progress" else "ok")


def _object_lock(trial: Trial, scratch: ScratchStore) -> Capability:
    key, until = f"{scratch.prefix}/locked", trial.clock.now() + _LOCKED_FOR
    hint = "Use a bucket that was made with object lock, or leave object_lock out."
    try:
        scratch.put(key, forward_only(noise(trial.two_parts)), lock_until=until)  # volumes come in parts too
        kept = trial.facts.locked_until(key) if trial.facts.locked_until else until
    except StoreError as error:
        return Capability("lock", "object", "refused", "bad", hint, type(error)(str(error), hint=hint))
    if kept is None or kept < until - timedelta(seconds=1):
        missing = StoreError(f"{trial.store.name}{key}: the lock was accepted, and is not there", hint=hint)
        return Capability("lock", "object", "accepted, and not there", "bad", hint, missing)
    return Capability("lock", "object", "an object was locked")


def _versioning(trial: Trial) -> Capability:
    said = True if trial.facts.keeps_versions else trial.facts.versioned
    declared = {None: "", True: "versioned = true", False: "versioned = false"}[said]
    if trial.facts.versioning is None:
        return Capability("versioning", declared, "none")
    try:
        seen = trial.facts.versioning()
    except StoreAccessDenied:
        return Capability("versioning", declared, "may not be asked", "unknown")
    if trial.facts.keeps_versions and seen != "enabled":
        hint = "Turn on versioning of the bucket, or leave versioned out."
        off = StoreError(f"versioned = true, but the bucket says {seen}: what is deleted there is gone", hint=hint)
        return Capability("versioning", declared, seen, "bad", hint, off)
    if trial.facts.versioned is None or trial.facts.versioned == (seen != "never"):
        if seen != "enabled":
            return Capability("versioning", declared, seen)
        hint = "Old versions of the scratch objects stay until a rule of the bucket removes them."
        return Capability("versioning", declared, seen, "note", hint)
    wrong = "such a bucket ignores that an object must not be replaced" if seen != "never" else "nothing keeps versions"
    hint = f"Set versioned = {str(seen != 'never').lower()}, or change the bucket."
    mismatch = StoreError(f"{declared}, but the bucket says {seen}: {wrong}", hint=hint)
    return Capability("versioning", declared, seen, "bad", hint, mismatch)


def _lifecycle(ask: Callable[[], LifecycleEffects]) -> Capability:
    try:
        effects = ask()
    except StoreAccessDenied:
        return Capability("lifecycle", "", "may not be asked", "unknown")
    if effects.deletes:
        seen = f"rules of the bucket delete objects here: {', '.join(effects.deletes)}"
        return Capability("lifecycle", "", seen, "note", "Sets go when these rules say so, whatever drtool is to keep.")
    if effects.freezes:
        seen = f"rules of the bucket freeze objects here: {', '.join(effects.freezes)}"
        return Capability(
            "lifecycle", "", seen, "note", "A frozen set is thawed, for hours, before it can be restored."
        )
    return Capability("lifecycle", "", "no rule deletes or freezes objects here")


def _unfinished(store: LeavesUploads, scratch: ScratchStore) -> Capability:
    """Look for what the trial itself may have left; nobody else writes below a prefix that was just made up."""
    try:
        store.remove_unfinished(f"{scratch.prefix}/", is_dead=lambda _: True)
    except StoreAccessDenied as error:
        hint = f"{error.hint} Else interrupted backups leave parts, which cost: let a rule of the bucket abort them."
        return Capability("unfinished uploads", "", "may not be listed or removed", "note", hint)
    return Capability("unfinished uploads", "", "may be listed and removed")
