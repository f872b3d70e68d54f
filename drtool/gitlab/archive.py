"""What GitLab's backup archives are made of: names, members, ``backup_information.yml``.

Facts are GitLab's own, read in the code of 18.9 and seen in real archives from 10 to 18; older shapes are understood
where they cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Final, Literal

from drtool.core.versions import parse_version
from drtool.errors import HostUnfit, SetDamaged
from drtool.gitlab.scan import RECORD, GzipCheck, Kind, Member, Sink, TarScanner

__all__ = [
    "ARCHIVE_SUFFIX",
    "COMPONENTS",
    "INFORMATION",
    "OPERATIONS",
    "RECORD",
    "BackupInformation",
    "BackupName",
    "Component",
    "Contents",
    "GzipCheck",
    "Kind",
    "Member",
    "Sink",
    "TarScanner",
    "contents_of",
    "expected_members",
    "order_members",
    "parse_archive_name",
    "parse_backup_information",
    "repository_manifests",
]

ARCHIVE_SUFFIX: Final = "_gitlab_backup.tar"
INFORMATION: Final = "backup_information.yml"
OPERATIONS: Final = frozenset({"tar", "remote"})
"""What SKIP may name besides components."""
_LONGEST_INFORMATION = 1 << 20


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a backup: its id in SKIP, its top-level member, and its name in what GitLab prints.

    ``since`` is the first release that certainly has it; None where that is not known, so that it is never demanded.
    """

    id: str
    member: str
    title: str
    since: tuple[int, int] | None


# In the order in which GitLab makes and packs them. Source: GitLab 18.9; the last two came with 19.x, whose place in
# the order and whose titles are not confirmed.
COMPONENTS: Final = (
    Component("db", "db", "database", (0, 0)),
    Component("repositories", "repositories", "repositories", (0, 0)),
    Component("uploads", "uploads.tar.gz", "uploads", (0, 0)),
    Component("builds", "builds.tar.gz", "builds", (0, 0)),
    Component("artifacts", "artifacts.tar.gz", "artifacts", (0, 0)),
    Component("pages", "pages.tar.gz", "pages", (9, 0)),  # before in the Enterprise Edition only
    Component("lfs", "lfs.tar.gz", "lfs objects", (9, 0)),  # since 8.2
    Component("terraform_state", "terraform_state.tar.gz", "terraform states", (15, 0)),
    Component("registry", "registry.tar.gz", "container registry images", (0, 0)),
    Component("packages", "packages.tar.gz", "packages", (15, 0)),
    Component("ci_secure_files", "ci_secure_files.tar.gz", "ci secure files", (16, 1)),
    Component("external_diffs", "external_diffs.tar.gz", "external diffs", (17, 1)),
    Component("agent_plan_content", "agent_plan_content.tar.gz", "agent plan content", None),
    Component("ci_catalog_bundles", "ci_catalog_bundles.tar.gz", "ci catalog bundles", None),
)
Contents = Literal["everything", "database only", "no database", "parts"]

_ORDER = {INFORMATION: 0} | {component.member: place for place, component in enumerate(COMPONENTS, 1)}


@dataclass(frozen=True, slots=True)
class BackupInformation:
    """The content of ``backup_information.yml``.

    ``backup_id`` is empty before 16.8; ``full_backup_id`` is set by increments only.
    ``skipped`` holds what SKIP named: component ids, and ``tar`` and ``remote``. Components that are switched off in
    the configuration are not in it.
    """

    db_version: str
    created_at: datetime
    gitlab_version: str
    tar_version: str = ""
    installation_type: str = ""
    skipped: tuple[str, ...] = ()
    backup_id: str = ""
    full_backup_id: str = ""
    repositories_storages: tuple[str, ...] = ()
    repositories_paths: tuple[str, ...] = ()
    skip_repositories_paths: tuple[str, ...] = ()
    repositories_server_side: bool = False

    @property
    def incremental(self) -> bool:
        return bool(self.full_backup_id) and self.full_backup_id != self.backup_id


@dataclass(frozen=True, slots=True)
class BackupName:
    """What a file name tells. A custom one (``BACKUP=…``) has no ``created_at``; none before 9.2 a version."""

    backup_id: str
    created_at: datetime | None = None
    version: str | None = None


_STAMPED = re.compile(r"(?P<epoch>\d{10})(?:_\d{4}_\d\d_\d\d(?:_(?P<version>\d+\.\d+\.\d+[0-9A-Za-z.-]*))?)?")


def parse_archive_name(name: str) -> BackupName | None:
    """Read a name or path like ``1770480592_2026_02_07_18.6.2_gitlab_backup.tar``; None if it is no archive's."""
    base = PurePosixPath(name).name
    backup_id = base.removesuffix(ARCHIVE_SUFFIX)
    if backup_id in {base, ""}:
        return None
    stamped = _STAMPED.fullmatch(backup_id)
    if not stamped:
        return BackupName(backup_id)
    # The date is the server's local one; only the seconds are sure.
    return BackupName(backup_id, datetime.fromtimestamp(int(stamped["epoch"]), UTC), stamped["version"])


def contents_of(information: BackupInformation) -> Contents:
    """Tell by what was skipped whether an archive is a whole backup.

    A package upgrade makes one of the database only, under a perfectly normal name.
    """
    present = {component.id for component in _components_of(information)}
    kept = present.difference(information.skipped)
    if kept == {"db"}:
        return "database only"
    if "db" not in kept:
        return "no database"
    return "everything" if kept == present else "parts"


def expected_members(information: BackupInformation, *, disabled: Collection[str] = ()) -> tuple[str, ...]:
    """Name the files that a complete backup must hold, by what its own information says, in GitLab's order.

    ``disabled`` are ids of components that the configuration switches off (``registry`` on most hosts). Repositories
    are never in it: an instance without any has no directory for them.
    """
    left_out = {*information.skipped, *disabled, "repositories"}
    wanted = [component for component in _components_of(information) if component.id not in left_out]
    return (INFORMATION, *("db/database.sql.gz" if c.id == "db" else c.member for c in wanted))


def _components_of(information: BackupInformation) -> list[Component]:
    """What every backup of this version certainly has, if nothing was skipped."""
    try:
        version = parse_version(information.gitlab_version)
    except HostUnfit as error:
        raise SetDamaged(f"{INFORMATION}: {error}") from error
    return [component for component in COMPONENTS if component.since and version.at_least(*component.since)]


def repository_manifests(members: Iterable[Member], backup_id: str) -> set[tuple[str, str]]:
    """Find the repositories that this backup can restore, as (storage, relative path ending in ``.git``).

    Only a manifest of exactly this id counts: that is what restore asks for (Gitaly 16.11). GitLab writes manifests
    since 16.6; older archives have none.
    """
    front, end = "repositories/manifests/", f"/{backup_id}.toml"
    found = set()
    for member in members:
        if member.kind == "file" and member.size and member.name.startswith(front) and member.name.endswith(end):
            storage, slash, path = member.name[len(front) : -len(end)].partition("/")
            if slash and path:
                found.add((storage, path))
    return found


def order_members(names: Iterable[str]) -> list[str]:
    """Sort top-level names as GitLab packs them: information first, db, repositories, tarballs; unknown ones last."""
    return sorted(names, key=lambda name: (_ORDER.get(name.rstrip("/"), len(_ORDER)), name))


def parse_backup_information(text: bytes) -> BackupInformation:
    """Read ``backup_information.yml`` of any version; its YAML tags are never run. SetDamaged names what is wrong."""
    entries = _entries(text)
    try:
        return BackupInformation(
            db_version=_required(entries, "db_version"),
            created_at=_time(_required(entries, "backup_created_at")),
            gitlab_version=_required(entries, "gitlab_version"),
            tar_version=entries.get("tar_version", ""),
            installation_type=entries.get("installation_type", ""),
            skipped=_words(entries, "skipped"),
            backup_id=entries.get("backup_id", ""),
            full_backup_id=entries.get("full_backup_id", ""),
            repositories_storages=_words(entries, "repositories_storages"),
            repositories_paths=_words(entries, "repositories_paths"),
            skip_repositories_paths=_words(entries, "skip_repositories_paths"),
            repositories_server_side=_flag(entries, "repositories_server_side"),
        )
    except ValueError as error:
        raise SetDamaged(f"{INFORMATION}: {error}") from error


_ENTRY = re.compile(r":([A-Za-z_]\w*):(?:[ \t]+(.*))?")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?\s*(?:Z|UTC|([+-])(\d\d):?(\d\d))?",
)


def _entries(text: bytes) -> dict[str, str]:
    """Read Ruby's symbol-keyed mapping: ``:key: value`` lines, and indented lines that go on with a value."""
    if len(text) > _LONGEST_INFORMATION:
        raise SetDamaged(f"{INFORMATION} has {len(text)} bytes")
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError as error:
        raise SetDamaged(f"{INFORMATION} is no text: {error}") from error
    raw: dict[str, list[str]] = {}
    values: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("---")):
            continue
        if values is not None and line[0] in " \t":
            values.append(line.strip())
            continue
        found = _ENTRY.fullmatch(line.rstrip())
        if not found or found[1] in raw:
            raise SetDamaged(f"{INFORMATION}: line {number} is not understood: {line[:80]!r}")
        values = raw[found[1]] = [found[2] or ""]
    return {key: _scalar(key, [part for part in parts if part]) for key, parts in raw.items()}


def _scalar(key: str, parts: list[str]) -> str:
    if parts and parts[0].startswith("!ruby/object:ActiveSupport::TimeWithZone"):
        # A tagged mapping since about GitLab 14: utc, zone, time. The first is all there is to know.
        parts = [part.removeprefix("utc:").strip() for part in parts if part.startswith("utc:")]
    value = " ".join(parts)
    if value in {"", "~", "null"}:
        return ""
    if value[0] in "'\"":
        if len(value) < 2 or value[-1] != value[0]:
            raise SetDamaged(f"{INFORMATION}: the value of :{key}: has no closing quote")
        return value[1:-1].replace(value[0] * 2 if value[0] == "'" else '\\"', value[0])
    if value[0] in "!&*|>{[":
        raise SetDamaged(f"{INFORMATION}: the value of :{key}: is not understood: {value[:80]!r}")
    return value


def _required(entries: dict[str, str], key: str) -> str:
    if not entries.get(key):
        raise SetDamaged(f"{INFORMATION} has no :{key}:")
    return entries[key]


def _words(entries: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in entries.get(key, "").split(",") if word.strip())


def _flag(entries: dict[str, str], key: str) -> bool:
    value = entries.get(key, "")
    if value not in {"", "true", "false"}:
        raise ValueError(f":{key}: is neither true nor false: {value[:80]!r}")
    return value == "true"


def _time(value: str) -> datetime:
    found = _TIME.fullmatch(value)
    if not found:
        raise ValueError(f":backup_created_at: is no time: {value[:80]!r}")
    day, clock, fraction, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    zone = timezone(-offset if sign == "-" else offset)
    # Ruby writes nanoseconds, datetime keeps microseconds.
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    return datetime.fromisoformat(f"{day}T{clock}").replace(microsecond=micro, tzinfo=zone).astimezone(UTC)
