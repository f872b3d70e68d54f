"""What is written beside a set, apart from it: a pin, which keeps it for ever, and the tombstone of one that goes."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from drtool.catalog import PIN, TOMBSTONE, Catalog
from drtool.core.model import is_set_id
from drtool.errors import ObjectMissing, SetDamaged, SetMissing, StoreError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Pin:
    """Who keeps a set for ever, since when and why. ``at`` is None where the mark cannot be read: it pins all the same.

    ``baseline``: the set is as it should be, so later ones are held against it, and older ones no more.
    """

    set_id: str
    reason: str
    by: str = "?"
    at: datetime | None = None
    baseline: bool = False


def write_pin(catalog: Catalog, pin: Pin) -> None:
    """Pin a set; an older pin is replaced. Raises SetMissing if the set is no more, or not for long."""
    set_id = pin.set_id
    if not (catalog.is_committed(set_id) or catalog.is_rejected(set_id)):
        raise SetMissing(f"no backup set {set_id} of {catalog.instance} in {catalog.store.name}")
    when = pin.at.astimezone(UTC).isoformat() if pin.at else None
    fields = {"format": _FORMAT, "reason": pin.reason, "by": pin.by, "at": when, "baseline": pin.baseline}
    catalog.put_bytes(catalog.key(set_id, PIN), json.dumps(fields, indent=1).encode() + b"\n")
    if catalog.is_being_removed(set_id):  # looked for after the pin is there: a prune looks for it after its tombstone
        with suppress(StoreError):
            remove_pin(catalog, set_id)
        raise SetMissing(f"{set_id} is being removed from {catalog.store.name}", hint="Too late: pin another one.")


def read_pin(catalog: Catalog, set_id: str) -> Pin | None:
    """The set's pin, if it has one. Whatever lies there pins; only its words may be lost."""
    try:
        text = catalog.read_bytes(catalog.key(set_id, PIN))
    except ObjectMissing:
        return None
    except SetDamaged:
        return Pin(set_id, "(the pin cannot be read)")
    try:
        fields = json.loads(text)
        at = datetime.fromisoformat(fields["at"]) if fields["at"] else None
        return Pin(set_id, str(fields["reason"]), str(fields["by"]), at, baseline=fields["baseline"] is True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return Pin(set_id, "(the pin cannot be read)")


def remove_pin(catalog: Catalog, set_id: str) -> Pin | None:
    """Take a set's pin away; return what it was."""
    pin = read_pin(catalog, set_id)
    catalog.store.delete([catalog.key(set_id, PIN)])
    return pin


def pinned(catalog: Catalog) -> list[Pin]:
    """Every pin, the oldest set's first."""
    ids = {set_id for set_id, name, _ in catalog.objects() if name == PIN and is_set_id(set_id)}
    return [pin for set_id in sorted(ids) if (pin := read_pin(catalog, set_id))]


def write_tombstone(catalog: Catalog, set_id: str, at: datetime, reason: str) -> None:
    """From here on the set is none, for everybody who lists."""
    fields = {"format": _FORMAT, "at": at.astimezone(UTC).isoformat(), "reason": reason}
    catalog.put_bytes(catalog.key(set_id, TOMBSTONE), json.dumps(fields, indent=1).encode() + b"\n")


def remove_tombstone(catalog: Catalog, set_id: str) -> None:
    catalog.store.delete([catalog.key(set_id, TOMBSTONE)])
