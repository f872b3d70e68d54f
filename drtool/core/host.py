"""What was seen of a host that GitLab may be restored onto. None always means that it could not be seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from drtool.core.marker import Marker
from drtool.core.versions import Edition

Place = Literal["backups", "data", "database", "repositories", "root"]
PackageManager = Literal["apt", "dnf", "none"]


@dataclass(frozen=True, slots=True)
class System:
    """The machine below GitLab. ``os`` and ``os_version`` are ID and VERSION_ID of /etc/os-release; sizes in bytes."""

    hostname: str
    os: str | None
    os_version: str | None
    architecture: str | None
    user: int | None
    memory: int | None
    package_manager: PackageManager
    programs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tar:
    """The host's tar. ``release`` is None where its first line names none."""

    kind: Literal["gnu", "bsd", "busybox", "other"]
    release: tuple[int, int] | None
    text: str


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the host's clock is ahead of ours (behind: negative), give or take ``uncertainty``."""

    ahead: timedelta
    uncertainty: timedelta


@dataclass(frozen=True, slots=True)
class Room:
    """The file system that a path is on, or would be on once it is made.

    ``device`` tells whether two places share one. ``inodes`` is None where the file system has no fixed number.
    """

    place: Place
    path: str
    device: str
    mount: str
    total: int
    free: int
    inodes: int | None
    free_inodes: int | None


@dataclass(frozen=True, slots=True)
class Installation:
    """The GitLab that is there. ``package`` as dpkg or rpm names it: ``gitlab-ee 18.9.0-ee.0``."""

    kind: Literal["omnibus"]
    version: str
    edition: Edition | None
    installation_type: str | None
    package: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What GitLab's rendered configuration says, as far as a restore depends on it; nothing secret.

    ``database_host`` is empty for a database on the host itself. ``object_storage`` names components whose files are
    kept elsewhere. ``remote_storages`` are those whose Gitaly is another machine.
    """

    registry: bool | None
    storages: tuple[str, ...] | None
    remote_storages: tuple[str, ...]
    object_storage: tuple[str, ...]
    database_host: str | None
    backup_path: str | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """What GitLab's own database answered; sizes in bytes. ``stored`` is what its projects occupy besides it."""

    postgresql: int
    projects: int
    size: int
    stored: int | None
    materialized_views: int


@dataclass(frozen=True, slots=True)
class BackupDirectory:
    """What lies in GitLab's backup directory and would be in the way.

    ``information`` says whether there is a loose ``backup_information.yml``; ``backup_id`` is None where that cannot be
    read, empty where it has none. ``moved_aside`` are names in ``tmp``: data that a restore of GitLab's own was about
    to replace. ``marker`` is None besides ``marked`` where the mark cannot be read.
    """

    loose: tuple[str, ...]
    information: bool
    backup_id: str | None
    staging: tuple[str, ...]
    moved_aside: tuple[str, ...]
    marked: bool
    marker: Marker | None


@dataclass(frozen=True, slots=True)
class Task:
    """What the lock of GitLab's own backup and restore says. ``pid`` is None where it is no process number."""

    pid: int | None
    alive: bool


@dataclass(frozen=True, slots=True)
class Host:
    """A host as one look at it found it. ``name`` is how drtool reaches it.

    ``installation`` is None without GitLab; ``remains`` says that there are files of a database or of repositories,
    which a package leaves when it is removed. ``database`` is None without an answer, ``settings`` before the first
    reconfigure or where they cannot be understood, ``backups`` without a backup directory. ``restoring`` is who holds
    the lock of a restore right now, empty where nobody was seen to.
    ``mounts_inside`` are mount points below directories whose content GitLab moves aside, ``foreign_directories``
    what lies in those and belongs to somebody else than the directory: GitLab's restore, which runs as git, fails at
    both, when the database is replaced already.
    """

    name: str
    backup_path: str
    system: System
    tar: Tar | None
    clock: Offset | None
    rooms: tuple[Room, ...]
    installation: Installation | None
    remains: bool
    settings: Settings | None
    database: Database | None
    database_files: int | None
    backups: BackupDirectory | None
    task: Task | None
    restoring: str
    mounts_inside: tuple[str, ...] | None
    foreign_directories: tuple[str, ...]

    @property
    def projects(self) -> int | None:
        """How many it holds; None when its database does not answer, which is not the same as none."""
        if self.installation and self.database:
            return self.database.projects
        never_configured = self.installation is None or self.settings is None
        return 0 if never_configured and not self.remains else None

    @property
    def empty(self) -> bool:
        """Nothing to lose here, and nothing half replaced."""
        return self.projects == 0 and not self.half_replaced

    @property
    def half_replaced(self) -> Marker | None:
        """The restore that did not end, and had begun to replace what was here."""
        mark = self.backups.marker if self.backups else None
        return mark if mark and mark.phase == "replacing" else None

    @property
    def postgresql(self) -> int | None:
        """The major of the server that runs, else the one whose files are there."""
        return self.database.postgresql if self.database else self.database_files

    def room(self, place: Place) -> Room | None:
        return next((room for room in self.rooms if room.place == place), None)
