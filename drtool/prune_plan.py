"""Look at every set of an instance, let retention decide, and list the keys that would go. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from drtool.arrivals import OpenCatalog, date_late
from drtool.catalog import MANIFEST, PIN, PIN_SIGNATURE, REJECTED, SIGNATURE, TOMBSTONE, Catalog
from drtool.clock import Clock
from drtool.core.history import KnownSet, State
from drtool.core.model import Manifest, is_set_id, time_of
from drtool.core.policy import Decision, Retention, decide
from drtool.errors import FormatTooNew, SetDamaged, SetMissing, SignatureInvalid
from drtool.events import Emit
from drtool.evidence import Proof, weigh
from drtool.marks import read_pin
from drtool.signing import Verifier
from drtool.stores import ObjectInfo

_RECORDS = (REJECTED, MANIFEST, f"{REJECTED}.sig", SIGNATURE)
"""What commits a set, in the order in which it goes: without its signature a manifest would name nothing any more."""
_LEFT = (*_RECORDS, PIN_SIGNATURE)  # a pin's signature may outlive it: a crash, and nothing that anybody goes by
_CONTROL = (*_LEFT, TOMBSTONE, PIN)
_READ_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes of one set: whole keys, first the volumes that its manifest names, then its own records, in order."""

    set_id: str
    reasons: tuple[str, ...]
    volumes: tuple[str, ...]
    records: tuple[str, ...]
    size: int
    begun: bool


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do, from one look at the store.

    ``withdrawn`` are sets that stay and have a tombstone, which goes. ``unfinished`` folders have no manifest: a backup
    is running, or died; nothing in them is named by anybody, so nothing is touched. Nor are the keys in ``foreign``,
    nor the sets whose manifest is not believed, about which ``doubts`` says why. ``no_baselines`` says of pins that
    claim to be one why they do not count.
    """

    instance: str
    store: str
    decision: Decision
    removals: tuple[Removal, ...]
    withdrawn: tuple[str, ...]
    unfinished: tuple[str, ...]
    foreign: tuple[str, ...]
    doubts: tuple[str, ...]
    no_baselines: tuple[str, ...] = ()


def plan_prune(
    catalog: Catalog,
    retention: Retention,
    *,
    verifier: Verifier,
    clock: Clock,
    emit: Emit,
    locked_for: timedelta | None = None,
    others: Sequence[OpenCatalog] = (),
) -> PrunePlan:
    """Look at every set and decide. Changes nothing.

    ``locked_for``: how long the policy locks what is stored; None where it does not. ``others`` are stores that may
    tell when a set was new. Raises StoreError.
    """
    folders, seen = look(catalog, verifier, emit, locked_for)
    known = date_late(seen, _manifests(folders), others, verifier)
    whole = [each for each in folders if each.is_recorded and not each.is_half_gone]
    decision = decide(known, retention, clock.now())
    reasons = {choice.set_id: choice.reasons for choice in decision.choices if choice.action == "remove"}
    if not decision.freeze:
        reasons |= {each.set_id: ("its removal had begun",) for each in folders if each.is_half_gone}
    return PrunePlan(
        instance=catalog.instance,
        store=catalog.store.name,
        decision=decision,
        removals=tuple(removal_of(each, reasons[each.set_id]) for each in folders if each.set_id in reasons),
        withdrawn=tuple(
            each.set_id for each in whole if TOMBSTONE in each.objects and each.set_id not in reasons and each.manifest
        ),
        unfinished=tuple(each.set_id for each in folders if not each.is_recorded and each.objects.keys() - {*_CONTROL}),
        foreign=tuple(key for each in folders if each.manifest for key in _foreign(each)),
        doubts=tuple(each.doubt for each in folders if each.doubt),
        no_baselines=tuple(each.no_baseline for each in known if each.no_baseline),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a store shows: every set, oldest first, and the manifests that are believed.

    ``going`` have a tombstone: they are in no list, and cannot be restored by name.
    """

    known: tuple[KnownSet, ...]
    going: frozenset[str]
    manifests: Mapping[str, Manifest]
    doubts: tuple[str, ...]


def look_at_sets(catalog: Catalog, *, verifier: Verifier, emit: Emit, others: Sequence[OpenCatalog] = ()) -> Seen:
    """Look at every set, as a prune does, and decide nothing. Raises StoreError."""
    folders, seen = look(catalog, verifier, emit, None)
    manifests = _manifests(folders)
    known = date_late(seen, manifests, others, verifier)
    going = frozenset(each.set_id for each in folders if TOMBSTONE in each.objects)
    return Seen(tuple(known), going, manifests, tuple(each.doubt for each in folders if each.doubt))


def _manifests(folders: Sequence[Folder]) -> dict[str, Manifest]:
    return {each.set_id: each.manifest for each in folders if each.manifest}


def look(
    catalog: Catalog, verifier: Verifier, emit: Emit, locked_for: timedelta | None
) -> tuple[list[Folder], list[KnownSet]]:
    """Look at every folder, and say what is known of the sets that are not half gone. Raises StoreError."""
    with ThreadPoolExecutor(_READ_AT_ONCE, "prune") as threads:  # a store far away takes its time for each
        folders = [*threads.map(partial(_open, catalog, verifier), _folders(catalog).items())]
    whole = [each for each in folders if each.is_recorded and not each.is_half_gone]
    proofs = weigh(catalog, {each.set_id: each.manifest for each in whole if each.manifest}, verifier, emit)
    return folders, [_known(catalog, each, proofs.get(each.set_id), verifier, locked_for) for each in whole]


@dataclass(frozen=True, slots=True)
class Folder:
    """A set's folder; ``manifest`` is None where there is none that is ours, and ``doubt`` says why."""

    set_id: str
    objects: Mapping[str, ObjectInfo]
    manifest: Manifest | None
    doubt: str = ""

    @property
    def is_recorded(self) -> bool:
        return MANIFEST in self.objects or REJECTED in self.objects

    @property
    def named(self) -> set[str]:
        return {volume.name for volume in self.manifest.volumes} if self.manifest else set()

    @property
    def is_half_gone(self) -> bool:
        """Tell whether a prune had begun to take its volumes, or has only its records left to take."""
        marked = TOMBSTONE in self.objects and PIN not in self.objects
        return marked and (not self.is_recorded or not self.named <= self.objects.keys())

    @property
    def is_whole(self) -> bool:
        volumes = self.manifest.volumes if self.manifest else ()
        sizes = {name: info.size for name, info in self.objects.items()}
        return all(sizes.get(volume.name) == volume.stored_size for volume in volumes)


def _folders(catalog: Catalog) -> dict[str, dict[str, ObjectInfo]]:
    found: dict[str, dict[str, ObjectInfo]] = {}
    for set_id, name, info in catalog.objects():
        if is_set_id(set_id):
            found.setdefault(set_id, {})[name] = info
    return found


def _open(catalog: Catalog, verifier: Verifier, found: tuple[str, Mapping[str, ObjectInfo]]) -> Folder:
    set_id, objects = found
    if MANIFEST not in objects and REJECTED not in objects:
        return Folder(set_id, objects, None)
    try:
        manifest = catalog.read_manifest(set_id, verifier)
    except (SetDamaged, SetMissing, SignatureInvalid, FormatTooNew) as problem:
        return Folder(set_id, objects, None, str(problem))
    if {volume.name for volume in manifest.volumes} & {*_CONTROL}:
        return Folder(set_id, objects, None, f"{set_id}: its manifest names its own records as volumes")
    return Folder(set_id, objects, manifest)


def _known(
    catalog: Catalog, folder: Folder, proof: Proof | None, verifier: Verifier, locked_for: timedelta | None
) -> KnownSet:
    manifest = folder.manifest
    stored_at = folder.objects[MANIFEST if MANIFEST in folder.objects else REJECTED].modified_at
    found = read_pin(catalog, folder.set_id, verifier) if PIN in folder.objects else None
    text = f"{found.reason} ({found.by})" if found else "" if PIN in folder.objects else None
    return KnownSet(
        set_id=folder.set_id,
        taken_at=time_of(folder.set_id),
        stored_at=stored_at,
        state=_state(folder, proof),
        size=sum(info.size for info in folder.objects.values()),
        contents=manifest.contents if manifest else (),
        pin=text,
        baseline=bool(found and found.baseline),
        no_baseline=found.doubt if found else "",
        locked_until=stored_at + locked_for if locked_for else None,
    )


def _state(folder: Folder, proof: Proof | None) -> State:
    if folder.manifest is None or proof is None:
        return "unknown"
    if folder.manifest.verdict == "red":
        return "red"
    return proof if folder.is_whole else "damaged"


def removal_of(folder: Folder, reasons: tuple[str, ...]) -> Removal:
    """Only what is listed, and only if the manifest names it or it is the set's own record."""
    gone = [info for name, info in folder.objects.items() if name in folder.named]
    return Removal(
        set_id=folder.set_id,
        reasons=reasons,
        volumes=tuple(info.key for info in gone),
        records=tuple(folder.objects[name].key for name in _LEFT if name in folder.objects),
        size=sum(info.size for info in gone),
        begun=folder.is_half_gone,
    )


def _foreign(folder: Folder) -> Iterator[str]:
    for name, info in folder.objects.items():
        if name not in folder.named and name not in _CONTROL:
            yield info.key
