"""Look at a host onto which a set may be restored: everything that decides about it, in few round trips.

Nothing is changed there. What cannot be seen is None or absent, and whether that matters is decided elsewhere
(``drtool.core.fitness``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import PurePosixPath

from drtool.clock import Clock
from drtool.core.host import BackupDirectory, Database, Host, Installation, Offset, Place, Room, System, Task
from drtool.core.marker import MARKER, Marker, parse_marker
from drtool.core.versions import Edition, parse_version
from drtool.errors import CommandFailed, HostUnfit, SetDamaged
from drtool.gitlab.archive import INFORMATION, parse_backup_information
from drtool.gitlab.settings import parse_settings, parse_storage_paths
from drtool.hosts import Runner
from drtool.installs import probe
from drtool.installs.omnibus import Omnibus
from drtool.installs.probe import Shown, text_of
from drtool.survey import LOOSE_MEMBERS

STAGING = ".drtool-"
"""How the names of a restore's own directories begin, in GitLab's backup directory."""


def inspect(install: Omnibus, runner: Runner, clock: Clock) -> Host:
    """Describe the host as it is now, with or without a GitLab on it.

    Raises HostUnfit where nothing can be run as the user that was asked for, CommandFailed where the host cannot be
    reached.
    """
    shown = _probe(install, runner)
    installation = _installation(shown)
    directories = [text_of(shown, name) for name in shown if name.startswith("directory ")]
    mounts = text_of(shown, "mounts")
    return Host(
        name=runner.name,
        backup_path=str(install.backup_path),
        system=_system(shown),
        tar=probe.parse_tar(text_of(shown, "tar")),
        clock=_clock(runner, clock),
        rooms=_rooms(install, runner, shown),
        installation=installation,
        remains=text_of(shown, "remains") is not None,
        settings=parse_settings(text_of(shown, "gitlab.yml"), text_of(shown, "database.yml")),
        database=_database(install, runner) if installation else None,
        database_files=probe.parse_number(text_of(shown, "cluster")),
        backups=_backups(install, runner, shown),
        task=_task(shown),
        restoring=text_of(shown, "held") or "",
        mounts_inside=None
        if mounts is None
        else probe.mounts_below(probe.parse_mounts(mounts), filter(None, directories)),
        foreign_directories=tuple(_foreign(shown)),
    )


def _probe(install: Omnibus, runner: Runner) -> Mapping[str, Shown]:
    try:
        return probe.parse_shown(runner.run(probe.probe(install)))
    except CommandFailed as problem:
        if "sudo" not in problem.stderr:
            raise
        raise HostUnfit(
            f"{runner.name}: sudo does not let this user be root without a question",
            hint="Let sudoers allow it every command (NOPASSWD: ALL), or log in as root.",
        ) from problem


def _system(shown: Mapping[str, Shown]) -> System:
    name, version = probe.parse_os_release(text_of(shown, "os"))
    programs = frozenset((text_of(shown, "programs") or "").split())
    return System(
        hostname=text_of(shown, "hostname") or "",
        os=name,
        os_version=version,
        architecture=text_of(shown, "machine") or None,
        user=probe.parse_number(text_of(shown, "user")),
        memory=probe.parse_memory(text_of(shown, "memory")),
        package_manager=probe.parse_package_manager(programs),
        programs=programs,
    )


def _clock(runner: Runner, clock: Clock) -> Offset | None:
    before, began = clock.now(), clock.monotonic()
    try:
        output = runner.run(probe.read_clock())
    except CommandFailed:
        return None
    return probe.parse_offset(output, before, timedelta(seconds=clock.monotonic() - began))


def _rooms(install: Omnibus, runner: Runner, shown: Mapping[str, Shown]) -> tuple[Room, ...]:
    """Measure once the storages are known: their paths are in Gitaly's configuration."""
    storages = parse_storage_paths(text_of(shown, "gitaly.toml")).values()
    data = install.root / "var/opt/gitlab"
    places: list[tuple[Place, PurePosixPath | str]] = [
        ("backups", install.backup_path),
        ("data", data / "gitlab-rails"),
        ("database", data / "postgresql/data"),
        *(("repositories", path) for path in storages or [install.repositories_path]),
        ("root", install.root),
    ]
    try:
        return probe.parse_rooms(probe.parse_shown(runner.run(probe.measure(places))))
    except CommandFailed:
        return ()


def _installation(shown: Mapping[str, Shown]) -> Installation | None:
    version = (text_of(shown, "version") or "").strip()
    if not version:
        return None
    packages = (text_of(shown, "packages") or "").splitlines()
    kind = (text_of(shown, "type") or "").strip() or None
    return Installation("omnibus", version, _edition(version), kind, packages[0] if len(packages) == 1 else None)


def _edition(version: str) -> Edition | None:
    try:
        return parse_version(version).edition
    except HostUnfit:
        return None


def _database(install: Omnibus, runner: Runner) -> Database | None:
    try:
        return probe.parse_database(runner.run(probe.ask_database(install)))
    except CommandFailed:
        return None


def _backups(install: Omnibus, runner: Runner, shown: Mapping[str, Shown]) -> BackupDirectory | None:
    try:
        entries = install.parse_directory(runner.run(install.list_directory(install.backup_path)))
    except CommandFailed:
        return None
    names = [entry.name for entry in entries]
    marked = MARKER in names
    return BackupDirectory(
        loose=tuple(name for name in names if name in LOOSE_MEMBERS),
        information=INFORMATION in names,
        backup_id=_staged(install, runner) if INFORMATION in names else None,
        staging=tuple(name for name in names if name.startswith(STAGING) and name != MARKER),
        moved_aside=tuple((text_of(shown, "aside") or "").splitlines()),
        marked=marked,
        marker=_marker(install, runner) if marked else None,
    )


def _staged(install: Omnibus, runner: Runner) -> str | None:
    try:
        content = runner.run(install.read_file(install.backup_path / INFORMATION))
        return parse_backup_information(content).backup_id
    except (CommandFailed, SetDamaged):
        return None


def _marker(install: Omnibus, runner: Runner) -> Marker | None:
    try:
        return parse_marker(runner.run(install.read_file(install.backup_path / MARKER)))
    except (CommandFailed, HostUnfit):
        return None


def _task(shown: Mapping[str, Shown]) -> Task | None:
    content = (text_of(shown, "task") or "").strip()
    if not content:
        return None
    alive = shown.get("alive")
    return Task(probe.parse_number(content), alive is not None and alive.status == 0)


def _foreign(shown: Mapping[str, Shown]) -> Iterator[str]:
    for name in shown:
        if name.startswith("foreign "):
            yield from (text_of(shown, name) or "").splitlines()
