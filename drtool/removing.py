"""Take one set away, so that a crash at any moment is harmless.

The order is what makes it so. First the tombstone: from then on the set is in no list. Then its volumes, then its
manifest, then the manifest's signature, the tombstone last. So whatever is left of a volume is still named by a signed
manifest, and whoever comes next and finds the tombstone goes on where this one stopped. A tombstone alone is believed
by nobody: a set that is whole is decided over again, and if it stays, its tombstone goes.
"""

from __future__ import annotations

from contextlib import suppress

from drtool.catalog import TOMBSTONE, Catalog
from drtool.clock import Clock
from drtool.errors import StoreAccessDenied, StoreError
from drtool.events import Emit, Noticed
from drtool.marks import remove_tombstone, write_tombstone
from drtool.prune_plan import Removal


class RemovalRefused(StoreAccessDenied):
    """The store does not let this set go. It may be locked; the others are not concerned."""


def check_may_delete(catalog: Catalog, first: Removal) -> None:
    """Raise StoreAccessDenied if nothing may be deleted: before any tombstone, which could then not be taken back.

    A key that is not there shows it: deleting one is no error, but needs the right.
    """
    catalog.store.delete([catalog.key(first.set_id, f"{TOMBSTONE}.tried")])


def remove(catalog: Catalog, removal: Removal, clock: Clock, emit: Emit) -> bool:
    """Take one set away, unless it was pinned meanwhile. Raises RemovalRefused."""
    if not removal.begun:
        write_tombstone(catalog, removal.set_id, clock.now(), "; ".join(removal.reasons))
    if catalog.is_pinned(removal.set_id):  # looked for after the tombstone is there: a pin looks for that afterwards
        remove_tombstone(catalog, removal.set_id)
        emit(Noticed("pinned-meanwhile", f"{removal.set_id} was pinned meanwhile, and stays"))
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
    hint = refused.hint or "It may be locked; the same command later tries again."
    if removal.begun or not {*removal.volumes, *removal.records} <= left:
        return RemovalRefused(f"{removal.set_id} is removed only in part: {refused}", hint=hint)
    with suppress(StoreError):
        remove_tombstone(catalog, removal.set_id)
    return RemovalRefused(f"{removal.set_id} stays: {refused}", hint=hint)
