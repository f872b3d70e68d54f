"""What a restore onto a real host refuses: with the remedy, its own exit status, and nothing on the host changed."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.demo.census import difference
from tests.integration.hosts import SUDOER, VISITOR, Factory, Host
from tests.integration.operators import Ended, Operator, Original

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

BACKUPS = "/var/opt/gitlab/backups"
TASK = "/opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid"
NAME = "new-host.example.com"
_SECONDS = 300
_KINDS = "find /etc/gitlab /var/opt/gitlab/backups /var/opt/gitlab/gitlab-rails/etc"
_LOOK = f"{_KINDS} -printf '%p %y %m %u %g\\n' | sort; {_KINDS} -type f -exec sha256sum {{}} + | sort"


@pytest.fixture
def operator(original: Original, tmp_path: Path) -> Operator:
    return original.operator.again(tmp_path / "home")


@pytest.fixture
def target(host: Factory, operator: Operator) -> Host:
    return _known(host("new-host"), operator)


def _known(target: Host, operator: Operator) -> Host:
    operator.knows(target, "new-host")
    return target


@contextlib.contextmanager
def unchanged(target: Host) -> Iterator[None]:
    """Compare before and after: rows, refs and files, configuration, secrets, what lies in the backup directory."""
    before, files = target.census(), target.check("sh", "-c", _LOOK)
    yield
    assert difference(before, target.census()) == []
    assert target.check("sh", "-c", _LOOK) == files
    target.check("gitlab-ctl", "status")


def _refused(ended: Ended, status: int, *words: str) -> None:
    assert ended.status == status, str(ended)
    for word in words:
        assert word in ended.problem, str(ended)
    assert "Traceback" not in ended.problem
    assert "restored:" not in ended.said


def test_another_version_is_refused(target: Host, operator: Operator) -> None:
    target.set_version("16.11.5")
    with unchanged(target):
        _refused(operator.restore(), 20, "16.11.5", "gitlab-ce=16.11.6-ce.0")


def test_another_edition_is_refused(target: Host, operator: Operator) -> None:
    target.set_version("16.11.6-ee")
    with unchanged(target):
        _refused(operator.restore(), 20, "16.11.6-ee", "gitlab-ce=16.11.6-ce.0")


def test_a_host_whose_key_nobody_knows_is_refused(target: Host, operator: Operator) -> None:
    (operator.home / ".ssh/known_hosts-new-host").write_text("")
    with unchanged(target):
        _refused(operator.restore(), 6, "is not known", "known_hosts-new-host")


def test_a_host_whose_key_is_another_is_refused(target: Host, operator: Operator) -> None:
    known = operator.home / ".ssh/known_hosts-new-host"
    other = " ".join(target.key.with_suffix(".pub").read_text().split()[:2])
    known.write_text(f"[127.0.0.1]:{target.port} {other}\n")
    with unchanged(target):
        _refused(operator.restore(), 6, "CHANGED")


def test_a_user_who_may_not_be_root_is_refused(target: Host, operator: Operator) -> None:
    with unchanged(target):
        _refused(operator.restore(to=f"{VISITOR}@new-host"), 6, "NOPASSWD", "or log in as root")


def test_a_user_who_may_be_root_by_sudo_restores(target: Host, operator: Operator, original: Original) -> None:
    operator.restore(to=f"{SUDOER}@new-host").succeeded()
    assert difference(original.census, target.census()) == []


def test_too_small_a_disk_is_refused(host: Factory, operator: Operator) -> None:
    target = _known(host("new-host", tmpfs={BACKUPS: "size=4m"}), operator)
    with unchanged(target):
        _refused(operator.restore(), 6, BACKUPS, "larger disk")


def test_a_populated_target_is_refused_unless_it_is_named(target: Host, operator: Operator) -> None:
    target.seed(projects=3, rows=100)
    with unchanged(target):
        _refused(operator.restore(), 23, "it holds 3 projects", f"--yes-replace {NAME}")
        _refused(operator.restore("--yes-replace", "old-host.example.com"), 23, f"--yes-replace {NAME}")
        operator.run(*_words(operator, "--yes-replace", NAME, "--dry-run")).succeeded()
    assert operator.journals() == []


def test_nobody_is_taken_for_somebody_who_says_yes(target: Host, operator: Operator) -> None:
    with unchanged(target):
        ended = operator.run("restore", "latest", "--to", "root@new-host", "--identity", str(operator.identity))
        _refused(ended, 1, "nobody said yes", "--yes")


def test_a_second_restore_at_the_same_time_is_refused(
    target: Host, operator: Operator, original: Original, tmp_path: Path
) -> None:
    another = original.operator.again(tmp_path / "another")
    another.knows(target, "new-host")
    target.switch(pause="db:20")
    first = operator.start(*_words(operator, "--yes"))
    _await_task(target, first)

    _refused(another.restore(), 17, operator.journals()[0].stem, "Wait for it to end")
    assert another.journals() == []
    _refused(operator.restore(), 17, "is still at work")

    said, problem = first.communicate(timeout=_SECONDS)
    assert first.returncode == 0, said + problem
    assert difference(original.census, target.census()) == []


def test_a_dead_staging_area_is_told_of_and_goes(target: Host, operator: Operator, original: Original) -> None:
    dead = f"{BACKUPS}/.drtool-restore-20200101T000000Z-dead"
    target.check("sh", "-c", f"mkdir {dead} && echo db > {dead}/database.sql.gz && chown -R git:git {dead}")
    ended = operator.restore().succeeded()
    assert "1 staging areas of earlier restores" in ended.problem
    assert target.exec("test", "-e", dead)[0] == 1
    assert difference(original.census, target.census()) == []


def test_loose_members_of_somebody_s_own_backup_are_refused(target: Host, operator: Operator) -> None:
    target.check("gitlab-backup", "create", "BACKUP=theirs", "SKIP=tar")
    with unchanged(target):
        _refused(operator.restore(), 6, "loose members of backup theirs", "Move them away")


def test_noise_of_postgresql_that_asks_a_question_is_no_restore(
    target: Host, operator: Operator, original: Original
) -> None:
    target.switch(restore_sql_errors=True)
    ended = operator.restore()
    _refused(ended, 28)
    assert "same command" in ended.problem
    assert "drtool-restoring" in target.check("ls", "-A", BACKUPS)

    target.switch(restore_sql_errors=None)
    target.sql("drop sequence issues")
    operator.restore().succeeded()
    assert difference(original.census, target.census()) == []


def test_a_lock_of_gitlab_s_own_is_waited_for(target: Host, operator: Operator, original: Original) -> None:
    target.check("sh", "-c", f"sleep 25 & echo $! > {TASK}; chown git:git {TASK}")
    ended = operator.restore().succeeded()
    assert "a backup or restore of GitLab's own is running" in ended.problem
    assert difference(original.census, target.census()) == []


def test_a_lock_that_nobody_holds_and_gitlab_minds_is_refused(target: Host, operator: Operator) -> None:
    target.check("sh", "-c", f"echo nonsense > {TASK}")
    with unchanged(target):
        _refused(operator.restore(), 6, "lock of GitLab's backups", "remove tmp/backup_restore.pid")


def test_a_clock_that_is_far_off_is_refused(target: Host, operator: Operator) -> None:
    """What the host's own `date` says is half an hour late: the machine's clock is everybody's."""
    late = """#!/bin/sh\nexec /usr/bin/date --date='30 minutes ago' "$@"\n"""
    target.write("/usr/local/bin/date", late.encode(), mode=0o755)
    with unchanged(target):
        _refused(operator.restore(), 6, "30 minutes behind", "NTP")


def test_a_machine_without_gitlab_is_refused_with_the_way_to_get_it(host: Factory, operator: Operator) -> None:
    target = _known(host("new-host", gitlab=False), operator)
    _refused(operator.restore(), 6, "no GitLab there", "--install", "gitlab-ce=16.11.6-ce.0")
    assert operator.journals() == []
    # The packages of Debian are all that its apt knows.
    _refused(operator.restore("--install"), 6, "gitlab-ce")
    assert target.exec("test", "-e", "/opt/gitlab", "-o", "-e", "/etc/gitlab", "-o", "-e", "/var/opt/gitlab")[0] == 1


def test_a_store_that_signs_nothing_cannot_be_fetched_from_by_the_host(target: Host, operator: Operator) -> None:
    with unchanged(target):
        _refused(operator.restore("--via", "signed-url"), 10, "Without --via, the data goes through this machine")


def test_a_wrong_identity_is_refused(target: Host, operator: Operator) -> None:
    operator.run("init", str(operator.home / "other")).succeeded()
    other = operator.home / "other/identity.txt"
    with unchanged(target):
        ended = operator.run("restore", "latest", "--to", "root@new-host", "--identity", str(other), "--yes")
        _refused(ended, 25)


def _words(operator: Operator, *words: str) -> tuple[str, ...]:
    return ("restore", "latest", "--to", "root@new-host", "--identity", str(operator.identity), *words)


def _await_task(target: Host, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _SECONDS
    while target.exec("test", "-s", TASK)[0] != 0:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
