"""A second copy of a set on another store: its stored bytes, as they are, so no identity is needed.

Any store may be the source, the instance's own as well as that of a copy: so a set comes back, or is mended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO, Literal, cast

from drtool.catalog import MANIFEST, BackupSet, Catalog
from drtool.clock import Clock
from drtool.core.model import Volume
from drtool.errors import ObjectExists, SetDamaged, StoreAccessDenied, StoreError
from drtool.events import Emit, Progress
from drtool.phases import phase
from drtool.stores import CopiesWithin, LocksObjects
from drtool.streams import Source, Tap


@dataclass(frozen=True, slots=True)
class Copied:
    """A set that is complete on both stores.

    ``sent`` volumes travelled, ``by_store`` were copied by the service itself; the others were there: each was read
    and is intact, but for those of a set that ``was_there`` already and of which only sizes were ``looked_at``.
    ``wrong`` says what of such a set was missing or not intact, and is right again.
    """

    set_id: str
    store: str
    volumes: int
    sent: int
    bytes_sent: int
    by_store: int = 0
    was_there: bool = False
    looked_at: Literal["sizes", "bytes"] = "bytes"
    wrong: tuple[str, ...] = ()


def copy(backup_set: BackupSet, to: Catalog, *, clock: Clock, emit: Emit, mend: bool = False) -> Copied:
    """Copy a set whose signature was checked; its manifest comes last, so half a copy is no set.

    Every byte's digest is compared with the manifest on its way; a volume that an interrupted copy left there is read
    and kept if it is intact. So is what the service copied by itself, where both stores are one account's: neither its
    word nor its ETags are a digest. Whatever such a copy lacks, the bytes are sent after all. Of a set that is there
    already, with this very manifest, the volumes that are missing or have another size are sent again; to ``mend`` it,
    every volume is read there, and what is not intact is sent again. Only a set whose signature was checked may mend.
    Raises SetDamaged naming the volume that is not what the manifest says (the set does not become one there then),
    StoreAccessDenied for one that is wrong there and cannot be replaced, ObjectExists, StoreError.
    """
    backup_set.refuse_red()
    manifest = backup_set.manifest
    commit = backup_set.catalog.read_commit(manifest.set_id)
    with phase("copy", f"Copying {manifest.set_id} to {to.store.name}", clock, emit):
        unfit = _unfit_records(to, manifest.set_id, commit, mend=mend)
        if unfit is not None:
            work = _Work(backup_set, to, _locked_until(to, manifest.set_id, clock.now()))
            return _mend(work, unfit, commit, emit, by_bytes=mend)
        to.remove_unfinished()  # none at once: another host may be copying this very set
        work, done = _Work(backup_set, to), 0
        for volume in manifest.volumes:
            to.fence.check()
            if not _intact(work.copied, volume):
                work.bring(volume)
            done += volume.stored_size
            emit(Progress("copy", done, manifest.stored_size))
        to.put_commit(manifest.set_id, commit)
    return work.result()


def _mend(work: _Work, unfit: list[str], commit: Mapping[str, bytes], emit: Emit, *, by_bytes: bool) -> Copied:
    """Look at a set that is committed there, and bring what is not as its manifest says."""
    to, manifest = work.copied.catalog, work.copied.manifest
    found = _read_all(work.copied) if by_bytes else work.copied.look_at_volumes()
    done, wrong = 0, []
    for volume, problem in zip(manifest.volumes, found, strict=True):
        to.fence.check()
        if problem:
            wrong.append(str(problem))
            _replace(work, volume, problem)
        done += volume.stored_size
        emit(Progress("copy", done, manifest.stored_size))
    if unfit:
        to.put_commit(manifest.set_id, commit)
    looked_at: Literal["sizes", "bytes"] = "bytes" if by_bytes else "sizes"
    return replace(work.result(), was_there=True, looked_at=looked_at, wrong=(*wrong, *unfit))


def _read_all(copied: BackupSet) -> Iterator[SetDamaged | None]:
    for volume in copied.manifest.volumes:
        try:
            copied.check_stored(volume)
        except SetDamaged as problem:
            yield problem
        else:
            yield None


def _replace(work: _Work, volume: Volume, wrong: SetDamaged) -> None:
    try:
        work.bring(volume)
    except StoreAccessDenied as refused:
        more = f"keep the set in one more store, `drtool copy {work.copied.manifest.set_id} --to NAME`"
        raise StoreAccessDenied(
            f"{wrong}; and it cannot be replaced: {refused}",
            hint=f"What is locked stays as it is until the lock ends: {more}.",
        ) from refused


class _Work:
    """Brings volumes into a store, and counts them. ``locked_until``: at least as long as the set's own records are."""

    def __init__(self, backup_set: BackupSet, to: Catalog, locked_until: datetime | None = None) -> None:
        self.copied = BackupSet(to, backup_set.manifest)
        self._set, self._to = backup_set, to
        self._locked_until = locked_until
        self._sent: list[Volume] = []
        self._by_store = 0

    def bring(self, volume: Volume) -> None:
        """Let the service copy it if it can and does it right; else send it."""
        if _copied_within(self._set, volume, self._to) and _intact(self.copied, volume):
            self._lock(volume, self._to.lock_until(self._set.manifest.set_id))
            self._by_store += 1
        else:
            _send(self._set, volume, self._to)
            self._sent.append(volume)
        self._lock(volume, self._locked_until)

    def result(self) -> Copied:
        manifest, size = self._set.manifest, sum(volume.stored_size for volume in self._sent)
        name, volumes = self._to.store.name, len(manifest.volumes)
        return Copied(manifest.set_id, name, volumes, len(self._sent), size, self._by_store)

    def _lock(self, volume: Volume, until: datetime | None) -> None:
        """Lock what lies there: copies that a service made have no lock, whatever their originals have."""
        if until and isinstance(self._to.store, LocksObjects):
            self._to.store.extend_lock(self._to.key(self._set.manifest.set_id, volume.name), until)


def _locked_until(to: Catalog, set_id: str, now: datetime) -> datetime | None:
    """Until when the set's manifest is locked, whose lock stands for those of all its volumes. None: it is not."""
    if not isinstance(to.store, LocksObjects) or to.store.capabilities.lock != "object":
        return None
    until = to.store.locked_until(to.key(set_id, MANIFEST))
    return until if until and until > now else None


def _unfit_records(to: Catalog, set_id: str, commit: Mapping[str, bytes], *, mend: bool) -> list[str] | None:
    """What is wrong with the records of the set that is there; None if there is none. Raises ObjectExists.

    A signature that is missing comes back; another one is replaced only to ``mend``: the one to come was checked then.
    """
    if to.is_being_removed(set_id):
        raise ObjectExists(
            f"{set_id} is being removed from {to.store.name}", hint="Prune there first, then copy again."
        )
    if not to.is_committed(set_id):
        return None
    there = to.read_commit(set_id)
    changed = [name for name, text in commit.items() if there.get(name, text) != text]
    if MANIFEST in changed or (changed and not mend):
        raise ObjectExists(
            f"{to.key(set_id, changed[0])} in {to.store.name} is another set's, or was changed",
            hint="Verify both, and move the wrong one away.",
        )
    missing = [f"{to.key(set_id, name)}: is missing from {to.store.name}" for name in commit if name not in there]
    return [*missing, *(f"{to.key(set_id, name)}: is another than the one that was checked" for name in changed)]


def _intact(copied: BackupSet, volume: Volume) -> bool:
    try:
        copied.check_stored(volume)
    except SetDamaged:
        return False
    return True


def _copied_within(backup_set: BackupSet, volume: Volume, to: Catalog) -> bool:
    """Let the service copy a volume if it can. Its refusal is no error: the bytes have another way."""
    if not isinstance(to.store, CopiesWithin):
        return False
    try:
        return to.store.copy_from(backup_set.catalog.store, to.key(backup_set.manifest.set_id, volume.name))
    except StoreError:
        return False


def _send(backup_set: BackupSet, volume: Volume, to: Catalog) -> None:
    set_id = backup_set.manifest.set_id
    with backup_set.open_volume(volume) as body:
        proven = _Proven(backup_set, volume, cast(BinaryIO, body))
        to.store.put(
            to.key(set_id, volume.name),
            cast(BinaryIO, proven),
            size_hint=volume.stored_size,
            lock_until=to.lock_until(set_id),
        )


class _Proven(Source):
    """A volume's stored bytes whose end comes only if they were the right ones: a store keeps nothing else."""

    def __init__(self, backup_set: BackupSet, volume: Volume, body: BinaryIO) -> None:
        self._set = backup_set
        self._volume = volume
        self._tap = Tap(body)

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        data = self._tap.read(size)
        if not data and size:
            self._set.compare_stored(self._volume, self._tap)
        return data
