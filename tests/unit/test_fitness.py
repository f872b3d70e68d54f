"""Every obstacle: a host that has it, and beside it the nearest one that has not."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtool.core import fitness, machine
from drtool.core.fitness import judge_target
from drtool.core.host import (
    BackupDirectory,
    Database,
    Host,
    Installation,
    Offset,
    Place,
    Room,
    Settings,
    System,
    Tar,
    Task,
)
from drtool.core.marker import Marker
from drtool.core.model import Tally
from drtool.core.needs import Needs, needs_of
from drtool.core.obstacles import Obstacle, refuse
from drtool.core.room import judge_room, size_text
from drtool.errors import Busy, DrtoolError, HostUnfit, TargetHoldsData, VersionMismatch
from tests.unit.test_model import MANIFEST

GIB = 1 << 30
SET = "20260113T031500Z-7f3a"
PLACES: tuple[Place, ...] = ("backups", "data", "database", "repositories", "root")
NIGHT = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)


def room(
    place: Place, *, device: str = "/dev/sda1", mount: str = "/", free: int = 500 * GIB, inodes: int = 1 << 24
) -> Room:
    return Room(place, f"/var/opt/gitlab/{place}", device, mount, 1000 * GIB, free, inodes * 2, inodes)


SYSTEM = System(
    "new-host", "debian", "12", "x86_64", 0, 16 * GIB, "apt", frozenset({"age", "curl", "sudo", "apt-get", "flock"})
)
SETTINGS = Settings(True, ("default",), (), (), "")
DATABASE = Database(16, 0, 30 << 20, 0, 0)
BACKUPS = BackupDirectory((), False, None, (), (), False, None)
HOST = Host(
    name="root@new-host",
    backup_path="/var/opt/gitlab/backups",
    system=SYSTEM,
    tar=Tar("gnu", (1, 34), "tar (GNU tar) 1.34"),
    clock=Offset(timedelta(seconds=1), timedelta(seconds=0.1)),
    rooms=tuple(room(place) for place in PLACES),
    installation=Installation("omnibus", "18.9.0-ee", "ee", "omnibus-gitlab", "gitlab-ee 18.9.0-ee.0"),
    remains=False,
    settings=SETTINGS,
    database=DATABASE,
    database_files=16,
    backups=BACKUPS,
    task=None,
    restoring="",
    mounts_inside=(),
    foreign_directories=(),
)
NEEDS = Needs(
    SET,
    "18.9.0-ee",
    staged_size=100 * GIB,
    staged_members=5000,
    files_size=80 * GIB,
    files=100_000,
    repositories=1000,
    registry=True,
    architecture="x86_64",
    postgresql=16,
    storages=("default",),
)
OWN = replace(NEEDS, brings_configuration=False)
"""Of a restore that leaves the target's configuration as it is."""
MARK = Marker("restore-1", SET, NIGHT, "laptop", "replacing", "restore-1", had_data=True)

STAGING = replace(MARK, phase="staging")


def system(**changes: Any) -> Host:
    return replace(HOST, system=replace(SYSTEM, **changes))


def settings(**changes: Any) -> Host:
    return replace(HOST, settings=replace(SETTINGS, **changes))


def backups(**changes: Any) -> Host:
    return replace(HOST, backups=replace(BACKUPS, **changes))


def database(**changes: Any) -> Host:
    return replace(HOST, database=replace(DATABASE, **changes))


def gitlab(version: str, edition: Any = "ee") -> Host:
    return replace(HOST, installation=Installation("omnibus", version, edition, None, None))


def rooms(*found: Room) -> Host:
    return replace(HOST, rooms=found)


def free(size: int, **changes: Any) -> Host:
    return rooms(*(room(place, free=size, **changes) for place in PLACES))


BARE = replace(HOST, installation=None, settings=None, database=None, database_files=None, backups=None)
POPULATED = database(projects=12, size=10 * GIB, stored=40 * GIB)
REPLACED = replace(NEEDS, replace="new-host")
SPLIT = (room("backups", device="/dev/sdb1", mount="/backups", free=101 * GIB), *(room(p) for p in PLACES[1:]))


@dataclass(frozen=True)
class Case:
    """A host that has an obstacle, for what is needed of it, and one that has not."""

    code: str
    bad: Host
    good: Host
    needs: Needs
    good_needs: Needs
    error: type[DrtoolError]
    severity: str


def case(
    code: str,
    bad: Host,
    good: Host = HOST,
    *,
    needs: Needs = NEEDS,
    good_needs: Needs | None = None,
    error: type[DrtoolError] = HostUnfit,
    severity: str = "refuse",
) -> Case:
    return Case(code, bad, good, needs, needs if good_needs is None else good_needs, error, severity)


TABLE = [
    case("not-root", system(user=1000), HOST),
    case("not-root", system(user=None), system(user=1000), good_needs=replace(NEEDS, as_root=False)),
    case("no-gitlab", BARE, BARE, good_needs=replace(NEEDS, installs=True)),
    case(
        "package-manager",
        replace(BARE, system=replace(SYSTEM, package_manager="none")),
        BARE,
        needs=replace(NEEDS, installs=True),
    ),
    case("version", gitlab("18.9.1-ee"), HOST, error=VersionMismatch),
    case("edition", gitlab("18.9.0", "ce"), gitlab("18.9.1", "ce"), error=VersionMismatch),
    case("edition", HOST, gitlab("18.9.0", "ce"), needs=replace(NEEDS, version="18.9.0"), error=VersionMismatch),
    case("restoring", replace(HOST, restoring="restore-1 on laptop"), HOST, error=Busy),
    case(
        "restoring",
        replace(HOST, restoring="restore-1 on laptop"),
        replace(HOST, restoring="restore-1 on laptop"),
        needs=replace(NEEDS, holder="restore-2 on laptop"),
        good_needs=replace(NEEDS, holder="restore-1 on laptop"),
        error=Busy,
    ),
    case("unfinished", backups(marked=True, marker=MARK), HOST, error=TargetHoldsData),
    case(
        "unfinished",
        backups(marked=True, marker=MARK),
        backups(marked=True, marker=MARK),
        needs=replace(NEEDS, run_id="restore-2"),
        good_needs=replace(NEEDS, run_id="restore-1"),
        error=TargetHoldsData,
    ),
    case("unfinished", backups(marked=True), HOST, needs=replace(NEEDS, run_id="restore-1"), good_needs=NEEDS),
    case(
        "unfinished",
        backups(marked=True, marker=MARK),
        needs=NEEDS,
        good=backups(marked=True, marker=MARK),
        good_needs=REPLACED,
        error=TargetHoldsData,
    ),
    case("abandoned", backups(marked=True, marker=STAGING), severity="warn"),
    case("abandoned", backups(marked=True, marker=STAGING), backups(marked=True, marker=MARK), severity="warn"),
    case("populated", replace(BARE, remains=True), BARE, error=TargetHoldsData),
    case(
        "populated",
        POPULATED,
        replace(POPULATED, backups=replace(BACKUPS, marked=True, marker=MARK)),
        error=TargetHoldsData,
    ),
    case("lock", replace(HOST, task=Task(None, alive=False)), HOST),
    case(
        "task",
        replace(HOST, task=Task(4711, alive=True)),
        replace(HOST, task=Task(4711, alive=False)),
        error=Busy,
        severity="warn",
    ),
    case("backup-path", replace(HOST, backups=None), BARE, good_needs=replace(NEEDS, installs=True)),
    case("backup-path", settings(backup_path="/mnt"), settings(backup_path="/var/opt/gitlab/backups/"), needs=OWN),
    case("backup-path", settings(backup_path="/mnt"), severity="warn"),
    case(
        "backup-path",
        replace(POPULATED, settings=replace(SETTINGS, backup_path="/mnt")),
        replace(POPULATED, settings=replace(SETTINGS, backup_path="/var/opt/gitlab/backups")),
        needs=REPLACED,
    ),
    case(
        "loose-members",
        backups(loose=("backup_information.yml",), information=True, backup_id="somebody's"),
        backups(loose=("backup_information.yml",), information=True, backup_id=SET),
    ),
    case("loose-members", backups(information=True, backup_id=""), HOST),
    case("loose-members", backups(information=True, backup_id=None), HOST),
    case("leftovers", backups(loose=("db", "uploads.tar.gz")), HOST, severity="warn"),
    case(
        "staging",
        backups(staging=(".drtool-restore-0",)),
        backups(staging=(".drtool-restore-1",)),
        good_needs=replace(NEEDS, run_id="restore-1"),
        severity="warn",
    ),
    case("moved-aside", backups(moved_aside=("uploads.1768274100",)), HOST, severity="warn"),
    case("populated", POPULATED, POPULATED, good_needs=REPLACED, error=TargetHoldsData),
    case(
        "populated", POPULATED, HOST, needs=replace(NEEDS, replace="old-host"), good_needs=NEEDS, error=TargetHoldsData
    ),
    case("populated", replace(HOST, database=None), HOST, error=TargetHoldsData),
    case(
        "database-elsewhere",
        HOST,
        HOST,
        needs=replace(NEEDS, database_elsewhere=True),
        good_needs=replace(NEEDS, database_elsewhere=True, replace="external-database"),
        error=TargetHoldsData,
    ),
    case("postgresql", database(postgresql=14), database(postgresql=17)),
    case(
        "postgresql", replace(HOST, database=None, database_files=14), replace(HOST, database=None, database_files=None)
    ),
    case("postgresql", database(postgresql=14), HOST, good_needs=replace(NEEDS, postgresql=None)),
    case("materialized-views", database(materialized_views=1), HOST),
    case("mounts", replace(HOST, mounts_inside=("/u/x",)), HOST),
    case("mounts-unknown", replace(HOST, mounts_inside=None), HOST, severity="warn"),
    case("foreign-directories", replace(HOST, foreign_directories=("/u/lost+found",)), HOST),
    case("tar", replace(HOST, tar=None), HOST),
    case("tar", replace(HOST, tar=Tar("gnu", (1, 29), "1.29")), replace(HOST, tar=Tar("gnu", (1, 30), ""))),
    case("tar", replace(HOST, tar=Tar("bsd", (3, 7), "bsdtar 3.7")), HOST),
    case("tar", replace(HOST, tar=Tar("busybox", (1, 36), "busybox")), HOST),
    case(
        "programs",
        system(programs=frozenset({"curl"})),
        system(programs=frozenset()),
        needs=replace(NEEDS, unseal_on_host=True),
        good_needs=NEEDS,
    ),
    case("disk", free(299 * GIB), free(300 * GIB)),
    case(
        "disk",
        replace(free(399 * GIB), database=POPULATED.database),
        replace(free(400 * GIB), database=POPULATED.database),
        needs=REPLACED,
    ),
    case(
        "disk",
        replace(free(399 * GIB), database=POPULATED.database),
        replace(free(300 * GIB), database=POPULATED.database),
        needs=REPLACED,
        good_needs=replace(REPLACED, safety_copy=False),
    ),
    case(
        "disk", rooms(room("backups", device="/dev/sdb1", mount="/backups", free=99 * GIB), *SPLIT[1:]), rooms(*SPLIT)
    ),
    case(
        "disk",
        rooms(SPLIT[0], room("data", device="/dev/sdc1", mount="/data", free=79 * GIB), *SPLIT[2:]),
        rooms(SPLIT[0], room("data", device="/dev/sdc1", mount="/data", free=80 * GIB), *SPLIT[2:]),
    ),
    case(
        "disk",
        rooms(*SPLIT[:3], room("repositories", device="/dev/sdd1", mount="/git", free=99 * GIB)),
        rooms(*SPLIT[:3], room("repositories", device="/dev/sdd1", mount="/git", free=100 * GIB)),
        severity="warn",
    ),
    case("inodes", free(500 * GIB, inodes=124_999), free(500 * GIB, inodes=125_000)),
    case(
        "inodes", free(500 * GIB, inodes=0), rooms(*(replace(one, inodes=None, free_inodes=None) for one in HOST.rooms))
    ),
    case(
        "disk",
        replace(free(399 * GIB), database=POPULATED.database),
        replace(free(300 * GIB), database=POPULATED.database, backups=replace(BACKUPS, marked=True, marker=MARK)),
        needs=REPLACED,
    ),
    case("room-unknown", rooms(*HOST.rooms[1:]), severity="warn"),
    case("room-unknown", rooms(), HOST, severity="warn"),
    case(
        "clock",
        replace(HOST, clock=Offset(timedelta(minutes=6), timedelta(seconds=1))),
        replace(HOST, clock=Offset(timedelta(minutes=6), timedelta(minutes=2))),
    ),
    case("clock", replace(HOST, clock=Offset(timedelta(days=-1), timedelta(0))), HOST),
    case("clock-unknown", replace(HOST, clock=None), HOST, severity="warn"),
    case("registry", settings(registry=False), settings(registry=True), needs=OWN),
    case("registry", HOST, settings(registry=None), needs=replace(OWN, registry=False), good_needs=OWN),
    case("registry", settings(registry=False), HOST, severity="warn"),
    case("registry", settings(registry=False), HOST, good_needs=replace(NEEDS, registry=None), severity="warn"),
    case(
        "storages",
        HOST,
        settings(storages=("big", "default")),
        needs=replace(OWN, storages=("big", "default")),
        good_needs=replace(OWN, storages=("big",)),
    ),
    case(
        "storages",
        HOST,
        HOST,
        needs=replace(NEEDS, storages=("big",)),
        good_needs=replace(NEEDS, storages=None),
        severity="warn",
    ),
    case("storages", HOST, settings(storages=None), needs=replace(OWN, storages=("big",))),
    case("elsewhere", settings(database_host="db.example.com"), HOST, severity="warn"),
    case("elsewhere", settings(remote_storages=("default",)), settings(database_host=None), needs=OWN, severity="warn"),
    case("elsewhere", settings(object_storage=("lfs",)), HOST, needs=OWN, severity="warn"),
    case("architecture", system(architecture="aarch64"), system(architecture="amd64"), severity="warn"),
    case("architecture", system(architecture="aarch64"), system(architecture=None), severity="warn"),
    case("system", system(os="plan9"), system(os="rocky"), severity="warn"),
    case("system", system(os=None), HOST, severity="warn"),
    case("memory", system(memory=2 * GIB), system(memory=4 * GIB - (300 << 20)), severity="warn"),
    case("memory", system(memory=2 * GIB), system(memory=None), severity="warn"),
    case("settings-unknown", replace(HOST, settings=None), HOST, needs=OWN, severity="warn"),
    case(
        "settings-unknown",
        replace(HOST, settings=None),
        replace(HOST, settings=None),
        needs=OWN,
        good_needs=NEEDS,
        severity="warn",
    ),
]


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.code)
def test_judging_finds_each_obstacle_where_it_is_and_not_where_it_is_not(one: Case) -> None:
    found = only(judge_target(one.bad, one.needs), one.code)
    assert (found.error, found.severity) == (one.error, one.severity)
    assert found.message.startswith("root@new-host: ") and "\n" not in found.message
    assert found.remedy and "\n" not in found.remedy
    assert one.code not in codes(judge_target(one.good, one.good_needs))


def test_judging_finds_nothing_on_a_fit_host() -> None:
    assert judge_target(HOST, NEEDS) == ()
    assert judge_target(HOST, OWN) == ()


def test_a_bare_machine_lacks_gitlab_and_nothing_else() -> None:
    assert codes(judge_target(BARE, NEEDS)) == {"no-gitlab"}
    assert judge_target(BARE, replace(NEEDS, installs=True)) == ()


def test_no_obstacle_hides_another() -> None:
    """Where two hosts differ from a fit one in different things, a host with both has both obstacles.

    But for a host that is half replaced: what it holds is then only what the unfinished restore left.
    """
    plain = [one for one in TABLE if one.needs == NEEDS and one.bad.installation and not one.bad.half_replaced]
    tried = 0
    for one, other in itertools.combinations(plain, 2):
        mine, theirs = changed(one.bad), changed(other.bad)
        if not mine.keys() & theirs.keys():
            tried += 1
            both = replace(HOST, **mine, **theirs)
            assert {one.code, other.code} <= codes(judge_target(both, NEEDS)), (one.code, other.code)
    assert tried > 300


def test_every_obstacle_that_there_is_has_a_case() -> None:
    sources = [Path(inspect.getfile(module)).read_text() for module in (fitness, machine)]
    named = set(re.findall(r'Obstacle\(\s*"([a-z-]+)"', "".join(sources))) | {"disk", "inodes", "edition", "version"}
    assert named == {one.code for one in TABLE}


def test_refusals_come_before_warnings() -> None:
    severities = [one.severity for one in judge_target(replace(system(os=None, user=1), task=Task(1, True)), NEEDS)]
    assert severities == ["refuse", "warn", "warn"]


def test_refusing_raises_the_first_refusal_as_its_own_error_and_names_the_others() -> None:
    host = replace(gitlab("18.9.1-ee"), tar=None, database=POPULATED.database)
    with pytest.raises(VersionMismatch) as raised:
        refuse(judge_target(host, NEEDS))
    assert str(raised.value).endswith("(and 2 more: populated, tar)")
    assert raised.value.hint == "Install exactly this package on the target, and restore again: gitlab-ee=18.9.0-ee.0"


def test_refusing_lets_warnings_pass() -> None:
    warnings = judge_target(system(os=None), NEEDS)
    assert codes(warnings) == {"system"}
    refuse(warnings)
    refuse(())


def test_a_missing_gitlab_is_refused_with_the_package_to_install() -> None:
    (found,) = judge_target(BARE, NEEDS)
    assert found.remedy == "Let --install put gitlab-ee=18.9.0-ee.0 there, or install exactly that first."


def test_a_set_of_the_community_edition_may_become_another_edition_after_its_restore() -> None:
    found = only(judge_target(HOST, replace(NEEDS, version="18.9.0")), "edition")
    assert "gitlab-ce=18.9.0-ce.0 (the other edition goes over it after the restore, not before)" in found.remedy
    back = only(judge_target(gitlab("18.9.0", "ce"), NEEDS), "edition")
    assert back.remedy.endswith("gitlab-ee=18.9.0-ee.0")


def test_a_build_that_was_never_published_cannot_be_installed() -> None:
    (found,) = judge_target(BARE, replace(NEEDS, version="18.9.0-pre", installs=True))
    assert found.code == "no-gitlab" and "no package of 18.9.0-pre was ever published" in found.message


def test_too_small_a_disk_is_refused_with_both_figures() -> None:
    found = only(judge_target(replace(free(150 * GIB), database=POPULATED.database), REPLACED), "disk")
    assert found.message == (
        "root@new-host: / has 150.0 GiB free, needed are 400.0 GiB for staging and restoring and a safety copy"
    )


def test_two_places_on_one_file_system_add_up() -> None:
    """Backups and data together on one, repositories and database on others: staging and files, not thrice."""
    two = [room(place, device="/dev/sdb1", mount="/data", free=179 * GIB) for place in ("backups", "data")]
    others = [room("database", device="/dev/sdc1", mount="/pg"), room("repositories", device="/dev/sdd1", mount="/git")]
    assert "180.0 GiB for staging and files" in only(judge_target(rooms(*two, *others), NEEDS), "disk").message
    enough = [replace(one, free=180 * GIB) for one in two]
    assert not codes(judge_target(rooms(*enough, *others), NEEDS))


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.none() | st.integers(0, 1 << 45))
def test_more_room_never_makes_a_host_unfit(had: int, more: int, staged: int, files: int | None) -> None:
    def short(free: int) -> bool:
        found = judge_room(
            [room(place, free=free) for place in PLACES],
            staged=staged, members=0, files=files, file_count=0, repositories=0, held=0,
        )  # fmt: skip
        return any(found)

    assert short(had) or not short(had + more)
    assert short(had) is (had < 3 * staged)


def test_needs_are_read_from_a_manifest() -> None:
    manifest = replace(
        MANIFEST,
        gitlab=replace(MANIFEST.gitlab, disabled=("registry",)),
        contents=(Tally("uploads", 3, 1000), Tally("lfs", 2, 24), Tally("rows", 99, 0)),
    )
    needs = needs_of(manifest, ("uploads", "lfs", "registry"))
    assert (needs.set_id, needs.version) == (manifest.set_id, manifest.gitlab.version)
    assert (needs.files, needs.files_size, needs.registry) == (5, 1024, False)
    assert needs.staged_size == manifest.archive("application").size
    with_registry = replace(manifest, contents=(*manifest.contents, Tally("registry", 1, 1)))
    assert needs_of(with_registry, ("registry",)).registry is True
    unknown = replace(manifest, contents=(), gitlab=replace(manifest.gitlab, disabled=()))
    assert (needs_of(unknown, ("registry",)).registry, needs_of(unknown, ("registry",)).files_size) == (None, None)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_size_is_written_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text


def changed(host: Host) -> dict[str, Any]:
    """What is otherwise than on a fit host."""
    return {
        name: getattr(host, name) for name in Host.__dataclass_fields__ if getattr(host, name) != getattr(HOST, name)
    }


def codes(obstacles: Iterable[Obstacle]) -> set[str]:
    return {one.code for one in obstacles}


def only(obstacles: Iterable[Obstacle], code: str) -> Obstacle:
    (found,) = [one for one in obstacles if one.code == code]
    return found
