"""Verify on the record: signed receipts say what was read, when, and with what result; and so what to read next."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool import __version__
from drtool.catalog import BackupSet, Catalog
from drtool.clock import Clock
from drtool.errors import (
    ConfigError,
    DrtoolError,
    ObjectiveBreached,
    ObjectMissing,
    SetDamaged,
    SignatureInvalid,
    StoreError,
)
from drtool.events import Emit, Noticed
from drtool.signing import Signer, Verifier
from drtool.verify import Level, StoreVerdict, Verdict, choose, judge_age, verify

_FORMAT = 1


@dataclass(frozen=True)
class RecordOffice:
    """What verifying on the record works with. Without a ``signer`` no receipt is written: nobody could trust it."""

    signer: Signer | None
    verifier: Verifier
    signed: bool
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]


def verify_on_record(backup_set: BackupSet, level: Level, office: RecordOffice, share: float | None = None) -> Verdict:
    """Verify a set and leave a receipt; with ``share`` only so much of its bytes, those longest unread first.

    Raises what ``verify`` raises; ConfigError for a ``share`` without a key to sign with, because then nobody would
    know the next time what was read.
    """
    catalog = backup_set.catalog
    if share is None:
        volumes = None
    elif office.signer is None:
        raise ConfigError("--sample needs signing_key", hint="What was read is remembered in signed receipts.")
    else:
        volumes = choose(backup_set, last_read(backup_set, office), share)
    begun = office.clock.now()
    verdict = verify(backup_set, level, signed=office.signed, clock=office.clock, emit=office.emit, only=volumes)
    if office.signer and level != "present":
        try:
            _record(verdict, catalog, office, office.signer, begun)
        except StoreError as problem:
            if share is not None:
                raise
            office.emit(Noticed("no-receipt", f"The verdict stands, its receipt was not stored: {problem}"))
    return verdict


def verify_store(
    store: str,
    backup_set: BackupSet,
    level: Level,
    office: RecordOffice,
    share: float | None = None,
    oldest: timedelta | None = None,
) -> StoreVerdict:
    """Verify a set on the record, with its age if ``oldest`` is given. Raises what ``verify_on_record`` raises."""
    damage = verify_on_record(backup_set, level, office, share)
    verdict = damage if oldest is None else judge_age(damage, office.clock.now(), oldest)
    bad = SetDamaged if damage.problems else ObjectiveBreached
    return StoreVerdict(store, verdict, None, bad.exit_status if verdict.problems else 0, verdict.problems)


def verify_stores(
    stores: Mapping[str, Callable[[], BackupSet]],
    level: Level,
    office: RecordOffice,
    share: float | None = None,
    oldest: timedelta | None = None,
) -> tuple[StoreVerdict, ...]:
    """Verify what each store opens, in this order. What goes wrong in one is its own failure: the others are read."""
    found = []
    for store, open_set in stores.items():
        try:
            found.append(verify_store(store, open_set(), level, office, share, oldest))
        except DrtoolError as problem:
            found.append(StoreVerdict(store, None, problem, problem.exit_status, (str(problem),)))
    return tuple(found)


def receipt_name(set_id: str, level: Level, at: datetime, token: str) -> str:
    """The name of a verification's receipt; it tells the level, so that who looks for one reads no others.

    Names made before it did end in ``-{token}``, and are still there.
    """
    return f"verify-{set_id}-{at:%Y%m%dT%H%M%SZ}-{level}.{token}"


def last_read(backup_set: BackupSet, office: RecordOffice) -> dict[str, str]:
    """Say when each volume of a set was last read whole and found good, as sortable text.

    Only receipts with a valid signature count: whoever can write to the store could else keep damage from being seen.
    """
    read: dict[str, str] = {}
    set_id = backup_set.manifest.set_id
    for key in backup_set.catalog.receipts(f"verify-{set_id}-"):
        try:
            text, signature = backup_set.catalog.read_receipt(key)
            office.verifier.verify(text, signature, source=key)
            receipt = json.loads(text)
            if receipt["level"] == "digest" and receipt["set_id"] == set_id:
                read |= {str(name): max(read.get(name, ""), str(receipt["finished_at"])) for name in receipt["good"]}
        except (SignatureInvalid, ObjectMissing, ValueError, KeyError, TypeError) as problem:
            office.emit(Noticed("receipt-ignored", f"{key} does not count: {problem}"))
    return read


def _record(verdict: Verdict, catalog: Catalog, office: RecordOffice, signer: Signer, begun: datetime) -> None:
    now = office.clock.now()
    receipt = {
        "format": _FORMAT,
        "tool": f"drtool {__version__}",
        "purpose": "verify",
        "instance": catalog.instance,
        "set_id": verdict.set_id,
        "level": verdict.level,
        "signature": verdict.signature,
        "started_at": begun.isoformat(),
        "finished_at": now.isoformat(),
        "good": [check.name for check in verdict.checks if not check.problems],
        "problems": len(verdict.problems),
    }
    run_id = receipt_name(verdict.set_id, verdict.level, now, office.new_token())
    catalog.put_receipt(run_id, json.dumps(receipt, indent=1).encode() + b"\n", signer)
