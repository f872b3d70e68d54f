"""What the restore of one set asks of its target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from drtool.core.model import Manifest


@dataclass(frozen=True, slots=True)
class Needs:
    """What a restore asks of its target. Sizes in bytes; None where the set does not know.

    ``brings_configuration`` says that the set's own gitlab.rb comes into force before the data: then what the target's
    says is only news. ``database_elsewhere`` says that the set's configuration has its database on another machine.
    ``replace`` is the hostname whose projects may be replaced. ``run_id`` and ``holder`` are the run that looks: its
    own mark and lock are no obstacles. ``installs`` says that GitLab is installed where there is none; ``as_root`` is
    false for a sandbox, whose files are those of its user.
    """

    set_id: str
    version: str
    staged_size: int
    staged_members: int
    files_size: int | None = None
    files: int = 0
    repositories: int = 0
    registry: bool | None = None
    architecture: str | None = None
    postgresql: int | None = None
    storages: tuple[str, ...] | None = None
    database_elsewhere: bool = False
    brings_configuration: bool = True
    safety_copy: bool = True
    unseal_on_host: bool = False
    replace: str | None = None
    run_id: str = ""
    holder: str = ""
    installs: bool = False
    as_root: bool = True


def needs_of(manifest: Manifest, components: Collection[str]) -> Needs:
    """Read from a manifest what its restore needs; the rest is for the caller to ``replace``.

    ``components`` are the ids of those that are made of files.
    """
    tallies = [tally for tally in manifest.contents if tally.name in components]
    application, host = manifest.archive("application"), manifest.host
    counted = any(tally.name == "registry" for tally in tallies)
    return Needs(
        set_id=manifest.set_id,
        version=manifest.gitlab.version,
        staged_size=application.size,
        staged_members=application.members,
        files_size=sum(tally.size for tally in tallies) if tallies else None,
        files=sum(tally.count for tally in tallies),
        repositories=manifest.gitlab.repositories,
        architecture=host.architecture if host else None,
        postgresql=host.postgresql if host else None,
        storages=host.storages or None if host else None,
        database_elsewhere=bool(host and host.database_elsewhere),
        registry=True if counted else False if "registry" in manifest.gitlab.disabled else None,
    )
