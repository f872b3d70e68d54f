"""A second copy of a set on another store: its stored bytes, as they are, so no identity is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

from drtool.catalog import MANIFEST, BackupSet, Catalog
from drtool.clock import Clock
from drtool.core.model import Volume
from drtool.errors import ObjectExists, SetDamaged, StoreError
from drtool.events import Emit, Progress
from drtool.phases import phase
from drtool.stores import CopiesWithin, LocksObjects
from drtool.streams import Source, Tap


@dataclass(frozen=True, slots=True)
class Copied:
    """A set that is complete on both stores.

    ``sent`` volumes travelled, ``by_store`` were copied by the service itself; the others were there and intact.
    """

    set_id: str
    store: str
    volumes: int
    sent: int
    bytes_sent: int
    by_store: int = 0


def copy(backup_set: BackupSet, to: Catalog, *, clock: Clock, emit: Emit) -> Copied:
    """Copy a set whose signature was checked; its manifest comes last, so half a copy is no set.

    Every byte's digest is compared with the manifest on its way; a volume that an interrupted copy left there is read
    and kept if it is intact. So is what the service copied by itself, where both stores are one account's: neither its
    word nor its ETags are a digest. Whatever such a copy lacks, the bytes are sent after all. A set that is there
    already, with this very manifest, is left alone. Raises SetDamaged naming the volume that is not what the manifest
    says (the set does not become one there then), StoreError.
    """
    backup_set.refuse_red()
    manifest = backup_set.manifest
    commit = backup_set.catalog.read_commit(manifest.set_id)
    copied = BackupSet(to, manifest)
    total = manifest.stored_size
    done = sent = bytes_sent = by_store = 0
    with phase("copy", f"Copying {manifest.set_id} to {to.store.name}", clock, emit):
        if not _is_there(to, manifest.set_id, commit):
            to.remove_unfinished()  # none at once: another host may be copying this very set
            for volume in manifest.volumes:
                to.fence.check()
                if _intact(copied, volume):
                    pass
                elif _copied_within(backup_set, volume, to) and _intact(copied, volume):
                    _lock(to, manifest.set_id, volume)
                    by_store += 1
                else:
                    _send(backup_set, volume, to)
                    sent, bytes_sent = sent + 1, bytes_sent + volume.stored_size
                done += volume.stored_size
                emit(Progress("copy", done, total))
            to.put_commit(manifest.set_id, commit)
    return Copied(manifest.set_id, to.store.name, len(manifest.volumes), sent, bytes_sent, by_store)


def _is_there(to: Catalog, set_id: str, commit: Mapping[str, bytes]) -> bool:
    if to.is_being_removed(set_id):
        raise ObjectExists(
            f"{set_id} is being removed from {to.store.name}", hint="Prune there first, then copy again."
        )
    if not to.is_committed(set_id):
        return False
    if to.read_commit(set_id) != commit:
        raise ObjectExists(
            f"{to.key(set_id, MANIFEST)} in {to.store.name} is another set's, or was changed",
            hint="Verify both, and move the wrong one away.",
        )
    return True


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


def _lock(to: Catalog, set_id: str, volume: Volume) -> None:
    """Lock what the service copied: its copies have no lock, whatever their originals have."""
    until = to.lock_until(set_id)
    if until and isinstance(to.store, LocksObjects):
        to.store.extend_lock(to.key(set_id, volume.name), until)


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
