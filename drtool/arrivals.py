"""When another store got a set that came here late: a copy may be filled in a day with what is months old."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from drtool.catalog import MANIFEST, Catalog
from drtool.core.history import KnownSet
from drtool.core.model import Manifest
from drtool.errors import DrtoolError
from drtool.signing import Verifier

OpenCatalog = Callable[[], Catalog]

_LATE: Final = timedelta(days=1)
_READ_AT_ONCE: Final = 16


def date_late(
    known: Sequence[KnownSet], manifests: Mapping[str, Manifest], others: Sequence[OpenCatalog], verifier: Verifier
) -> list[KnownSet]:
    """Give what was stored here more than a day after it was taken the time when another store got the same.

    The same is what has the very same manifest there, signed. A store that does not answer proves nothing. ``others``
    are opened only if something is late.
    """
    late = {each.set_id for each in known if each.stored_at - each.taken_at > _LATE and each.set_id in manifests}
    catalogs = list(filter(None, map(_open, others))) if late else []

    def dated(each: KnownSet) -> KnownSet:
        if each.set_id not in late:
            return each
        times = [_stored_at(catalog, manifests[each.set_id], verifier) for catalog in catalogs]
        return replace(each, first_stored_at=min(filter(None, times), default=None))

    with ThreadPoolExecutor(_READ_AT_ONCE, "arrivals") as threads:  # a store far away takes its time for each
        return [*threads.map(dated, known)]


def _open(open_catalog: OpenCatalog) -> Catalog | None:
    try:
        return open_catalog()
    except DrtoolError:
        return None


def _stored_at(catalog: Catalog, manifest: Manifest, verifier: Verifier) -> datetime | None:
    try:
        if catalog.read_manifest(manifest.set_id, verifier) != manifest:
            return None
        return catalog.store.stat(catalog.key(manifest.set_id, MANIFEST)).modified_at
    except DrtoolError:
        return None
