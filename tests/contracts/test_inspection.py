"""A look at a real host: the sandbox, with its PostgreSQL, its commands and its files, here and over a real sshd."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from drtool.clock import SystemClock
from drtool.core.fitness import judge_target
from drtool.core.host import Host
from drtool.core.marker import MARKER, Marker, render_marker
from drtool.core.needs import Needs
from drtool.demo.sandbox import Sandbox
from drtool.errors import CommandFailed, HostUnfit
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.hosts.prefix import open_prefixed
from drtool.hosts.ssh import SshRunner
from drtool.inspection import inspect
from drtool.installs.omnibus import Omnibus
from tests import sandboxes
from tests.runners import FaultyRunner

pytestmark = pytest.mark.engine("sandbox")

GITLAB_YML = """\
production: &base
  gitlab:
    host: gitlab.example.com
  artifacts:
    enabled: true
    object_store:
      enabled: true
      connection: {"aws_secret_access_key":"obviously-fake-key"}
  registry:
    enabled: true
    host: registry.example.com
  repositories:
    storages: {"default":{"path":"/srv/git","gitaly_address":"unix:/var/gitaly.socket"},"big":{"gitaly_address":"tcp://10.0.0.9:8075"}}
development:
  <<: *base
"""
DATABASE_YML = """\
production:
  main:
    adapter: postgresql
    host: "db.example.com"
    password: "obviously-fake-password"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.observed(tmp_path_factory.mktemp("observed") / "host") as sandbox:
        yield sandbox


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "fresh") as sandbox:
        yield sandbox


@contextmanager
def local(_: pytest.FixtureRequest) -> Iterator[Runner]:
    yield LocalRunner()


@contextmanager
def over_ssh(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(SshRunner(request.getfixturevalue("sshd").target)) as runner:
        yield runner


@contextmanager
def over_sudo(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(SshRunner(request.getfixturevalue("sshd").sudo_target)) as runner:
        yield runner


@pytest.mark.parametrize("opened", [local, over_ssh, over_sudo])
def test_inspection_sees_what_a_populated_host_is(host: Sandbox, opened: Any, request: pytest.FixtureRequest) -> None:
    with opened(request) as runner:
        seen = inspect(install_of(host), runner, SystemClock())
        assert seen.name == runner.name
    assert seen.installation and seen.installation.version == "18.9.0-pre"
    assert seen.installation.edition == "ce"
    assert seen.installation.installation_type == "omnibus-gitlab"
    assert seen.database and seen.database.projects == seen.projects == int(host.sql("select count(*) from projects"))
    assert seen.database.postgresql == int(host.sql("show server_version_num")) // 10_000
    assert seen.database.size > 1 << 20
    assert seen.system.hostname == platform.node()
    assert seen.system.architecture == platform.machine()
    assert seen.system.user == os.geteuid()
    assert seen.tar and seen.tar.kind == "gnu"
    assert seen.clock and abs(seen.clock.ahead) <= seen.clock.uncertainty + timedelta(seconds=1)
    assert {room.place for room in seen.rooms} == {"backups", "data", "database", "repositories", "root"}
    backups = seen.room("backups")
    assert backups and 0 < backups.free <= backups.total == shutil.disk_usage(host.backups).total
    assert seen.backups and not seen.backups.loose and not seen.backups.marked
    assert seen.mounts_inside == () and seen.foreign_directories == () and seen.task is None and not seen.restoring


def test_inspection_of_a_fresh_host_sees_that_it_is_empty(fresh: Sandbox) -> None:
    seen = look(fresh)
    assert seen.empty
    assert seen.settings is None
    assert not [one for one in judge_target(seen, needs()) if one.severity == "refuse"]


def test_inspection_changes_nothing(host: Sandbox) -> None:
    before = listing(host.root)
    look(host)
    assert listing(host.root) == before


def test_inspection_of_a_machine_without_gitlab_says_so(tmp_path: Path) -> None:
    seen = inspect(Omnibus(PurePosixPath(tmp_path / "nowhere")), LocalRunner(), SystemClock())
    assert (seen.installation, seen.database, seen.settings, seen.backups) == (None, None, None, None)
    room = seen.room("backups")
    assert room and room.free > 0, "measured where it would be made"
    assert [one.code for one in judge_target(seen, needs()) if one.severity == "refuse"] == ["no-gitlab"]


def test_inspection_does_not_take_a_dead_database_for_an_empty_one(fresh: Sandbox) -> None:
    fresh.stop()
    seen = look(fresh)
    assert seen.database is None and seen.projects is None and not seen.empty
    assert "populated" in {one.code for one in judge_target(seen, needs())}


def test_inspection_reads_the_rendered_configuration_and_keeps_no_secret_of_it(fresh: Sandbox) -> None:
    (fresh.rails / "config").mkdir()
    (fresh.rails / "config/gitlab.yml").write_text(GITLAB_YML)
    (fresh.rails / "config/database.yml").write_text(DATABASE_YML)
    seen = look(fresh)
    assert seen.settings
    assert seen.settings.registry is True
    assert seen.settings.storages == ("big", "default")
    assert seen.settings.remote_storages == ("big",)
    assert seen.settings.object_storage == ("artifacts",)
    assert seen.settings.database_host == "db.example.com"
    assert "obviously-fake" not in repr(seen)


def test_inspection_measures_the_storages_that_gitaly_serves(fresh: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "git").mkdir()
    configuration = fresh.data / "gitaly/config.toml"
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text(f'[[storage]]\nname = "default"\npath = "{tmp_path}/git"\n')
    room = look(fresh).room("repositories")
    assert room and room.path == f"{tmp_path}/git"


def test_inspection_finds_what_lies_in_the_backup_directory(fresh: Sandbox) -> None:
    (fresh.backups / "backup_information.yml").write_text(
        ":db_version: '1'\n:backup_created_at: 2026-01-13 03:15:00 Z\n:gitlab_version: 18.9.0\n:backup_id: somebody's\n"
    )
    (fresh.backups / "uploads.tar.gz").write_text("")
    (fresh.backups / ".drtool-restore-20260113T031500Z-7f3a").mkdir()
    (fresh.backups / "tmp/uploads.1768274100").mkdir(parents=True)
    backups = look(fresh).backups
    assert backups
    assert backups.loose == ("backup_information.yml", "uploads.tar.gz")
    assert backups.backup_id == "somebody's"
    assert backups.staging == (".drtool-restore-20260113T031500Z-7f3a",)
    assert backups.moved_aside == ("uploads.1768274100",)


def test_inspection_does_not_take_unreadable_information_for_none(fresh: Sandbox) -> None:
    (fresh.backups / "backup_information.yml").write_text("no such thing")
    seen = look(fresh)
    assert seen.backups and seen.backups.information and seen.backups.backup_id is None
    assert "loose-members" in {one.code for one in judge_target(seen, needs())}


def test_inspection_reads_the_mark_of_an_unfinished_restore(fresh: Sandbox) -> None:
    moment = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)
    mark = Marker("restore-1", "20260113T031500Z-7f3a", moment, "laptop", "replacing", "restore-1", had_data=True)
    (fresh.backups / MARKER).write_text(render_marker(mark) + "\n")
    seen = look(fresh)
    assert seen.backups and seen.backups.marker == mark
    assert seen.backups.staging == ()


def test_inspection_does_not_take_a_broken_mark_for_none(fresh: Sandbox) -> None:
    (fresh.backups / MARKER).write_text('{"run_id": ')
    seen = look(fresh)
    assert seen.backups and seen.backups.marked and seen.backups.marker is None
    assert "unfinished" in {one.code for one in judge_target(seen, needs())}


@pytest.mark.parametrize(
    ("content", "pid", "alive"), [("{ours}", "ours", True), ("4194304", 4194304, False), ("rubbish", None, False)]
)
def test_inspection_tells_a_living_task_from_a_dead_one(fresh: Sandbox, content: str, pid: Any, alive: bool) -> None:
    fresh.lock.write_text(content.format(ours=os.getpid()))
    task = look(fresh).task
    assert task and task.alive is alive
    assert task.pid == (os.getpid() if pid == "ours" else pid)


def test_inspection_sees_who_holds_the_lock_of_a_restore(fresh: Sandbox) -> None:
    if shutil.which("flock") is None:
        pytest.skip("flock (util-linux) is not installed")
    lock = Path(install_of(fresh).restore_lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("restore-1 on laptop\n")
    assert look(fresh).restoring == "", "nobody holds it"
    holder = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        assert look(fresh).restoring == "restore-1 on laptop"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and give files away")
def test_inspection_finds_what_git_could_not_move_aside(fresh: Sandbox) -> None:
    (fresh.uploads / "lost+found").mkdir()
    os.chown(fresh.uploads, 998, 998)
    assert look(fresh).foreign_directories == (f"{fresh.uploads}/lost+found",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_inspection_finds_a_mount_point_inside_a_component(fresh: Sandbox) -> None:
    inside, itself = fresh.uploads / "with blank", fresh.shared / "artifacts"
    inside.mkdir()
    mounted = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, str(inside), str(itself))
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not to be had here")
    with closing(open_prefixed(mounted, "in a namespace", clean=True)) as runner:
        seen = inspect(install_of(fresh), runner, SystemClock())
    assert seen.mounts_inside == (str(inside),)
    data = seen.room("data")
    assert data and data.mount != str(inside)


_MOUNT = 'mount -t tmpfs none "$0" && mount -t tmpfs none "$1" && shift && exec "$@"'


def test_inspection_sees_what_a_removed_package_left(fresh: Sandbox) -> None:
    (fresh.rails / "VERSION").unlink()
    seen = look(fresh)
    assert seen.installation is None and not seen.empty
    assert {"no-gitlab", "populated"} <= {one.code for one in judge_target(seen, needs())}


def test_inspection_says_when_sudo_lets_nobody_in(fresh: Sandbox, tmp_path: Path) -> None:
    refusing = tmp_path / "sudo"
    refusing.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    refusing.chmod(0o755)
    with (
        closing(open_prefixed((str(refusing), "-n", "--"), "operator@host", clean=True)) as runner,
        pytest.raises(HostUnfit, match="sudo does not let this user be root") as refused,
    ):
        inspect(install_of(fresh), runner, SystemClock())
    assert "NOPASSWD" in refused.value.hint


def test_inspection_never_guesses_when_a_command_fails(fresh: Sandbox) -> None:
    """Each command in turn fails: what it would have told is missing, or the whole look fails; nothing is made up."""
    whole = look(fresh)
    for number in range(1, 20):
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(number, "before", CommandFailed("the connection broke", status=255))
        try:
            seen = inspect(install_of(fresh), runner, SystemClock())
        except CommandFailed:
            continue
        if not runner.fired:
            assert number > 3
            break
        lost = [seen.clock is None, not seen.rooms, seen.database is None, seen.backups is None]
        assert lost.count(True) == 1
        assert seen.installation == whole.installation
        assert judge_target(seen, needs()), "what was not seen is no green"
    else:
        pytest.fail("never ended")


def look(sandbox: Sandbox) -> Host:
    return inspect(install_of(sandbox), LocalRunner(), SystemClock())


def install_of(sandbox: Sandbox) -> Omnibus:
    return Omnibus(PurePosixPath(sandbox.root))


def needs() -> Needs:
    return Needs("20260113T031500Z-7f3a", "18.9.0-ee", staged_size=1 << 20, staged_members=10, as_root=False)


def listing(root: Path) -> str:
    """Everything below but what PostgreSQL and the logs do by themselves."""
    found = sorted(
        (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if "postgresql" not in path.parts and "log" not in path.parts
    )
    return json.dumps(found)
