"""List what lies where sets lie: every set, and what is known of it without reading a volume.

What a manifest says of itself is known only where a trusted key signed it. One that is bad hides no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from drtool.catalog import MANIFEST, PIN, REJECTED, TOMBSTONE, Catalog
from drtool.core.history import is_ahead
from drtool.core.model import is_set_id, time_of
from drtool.errors import FormatTooNew, SetDamaged, SetMissing, SignatureInvalid, StoreError
from drtool.signing import Verifier
from drtool.stores import ObjectInfo

_READ_AT_ONCE = 16  # a store far away takes its time for each, and so does ssh-keygen
_UNREADABLE = (SetDamaged, SetMissing, FormatTooNew, StoreError)

Signature = Literal["valid", "missing", "invalid", "not checked"]


@dataclass(frozen=True, slots=True)
class Row:
    """One set in a listing. ``problem`` says why its manifest could not be read, or is not believed.

    From ``created_at`` to ``verdict`` it is what the manifest says, and so worth no more than its ``signature``. The
    rest is what lies in the store: ``future`` is a date after now or after the store had it.
    """

    set_id: str
    created_at: datetime | None = None
    gitlab_version: str = "?"
    repositories: int = 0
    plain_size: int = 0
    stored_size: int = 0
    verdict: str = "unreadable"
    problem: str = ""
    signature: Signature = "not checked"
    future: bool = False
    pinned: bool = False
    being_removed: bool = False


def list_rows(catalog: Catalog, verifier: Verifier, now: datetime) -> list[Row]:
    """Look at every set, oldest first, red ones and those that are being removed among them.

    Without a trusted key no signature is checked. Raises StoreError if the store cannot be listed, HostUnfit or
    CommandFailed if signatures cannot be checked.
    """
    folders: dict[str, dict[str, ObjectInfo]] = {}
    for set_id, name, info in catalog.objects():
        if is_set_id(set_id):
            folders.setdefault(set_id, {})[name] = info

    def look(set_id: str) -> Row:
        return _row(catalog, set_id, folders[set_id], verifier, now)

    shown = [set_id for set_id, found in sorted(folders.items()) if found.keys() & {MANIFEST, REJECTED}]
    with ThreadPoolExecutor(_READ_AT_ONCE, "list") as threads:
        return [*threads.map(look, shown)]


def _row(catalog: Catalog, set_id: str, found: Mapping[str, ObjectInfo], verifier: Verifier, now: datetime) -> Row:
    name = MANIFEST if MANIFEST in found else REJECTED
    seen = Row(
        set_id,
        future=is_ahead(time_of(set_id), found[name].modified_at, now),
        pinned=PIN in found,
        being_removed=TOMBSTONE in found,
    )
    if not verifier.trusted:
        return _claimed(catalog, seen, None)
    try:
        return _claimed(catalog, seen, verifier)
    except SignatureInvalid as problem:
        signature: Signature = "invalid" if f"{name}.sig" in found else "missing"
        claimed = _claimed(catalog, replace(seen, signature=signature), None)
        return replace(claimed, problem=claimed.problem or str(problem))


def _claimed(catalog: Catalog, seen: Row, verifier: Verifier | None) -> Row:
    """Add what the manifest says, and that it is signed if that was asked. Raises SignatureInvalid."""
    try:
        manifest = catalog.read_manifest(seen.set_id, verifier)
    except _UNREADABLE as problem:
        return replace(seen, problem=str(problem))
    return replace(
        seen,
        created_at=manifest.created_at,
        gitlab_version=manifest.gitlab.version,
        repositories=manifest.gitlab.repositories,
        plain_size=manifest.plain_size,
        stored_size=manifest.stored_size,
        verdict=manifest.verdict,
        signature="valid" if verifier else seen.signature,
    )
