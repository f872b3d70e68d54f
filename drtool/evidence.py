"""What the signed receipts of verifications prove about sets: read whole and good, found damaged, or neither."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal

from drtool.catalog import Catalog
from drtool.core.model import Manifest
from drtool.errors import ObjectMissing, SetDamaged, SignatureInvalid
from drtool.events import Emit, Event, Noticed
from drtool.signing import Verifier

Proof = Literal["verified", "unverified", "damaged"]

_PURPOSE = "verify-"
_ID_LENGTH = 21
_READ_AT_ONCE = 16


def weigh(catalog: Catalog, manifests: Mapping[str, Manifest], verifier: Verifier, emit: Emit) -> dict[str, Proof]:
    """Say of each set what its receipts prove, the newest first; what they do not prove is not so.

    A set is verified when every volume of it was read and found good, in one verification or in several samples, and
    nothing was found wrong since. Only receipts with a valid signature count, of verifications that had checked the
    manifest's own. Raises StoreError.
    """
    receipts: dict[str, list[str]] = {set_id: [] for set_id in manifests}
    for key in catalog.receipts(_PURPOSE):
        set_id = key.rpartition("/")[2].removeprefix(_PURPOSE)[:_ID_LENGTH]
        if set_id in receipts:
            receipts[set_id].append(key)

    lock = threading.Lock()

    def emit_from_any_thread(event: Event) -> None:
        with lock:
            emit(event)

    def judge(set_id: str) -> Proof:
        return _judge(catalog, manifests[set_id], receipts[set_id], verifier, emit_from_any_thread)

    with ThreadPoolExecutor(_READ_AT_ONCE, "evidence") as threads:  # a store far away takes its time for each
        return dict(zip(manifests, threads.map(judge, manifests), strict=True))


def _judge(catalog: Catalog, manifest: Manifest, keys: Sequence[str], verifier: Verifier, emit: Emit) -> Proof:
    missing = {volume.name for volume in manifest.volumes}
    for key in reversed(keys):  # their names sort by time: what was found last is true
        receipt = _read(catalog, manifest, key, verifier, emit)
        if receipt is None:
            continue
        if receipt["problems"]:
            return "damaged"
        missing -= {*receipt["good"]} if receipt["level"] == "digest" else {*missing}  # contents: all of it was read
        if not missing:
            return "verified"
    return "unverified"


def _read(catalog: Catalog, manifest: Manifest, key: str, verifier: Verifier, emit: Emit) -> dict[str, Any] | None:
    """A receipt that counts for this set, or None."""
    try:
        text, signature = catalog.read_receipt(key)
        verifier.verify(text, signature, source=key)
        receipt: dict[str, Any] = json.loads(text)
        subject = (receipt["purpose"], receipt["instance"], receipt["set_id"], receipt["signature"])
        _refuse_renamed(key, manifest.set_id, receipt["finished_at"])
        known = receipt["level"] in ("digest", "contents") and isinstance(receipt["problems"], int)
        counts = known and subject == ("verify", manifest.instance, manifest.set_id, "valid")
        return {**receipt, "good": [str(name) for name in receipt["good"]]} if counts else None
    except (SignatureInvalid, ObjectMissing, SetDamaged, ValueError, KeyError, TypeError, RecursionError) as problem:
        emit(Noticed("receipt-ignored", f"{key} does not count: {problem}"))
        return None


def _refuse_renamed(key: str, set_id: str, finished_at: str) -> None:
    """Raise ValueError unless the key bears the time that was signed: an old receipt could hide a newer one."""
    found_at = datetime.fromisoformat(finished_at).astimezone(UTC)
    if not key.rpartition("/")[2].startswith(f"{_PURPOSE}{set_id}-{found_at:%Y%m%dT%H%M%SZ}-"):
        raise ValueError("its name is not the one that it was written under")
