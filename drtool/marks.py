"""What is written beside a set, apart from it: a pin, which keeps it for ever, and the tombstone of one that goes.

Whatever lies where a pin belongs keeps the set: that is the safe side. To be a *baseline*, which ends a frozen prune,
it must be signed by a trusted key: who can write to the store could else thaw what should make somebody look. The
signed bytes name instance and set. A set whose manifest was stored again after it was pinned is no baseline either:
a flood of sets is counted from when the store had it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from drtool.catalog import MANIFEST, PIN, PIN_SIGNATURE, TOMBSTONE, Catalog
from drtool.core.history import CLOCKS_APART
from drtool.core.model import is_set_id
from drtool.errors import ObjectMissing, SetDamaged, SetMissing, SignatureInvalid, StoreError
from drtool.signing import Signer, Verifier

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Pin:
    """Who keeps a set for ever, since when and why. ``at`` is None where the mark cannot be read: it pins all the same.

    ``baseline``: the set is as it should be, so later ones are held against it, and older ones no more. ``doubt`` says
    why a pin that claims so does not count as one.
    """

    set_id: str
    reason: str
    by: str = "?"
    at: datetime | None = None
    baseline: bool = False
    doubt: str = ""


def write_pin(catalog: Catalog, pin: Pin, signer: Signer | None) -> None:
    """Pin a set; an older pin is replaced. Raises SetMissing if the set is no more, or not for long."""
    set_id = pin.set_id
    if not (catalog.is_committed(set_id) or catalog.is_rejected(set_id)):
        raise SetMissing(f"no backup set {set_id} of {catalog.instance} in {catalog.store.name}")
    text = _render(catalog.instance, pin)
    if signer:
        catalog.put_bytes(catalog.key(set_id, PIN_SIGNATURE), signer.sign(text))
    catalog.put_bytes(catalog.key(set_id, PIN), text)
    if catalog.is_being_removed(set_id):  # looked for after the pin is there: a prune looks for it after its tombstone
        with suppress(StoreError):
            remove_pin(catalog, set_id)
        raise SetMissing(f"{set_id} is being removed from {catalog.store.name}", hint="Too late: pin another one.")


def _render(instance: str, pin: Pin) -> bytes:
    fields = {
        "format": _FORMAT,
        "instance": instance,
        "set_id": pin.set_id,
        "reason": pin.reason,
        "by": pin.by,
        "at": pin.at.astimezone(UTC).isoformat() if pin.at else None,
        "baseline": pin.baseline,
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def read_pin(catalog: Catalog, set_id: str, verifier: Verifier) -> Pin | None:
    """The set's pin, if it has one. Whatever lies there pins; only its words may be lost. Raises StoreError."""
    try:
        text = catalog.read_bytes(catalog.key(set_id, PIN))
    except ObjectMissing:
        return None
    except SetDamaged:
        return Pin(set_id, "(the pin cannot be read)")
    try:
        fields = json.loads(text)
        at = datetime.fromisoformat(fields["at"]) if fields["at"] else None
        pin = Pin(set_id, str(fields["reason"]), str(fields["by"]), at, baseline=fields["baseline"] is True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return Pin(set_id, "(the pin cannot be read)")
    doubt = _doubt(catalog, pin, text, fields, verifier) if pin.baseline else ""
    return replace(pin, baseline=pin.baseline and not doubt, doubt=doubt)


def _doubt(catalog: Catalog, pin: Pin, text: bytes, fields: dict[str, Any], verifier: Verifier) -> str:
    """Why this is no baseline; empty where it is one."""
    said = f"the pin of {pin.set_id}"
    try:
        verifier.verify(text, catalog.read_bytes(catalog.key(pin.set_id, PIN_SIGNATURE)), source=said)
        stored_at = catalog.store.stat(catalog.key(pin.set_id, MANIFEST)).modified_at
    except ObjectMissing as missing:
        return f"{said}: {missing}"
    except (SignatureInvalid, SetDamaged) as problem:
        return str(problem)
    if (fields.get("instance"), fields.get("set_id")) != (catalog.instance, pin.set_id):
        return f"{said}: was signed for another set"
    if pin.at is None or pin.at.tzinfo is None or stored_at > pin.at + CLOCKS_APART:
        return f"{said}: its set was stored again after it was pinned, or a clock was wrong"
    return ""


def remove_pin(catalog: Catalog, set_id: str) -> None:
    """Take a set's pin away. A missing one is no error."""
    catalog.store.delete([catalog.key(set_id, PIN), catalog.key(set_id, PIN_SIGNATURE)])


def pinned(catalog: Catalog, verifier: Verifier) -> list[Pin]:
    """Every pin, the oldest set's first."""
    ids = {set_id for set_id, name, _ in catalog.objects() if name == PIN and is_set_id(set_id)}
    return [pin for set_id in sorted(ids) if (pin := read_pin(catalog, set_id, verifier))]


def write_tombstone(catalog: Catalog, set_id: str, at: datetime, reason: str) -> None:
    """From here on the set is none, for everybody who lists."""
    fields = {"format": _FORMAT, "at": at.astimezone(UTC).isoformat(), "reason": reason}
    catalog.put_bytes(catalog.key(set_id, TOMBSTONE), json.dumps(fields, indent=1).encode() + b"\n")


def remove_tombstone(catalog: Catalog, set_id: str) -> None:
    catalog.store.delete([catalog.key(set_id, TOMBSTONE)])
