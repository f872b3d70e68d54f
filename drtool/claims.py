"""The objects of a lease: who claimed it when, and showed signs of life, as a store tells it. See ``lease``."""

from __future__ import annotations

import io
import json
import re
import secrets
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from drtool.catalog import Catalog
from drtool.clock import Clock
from drtool.errors import ObjectExists, ObjectMissing, SetDamaged, StoreAccessDenied, StoreError
from drtool.events import Emit
from drtool.stores import ObjectInfo

_FORMAT = 1
_NAME = re.compile(r"((\d{12,40})(?:\.[0-9a-f]{8})?)(?:-(alive|released)(?:-\d+)?)?\Z", re.ASCII)
_PROBE = "probe"
_EXTRA_PROBE = re.compile(rf"{_PROBE}-[0-9a-f]{{8}}\Z", re.ASCII)
_KEPT = 8  # tokens: the greatest, which says who holds it, and some to see who did
_KEPT_FOR = timedelta(days=7)
_AT_ONCE = 500  # keys


@dataclass(frozen=True, slots=True)
class Terms:
    """How long what takes. ``sure_for`` must end well before ``time_to_live``: stores date by whole seconds."""

    time_to_live: timedelta = timedelta(minutes=15)
    sure_for: timedelta = timedelta(minutes=12)
    beat: timedelta = timedelta(minutes=3)
    patience: timedelta = timedelta(minutes=30)
    poll: timedelta = timedelta(seconds=15)
    settle: timedelta = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as a listing shows it. ``sign`` is the newest of its objects: its name and when the store got it."""

    name: str
    token: int
    sign: tuple[datetime, str]
    released: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What a claim says in words; nothing is decided by them but who it is and how long it lives."""

    text: str = "another run"
    identity: str = ""
    time_to_live: timedelta | None = None


@dataclass
class Desk:
    """The lease's folder on one store."""

    catalog: Catalog
    clock: Clock
    emit: Emit
    terms: Terms
    _read: dict[str, Said] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.catalog.instance} in {self.catalog.store.name}"

    def claims(self) -> list[Claim]:
        """Every claim that was ever made, and is still there; whatever else lies here is passed over."""
        found: dict[str, Claim] = {}
        for info in self.catalog.store.list(self.catalog.lease_folder):
            match = _NAME.match(info.key.removeprefix(self.catalog.lease_folder))
            if match:
                name, kind, sign = match[1], match[3], (info.modified_at, info.key)
                known = found.get(name) or Claim(name, int(match[2]), sign, released=False)
                found[name] = Claim(name, known.token, max(known.sign, sign), known.released or kind == "released")
        return list(found.values())

    def read(self, claim: Claim) -> Said:
        """What a claim says. One that cannot be understood still is one. Raises StoreError."""
        if claim.name not in self._read:
            try:
                self._read[claim.name] = _parse(self.catalog.read_bytes(self.catalog.lease_folder + claim.name))
            except (ObjectMissing, SetDamaged):
                return Said()
        return self._read[claim.name]

    def put(self, name: str, text: bytes, *, only_if_absent: bool = False) -> datetime:
        key = self.catalog.lease_folder + name
        return self.catalog.store.put(
            key, io.BytesIO(text), size_hint=len(text), only_if_absent=only_if_absent
        ).modified_at

    def ask_the_time(self) -> datetime:
        """What the store's clock says, and by a little less than that: it said so when it answered."""
        try:
            return self.put(_PROBE, b"")
        except (StoreAccessDenied, ObjectExists):
            return self.put(f"{_PROBE}-{secrets.token_hex(4)}", b"")


def tidy(catalog: Catalog, *, kept: int = _KEPT, kept_for: timedelta = _KEPT_FOR) -> None:
    """Delete what claims left behind that were released or died long ago, and old probes. Raises nothing.

    The greatest token and the last few always stay, and so does what nobody here knows; what the store refuses to
    delete stays too. ``kept_for`` goes by the store's clock: by the newest object in the folder, which is the one of
    whoever holds the lease and tidies.
    """
    with suppress(StoreError):
        keys = sorted(_outlived(catalog, kept, kept_for))
        for start in range(0, len(keys), _AT_ONCE):
            with suppress(StoreAccessDenied):
                catalog.store.delete(keys[start : start + _AT_ONCE])


def _outlived(catalog: Catalog, kept: int, kept_for: timedelta) -> set[str]:
    claims: dict[tuple[int, str], list[ObjectInfo]] = defaultdict(list)
    probes, newest = [], datetime.min.replace(tzinfo=UTC)
    for info in catalog.store.list(catalog.lease_folder):
        newest = max(newest, info.modified_at)
        name = info.key.removeprefix(catalog.lease_folder)
        if match := _NAME.match(name):
            claims[int(match[2]), match[1]].append(info)
        elif _EXTRA_PROBE.match(name):
            probes.append([info])
    last = sorted({token for token, _ in claims})[-max(1, kept) :]
    old = [objects for (token, _), objects in claims.items() if token not in last] + probes
    return {
        info.key
        for objects in old
        if all(newest - each.modified_at >= kept_for for each in objects)
        for info in objects
    }


def render(**fields: object) -> bytes:
    return json.dumps({"format": _FORMAT, **fields}, indent=1).encode() + b"\n"


def _parse(text: bytes) -> Said:
    try:
        fields = json.loads(text)
        told = f"{fields['purpose']} on {fields['host']} (process {fields['process']}, since {fields['at'][:16]}Z)"
        lives = timedelta(seconds=min(float(fields["time_to_live"]), 4 * Terms().time_to_live.total_seconds()))
        return Said(told, str(fields["identity"]), lives)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Said()
