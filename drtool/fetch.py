"""Bring a set's archives out of the store as plain tars, for whoever wants to restore by hand."""

from __future__ import annotations

from pathlib import Path

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.events import Emit, Progress
from drtool.files import make_private, new_file, refuse_existing
from drtool.journal import sync_directory
from drtool.phases import copy_scanned, phase


def fetch(backup_set: BackupSet, into: Path, *, clock: Clock, emit: Emit) -> tuple[Path, ...]:
    """Write ``<archive>.tar`` for every archive, and the manifest with its signature, into ``into``; return paths.

    A file gets its name only when all of it is proven; what an interrupted fetch left is replaced. Raises ConfigError
    when something of that name is there already, SetDamaged, IdentityMismatch, StoreError.
    """
    targets = {archive.name: into / f"{archive.name}.tar" for archive in backup_set.manifest.archives}
    for target in targets.values():
        refuse_existing(target)
    make_private(into, exist_ok=True)
    for name, target in targets.items():
        with phase(f"fetch-{name}", f"Fetching the {name} archive", clock, emit):
            _fetch_archive(backup_set, name, target, emit)
    commit = backup_set.catalog.read_commit(backup_set.manifest.set_id)
    for name, text in commit.items():
        (into / name).write_bytes(text)
    sync_directory(into)
    return (*targets.values(), *(into / name for name in commit))


def _fetch_archive(backup_set: BackupSet, name: str, target: Path, emit: Emit) -> None:
    total = backup_set.manifest.archive(name).size
    with new_file(target) as file:
        for done in copy_scanned(backup_set.read_archive(name), file, name):
            emit(Progress(f"fetch-{name}", done, total))
