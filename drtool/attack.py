"""Could a thief with this host's keys harm the backups? Tried with them, on scratch objects and nothing else.

``refused`` was seen to be refused. ``allowed`` is a finding. ``harmless``: the store did it, and nothing is lost by it.
``unseen``: not tried, or the answer tells nothing; that is no good news, and is never told as such.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Literal

from drtool import __version__
from drtool.catalog import Catalog
from drtool.clock import Clock
from drtool.errors import ObjectExists, ObjectMissing, StoreAccessDenied, StoreError
from drtool.events import Emit, Noticed, PhaseFinished, PhaseStarted
from drtool.signing import Signer
from drtool.stores.hostile import Arms, Attempt, Harmless, NotTried, around

_FORMAT = 1
_CONTENT = b"drtool check --attack\n"
_OTHER = b"drtool check --attack, put over it\n"

Verdict = Literal["refused", "harmless", "allowed", "unseen"]


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt. ``gains`` and ``cure`` are told only where it was allowed."""

    name: str
    verdict: Verdict
    seen: str
    gains: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was tried. ``left``: scratch keys that could not be removed; where a host may not delete, all."""

    instance: str
    store: str
    tried: tuple[Tried, ...]
    left: tuple[str, ...]

    @property
    def allowed(self) -> tuple[Tried, ...]:
        return tuple(each for each in self.tried if each.verdict == "allowed")

    @property
    def unseen(self) -> tuple[Tried, ...]:
        return tuple(each for each in self.tried if each.verdict == "unseen")


@dataclass(frozen=True)
class Place:
    """What the attack works with. ``arms``: what the store's kind adds; None where it has nothing more.

    ``cure`` names what helps against most of it. ``new_token`` gives four random hex digits.
    """

    catalog: Catalog
    arms: Arms | None
    cure: str
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]


@dataclass
class _Scratch:
    """Keys nobody uses: in a folder of the instance that is no set, and in one that is no instance of anybody."""

    instance: str
    token: str
    used: list[str] = field(default_factory=list)

    def key(self, name: str) -> str:
        return self._use(f"{self.instance}/drtool-attack-{self.token}/{name.replace(' ', '-')}")

    def foreign_key(self) -> str:
        return self._use(f"drtool-attack-{self.token}/scratch")

    def _use(self, key: str) -> str:
        self.used.append(key)
        return key


def attack(place: Place) -> Outcome:
    """Try everything, also after a success, and remove what was put. Raises StoreError if nothing may be put at all."""
    store, clock = place.catalog.store, place.clock
    scratch = _Scratch(place.catalog.instance, place.new_token() + place.new_token())
    place.emit(PhaseStarted("attack", f"Attacking scratch objects in {store.name}"))
    began = clock.monotonic()
    try:
        store.put(scratch.key("may-put"), io.BytesIO(_CONTENT))  # else every refusal below would prove nothing
        tried = tuple(_try(attempt, key, place) for attempt, key in _attempts(place, scratch))
    finally:
        left = _clear(place.catalog, scratch)
    place.emit(PhaseFinished("attack", clock.monotonic() - began))
    return Outcome(place.catalog.instance, store.name, tried, left)


def record(outcome: Outcome, place: Place, signer: Signer | None) -> str | None:
    """Leave a signed receipt of it; return its key. None, and a notice, where there is no key to sign or no store."""
    if signer is None:
        place.emit(Noticed("no-receipt", "No receipt was written: signing_key is missing", "`drtool init` makes one."))
        return None
    now = place.clock.now()
    receipt = {
        "format": _FORMAT,
        "tool": f"drtool {__version__}",
        "purpose": "attack",
        "instance": outcome.instance,
        "store": outcome.store,
        "finished_at": now.isoformat(),
        "allowed": len(outcome.allowed),
        "unseen": len(outcome.unseen),
        "tried": [asdict(each) for each in outcome.tried],
    }
    run_id = f"attack-{now:%Y%m%dT%H%M%SZ}-{place.new_token()}"
    try:
        return place.catalog.put_receipt(run_id, json.dumps(receipt, indent=1).encode() + b"\n", signer)
    except StoreError as problem:
        place.emit(Noticed("no-receipt", f"The result stands, its receipt was not stored: {problem}", problem.hint))
        return None


def _attempts(place: Place, scratch: _Scratch) -> Iterator[tuple[Attempt, str]]:
    for attempt in (
        Attempt("delete", "Delete every backup.", lambda key, _: _delete(place, key)),
        Attempt(
            "overwrite",
            "Put rubbish over every backup.",
            lambda key, _: _overwrite(place, key),
            "Turn on versioning of the bucket, or lock its objects: who may put may put over what is there.",
        ),
        *(place.arms.attempts if place.arms else ()),
    ):
        yield attempt, scratch.key(attempt.name)
    yield (
        Attempt(
            "write for another instance", "Spoil other instances' backups in the same store.",
            lambda key, _: _write(place, key),
        ),
        scratch.foreign_key(),
    )  # fmt: skip


def _try(attempt: Attempt, key: str, place: Place) -> Tried:
    now: datetime = place.clock.now()
    try:
        seen = attempt.run(key, now)
    except (StoreAccessDenied, ObjectExists) as refusal:
        return Tried(attempt.name, "refused", str(refusal))
    except Harmless as reason:
        return Tried(attempt.name, "harmless", str(reason))
    except NotTried as reason:
        return Tried(attempt.name, "unseen", f"not tried: {reason}")
    except StoreError as problem:
        return Tried(attempt.name, "unseen", f"the answer tells nothing: {problem}")
    return Tried(attempt.name, "allowed", seen, attempt.gains, attempt.cure or place.cure)


def _delete(place: Place, key: str) -> str:
    store = place.catalog.store
    _prepare(place, key)
    version = around(lambda: place.arms.version_of(key) if place.arms else "")
    store.delete([key])
    try:
        around(lambda: store.stat(key))
    except ObjectMissing:
        return "an object was deleted" + (" (it is hidden; its version is still there)" if version else "")
    raise Harmless("the store said yes, and the object is still there")


def _overwrite(place: Place, key: str) -> str:
    store, arms = place.catalog.store, place.arms
    _prepare(place, key)
    version = around(lambda: arms.version_of(key) if arms else "")
    store.put(key, io.BytesIO(_OTHER))
    if around(lambda: place.catalog.read_bytes(key)) == _CONTENT:
        raise Harmless("the store said yes, and the object is as it was")
    if arms and version and around(lambda: arms.read_version(key, version)) == _CONTENT:
        raise Harmless("what was there stays, as an older version")
    return "an object was replaced, and what was there is gone"


def _write(place: Place, key: str) -> str:
    place.catalog.store.put(key, io.BytesIO(_CONTENT))
    return f"an object was put at {key}"


def _prepare(place: Place, key: str) -> None:
    """Put the object that is to be harmed. If that is refused, the attempt never was one."""
    around(lambda: place.catalog.store.put(key, io.BytesIO(_CONTENT)))


def _clear(catalog: Catalog, scratch: _Scratch) -> tuple[str, ...]:
    left = []
    for key in scratch.used:
        with suppress(StoreError):
            catalog.store.delete([key])
        try:
            catalog.store.stat(key)
        except ObjectMissing:
            continue
        except StoreAccessDenied:
            if key == scratch.used[-1]:  # another instance's: who may not look there may not have put it either
                continue
        except StoreError:
            pass
        left.append(key)
    return tuple(left)
