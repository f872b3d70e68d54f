"""Can a set be restored onto this host? Decided from what was seen, before anything there is touched. Pure.

GitLab's own restore checks the version and, since 19, free space; everything else it finds out when the database is
replaced already. What could not be seen refuses where a wrong guess would cost data, and is passed over elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final

from drtool.core.host import BackupDirectory, Host, Place
from drtool.core.machine import judge_machine, judge_rights
from drtool.core.marker import SAFETY
from drtool.core.model import is_set_id
from drtool.core.needs import Needs
from drtool.core.obstacles import Obstacle, Severity
from drtool.core.room import judge_room, size_text
from drtool.core.versions import Edition, package_for, parse_version, same_version
from drtool.errors import Busy, HostUnfit, TargetHoldsData, VersionMismatch

EXTERNAL_DATABASE: Final = "external-database"
"""What to name instead of a host when the database of another machine may be replaced."""


def judge_target(host: Host, needs: Needs) -> tuple[Obstacle, ...]:
    """Name everything in the way, what refuses first; empty when nothing is."""
    found = [obstacle for judge in _JUDGES for obstacle in judge(host, needs)]
    return tuple(sorted(found, key=lambda obstacle: obstacle.severity != "refuse"))


def _gitlab(host: Host, needs: Needs) -> Iterator[Obstacle]:
    there = host.installation
    if there is None:
        yield from _install(host, needs)
        return
    try:
        same_version(needs.version, there.version)
    except VersionMismatch as problem:
        other = _other_edition_only(needs.version, there.version)
        upwards = other and _edition(needs.version) == "ce"
        note = " (the other edition goes over it after the restore, not before)" if upwards else ""
        message = f"{host.name}: {problem}"
        yield Obstacle("edition" if other else "version", message, problem.hint + note, VersionMismatch)


def _install(host: Host, needs: Needs) -> Iterator[Obstacle]:
    package = _package(needs.version)
    if package is None:
        yield Obstacle(
            "no-gitlab",
            f"{host.name}: no GitLab there, and no package of {needs.version} was ever published",
            "Install exactly the set's build there first.",
        )
    elif not needs.installs:
        remedy = f"Let --install put {package} there, or install exactly that first."
        yield Obstacle("no-gitlab", f"{host.name}: no GitLab there", remedy)
    elif host.system.package_manager == "none":
        message = f"{host.name}: no GitLab there, and neither apt-get nor dnf to install it with"
        yield Obstacle("package-manager", message, f"Install {package} there first.")


def _holding(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """Other restores: one that is at work, and one that never ended."""
    if host.restoring and host.restoring != needs.holder:
        yield Obstacle(
            "restoring",
            f"{host.name}: another restore onto it is at work: {host.restoring}",
            "Wait for it to end, or end it where it runs; then run this again.",
            Busy,
        )
    backups = host.backups
    if backups is None or not backups.marked:
        return
    mark = backups.marker
    if mark is None:
        yield Obstacle(
            "unfinished",
            f"{host.name}: a restore was begun there and did not end, and its mark cannot be read",
            "Use the drtool that began it, or look at the host and move the mark out of the backup directory.",
        )
    elif mark.run_id != needs.run_id and mark.phase == "staging":
        yield Obstacle(
            "abandoned",
            f"{host.name}: {mark}, which had replaced nothing yet",
            f"To go on with that one instead, on {mark.by}: --resume {mark.run_id}",
            severity="warn",
        )
    elif mark.run_id != needs.run_id and needs.replace != host.system.hostname:
        yield Obstacle(
            "unfinished",
            f"{host.name}: {mark}",
            f"Finish it on {mark.by} with --resume {mark.run_id}, bring back what was there with --undo {mark.run_id},"
            f" or replace what it left with --yes-replace {host.system.hostname}.",
            TargetHoldsData,
        )


def _leftovers(host: Host, needs: Needs) -> Iterator[Obstacle]:
    backups = host.backups
    if backups is None:
        if host.installation is not None:
            yield Obstacle(
                "backup-path",
                f"{host.name}: {host.backup_path} cannot be read",
                "If GitLab's backup_path was changed there, set backup_path in drtool.toml too.",
            )
        return
    yield from _loose(host, backups)
    ours = [name for name in backups.staging if not needs.run_id or needs.run_id not in name]
    if ours:
        yield Obstacle(
            "staging",
            f"{host.name}: {len(ours)} staging areas of earlier restores in {host.backup_path}",
            "Nothing to do: they go before GitLab restores.",
            severity="warn",
        )
    if backups.moved_aside:
        yield Obstacle(
            "moved-aside",
            f"{host.name}: tmp in {host.backup_path} holds what a broken-off restore of GitLab's own moved aside",
            "Move it away if it may be wanted: GitLab deletes it at the end of any restore.",
            severity="warn",
        )


def _loose(host: Host, backups: BackupDirectory) -> Iterator[Obstacle]:
    if backups.information and not (backups.backup_id and _is_ours(backups.backup_id)):
        name = backups.backup_id or ("without an id" if backups.backup_id == "" else "that cannot be told")
        yield Obstacle(
            "loose-members",
            f"{host.name}: {host.backup_path} holds the loose members of backup {name}",
            "Move them away first: GitLab would take those for the backup to restore.",
        )
    elif backups.loose:
        yield Obstacle(
            "leftovers",
            f"{host.name}: {host.backup_path} holds {len(backups.loose)} loose members of an interrupted backup",
            "Nothing to do: they go before GitLab restores.",
            severity="warn",
        )


def _is_ours(backup_id: str) -> bool:
    return is_set_id(backup_id) or backup_id.startswith(SAFETY)


def _data(host: Host, needs: Needs) -> Iterator[Obstacle]:
    if needs.database_elsewhere and needs.replace != EXTERNAL_DATABASE:
        yield Obstacle(
            "database-elsewhere",
            f"{host.name}: the set's configuration has its database on another machine, and that is what is replaced",
            f"If that database may go: --yes-replace {EXTERNAL_DATABASE}",
            TargetHoldsData,
        )
    if host.empty or host.half_replaced or needs.replace == host.system.hostname:
        return
    if host.installation is None:
        what = "a GitLab that was removed left its data there"
    else:
        what = "its database does not answer" if host.projects is None else f"it holds {host.projects} projects"
    wrong = f", and is not called {needs.replace}" if needs.replace else ""
    yield Obstacle(
        "populated",
        f"{host.name}: {host.system.hostname} is not empty: {what}{wrong}",
        f"To replace what is there, after a safety copy: --yes-replace {host.system.hostname}",
        TargetHoldsData,
    )


def _database(host: Host, needs: Needs) -> Iterator[Obstacle]:
    if needs.postgresql is not None and host.postgresql is not None and host.postgresql < needs.postgresql:
        yield Obstacle(
            "postgresql",
            f"{host.name}: PostgreSQL {host.postgresql} there, the set's dump is of {needs.postgresql}",
            "Bring it to the set's major first: gitlab-ctl pg-upgrade.",
        )
    if host.database and host.database.materialized_views:
        yield Obstacle(
            "materialized-views",
            f"{host.name}: {host.database.materialized_views} materialized views in GitLab's database",
            "Drop them first: GitLab's restore empties the database and stops at them half-way.",
        )


def judge_settings(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """What the target's configuration has otherwise than the set. Of no weight once the set's own is in force."""
    there = host.settings
    if there is None:
        if host.installation is not None and not needs.brings_configuration:
            yield Obstacle(
                "settings-unknown",
                f"{host.name}: whether its registry and storages are those of the set could not be seen",
                "Run `gitlab-ctl reconfigure` there once, so that GitLab's configuration can be read.",
                severity="warn",
            )
        return
    severity: Severity = "warn" if needs.brings_configuration else "refuse"
    news = "Nothing to do: the set's own configuration comes into force before the data."
    if there.registry is not None and needs.registry is not None and there.registry != needs.registry:
        on, off = ("the set", "the host") if needs.registry else ("the host", "the set")
        remedy = f"Set registry['enable'] = {str(needs.registry).lower()} in its gitlab.rb, and reconfigure."
        yield Obstacle(
            "registry",
            f"{host.name}: the container registry is on in {on} and off in {off}",
            news if needs.brings_configuration else remedy,
            severity=severity,
        )
    missing = sorted(set(needs.storages or ()) - set(there.storages or needs.storages or ()))
    if missing:
        yield Obstacle(
            "storages",
            f"{host.name}: no repository storage is called {', '.join(missing)} there",
            news if needs.brings_configuration else "Add it to gitlab.rb there, and reconfigure.",
            severity=severity,
        )
    yield from _other_backup_path(host, needs)
    yield from _elsewhere(host, needs)


def _other_backup_path(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """GitLab would restore another backup than the one shown to it, or keep its safety copy where nobody looks."""
    path = host.settings.backup_path if host.settings else None
    if path is None or PurePosixPath(path) == PurePosixPath(host.backup_path):
        return
    copies = needs.safety_copy and not host.empty and not host.half_replaced
    yield Obstacle(
        "backup-path",
        f"{host.name}: GitLab's backup_path there is {path}, and drtool's {host.backup_path}",
        "Let both be the same: backup_path in drtool.toml, and gitlab_rails['backup_path'] in the host's gitlab.rb.",
        severity="refuse" if copies or not needs.brings_configuration else "warn",
    )


def _elsewhere(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """Data of the target that is not on the target."""
    there = host.settings
    assert there is not None
    kept = []
    if there.database_host:
        kept.append(f"its database on {there.database_host}")
    if there.remote_storages:
        kept.append(f"repositories of {', '.join(there.remote_storages)} on another Gitaly")
    if there.object_storage:
        kept.append(f"{', '.join(there.object_storage)} in object storage")
    if kept:
        remedy = "Look whether the set's configuration points to the same: a restore replaces what is there."
        own = "A restore replaces what is there; files of the set come back on the host itself, not in object storage."
        message = f"{host.name}: its configuration keeps data elsewhere: {'; '.join(kept)}"
        yield Obstacle("elsewhere", message, remedy if needs.brings_configuration else own, severity="warn")


def _room(host: Host, needs: Needs) -> Iterator[Obstacle]:
    held = 0
    if needs.safety_copy and host.database and not host.empty and not host.half_replaced:
        held = host.database.size + (host.database.stored or 0)
    for short in judge_room(
        host.rooms,
        staged=needs.staged_size,
        members=needs.staged_members,
        files=needs.files_size,
        file_count=needs.files,
        repositories=needs.repositories,
        held=held,
    ):
        message = f"{host.name}: {short.mount} has {short.free} free, needed are {short.needed} for {short.why}"
        remedy = "Make room there, or give it a larger disk."
        yield Obstacle(short.code, message, remedy, severity="refuse" if short.certain else "warn")
    unseen = [place for place in _PLACES if host.room(place) is None]
    if unseen:
        message = f"{host.name}: how much room there is for {', '.join(unseen)} could not be seen"
        yield Obstacle(
            "room-unknown",
            message,
            f"At least {size_text(3 * needs.staged_size)} should be free for all together.",
            severity="warn",
        )


_PLACES: Final[tuple[Place, ...]] = ("backups", "data", "database", "repositories")

# What is named first is what people get to read first.
_JUDGES: Final[tuple[Callable[[Host, Needs], Iterator[Obstacle]], ...]] = (
    judge_rights, _holding, _gitlab, _leftovers, _data, _database, _room, judge_machine, judge_settings,
)  # fmt: skip


def _package(version: str) -> str | None:
    try:
        return package_for(version)
    except HostUnfit:
        return None


def _edition(version: str) -> Edition | None:
    try:
        return parse_version(version).edition
    except HostUnfit:
        return None


def _other_edition_only(of_set: str, of_target: str) -> bool:
    """Tell whether two versions that drtool understands are the same release of different editions."""
    bare = [version.removesuffix(f"-{_edition(version)}") for version in (of_set.strip(), of_target.strip())]
    return bare[0] == bare[1] and None not in (_edition(of_set), _edition(of_target))
