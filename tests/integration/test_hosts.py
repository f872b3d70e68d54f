"""The hosts of the tests are what they say: services, logins, a round trip, and Gitaly's own ways with increments.

The last are facts about gitaly-backup 16.11, which drtool's judgements rest on and no imitation could prove.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drtool.core.command import Command
from drtool.demo.census import difference
from drtool.demo.population import hashed_path
from drtool.errors import CommandFailed
from drtool.installs.omnibus import Omnibus
from tests.integration.engine import Engine
from tests.integration.hosts import SUDOER, VISITOR, Factory, Host, Variant, host_factory

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

BOTH = pytest.mark.parametrize("variant", ["runit", "systemd"])
STORAGE = "/var/opt/gitlab/git-data/repositories"
BACKUP = "/var/opt/gitlab/backups/proof"
SERVERS = base64.b64encode(
    json.dumps({"default": {"address": "unix:/var/opt/gitlab/gitaly/gitaly.socket", "token": ""}}).encode()
).decode()
SERVICES = {"gitaly", "gitlab-workhorse", "nginx", "postgresql", "puma", "redis", "sidekiq"}


def _archive(host: Host, path: str) -> bytes:
    chunks, _ = host.container.get_archive(path)
    return b"".join(chunks)


@BOTH
def test_a_fresh_host_serves_and_lets_in_whom_it_should(host: Factory, variant: Variant) -> None:
    one = host(variant=variant)
    status = one.runner().run(Command(("gitlab-ctl", "status"))).decode()
    identity = Command(("id", "-un"))

    assert {line.split(":")[1].strip() for line in status.splitlines() if line.startswith("run:")} >= SERVICES
    assert one.sql("select count(*) from projects") == "0"
    assert one.runner(VISITOR).run(identity) == b"visitor\n"
    assert one.runner(SUDOER, sudo=True).run(identity) == b"root\n"
    with pytest.raises(CommandFailed, match="sudo"):
        one.runner(VISITOR, sudo=True).run(identity)


@BOTH
def test_a_backup_of_one_host_makes_an_equal_one_of_another(host: Factory, variant: Variant) -> None:
    old = host("old", variant=variant, seeded=True)
    before = old.census()
    old.check("gitlab-backup", "create", "BACKUP=proof")
    archive = _archive(old, "/var/opt/gitlab/backups/proof_gitlab_backup.tar")
    old.destroy()

    new = host("new", variant=variant)
    new.container.put_archive("/var/opt/gitlab/backups", archive)
    new.check("chown", "git:git", "/var/opt/gitlab/backups/proof_gitlab_backup.tar")
    for service in ("puma", "sidekiq"):
        new.check("gitlab-ctl", "stop", service)
    new.check("gitlab-backup", "restore", "BACKUP=proof", "force=yes", "GITLAB_ASSUME_YES=1")

    repositories = before.repositories
    assert len(repositories) >= 50
    assert any(one.refs == 0 for one in repositories.values())
    assert {name.rpartition("/")[2].partition(".")[2] for name in repositories} == {"git", "wiki.git", "design.git"}
    assert any(name.startswith("default/@snippets/") for name in repositories)
    assert sum(rows.count for rows in before.tables.values()) >= 100_000
    assert any(name.startswith("gitlab_partitions_dynamic.") and rows.count for name, rows in before.tables.items())
    found = difference(before, new.census())
    assert [one for one in found if not one.startswith("secret ")] == []
    assert new.runner().run(Omnibus().list_refs()).count(b"= ") == len(repositories)
    # gitlab-secrets.json is in no backup of GitLab's own: those of the new host are others, and that shows.
    assert found != []


def test_a_host_is_the_same_after_a_restart_and_asks_for_nothing_new(host: Factory) -> None:
    one = host(variant="systemd", seeded=True)
    before = one.census()
    one.restart()
    assert one.runner().run(Command(("systemctl", "is-system-running"))) == b"running\n"
    assert difference(before, one.census()) == []


@BOTH
def test_a_machine_before_the_installation_has_no_gitlab(host: Factory, variant: Variant) -> None:
    one = host("bare", variant=variant, gitlab=False)
    assert one.exec("test", "-e", "/opt/gitlab")[0] == 1
    assert one.runner().run(Command(("id", "-un"))) == b"root\n"


def test_hosts_find_each_other_and_a_small_disk_is_full(host: Factory) -> None:
    one = host("one", tmpfs={"/srv/small": "size=64k"})
    host("two", gitlab=False)
    assert "\ntwo ssh-ed25519 " in one.check("ssh-keyscan", "-t", "ed25519", "two")
    assert "No space left" in one.exec("dd", "if=/dev/zero", "of=/srv/small/file", "bs=128k", "count=1")[1]


def test_readiness_is_that_of_what_is_behind_it(host: Factory) -> None:
    one = host()
    healthy = ("/opt/gitlab/bin/gitlab-healthcheck", "--fail", "--max-time", "10")
    for service in ("puma", "redis", "postgresql"):
        one.check("gitlab-ctl", "stop", service)
        assert one.exec(*healthy)[0] == 22, service
        one.check("gitlab-ctl", "start", service)
        one.wait()
    one.check("gitlab-ctl", "stop", "nginx")
    assert one.exec(*healthy)[0] == 7


def test_gitlab_goes_on_with_the_secrets_that_a_reconfigure_handed_it(host: Factory) -> None:
    one = host(seeded=True)
    asked = ("gitlab-rake", "gitlab:doctor:secrets")
    assert "Total: 0 row(s) affected" in one.check(*asked)
    one.check("rm", "/etc/gitlab/gitlab-secrets.json")
    assert "Total: 0 row(s) affected" in one.check(*asked)
    one.check("gitlab-ctl", "reconfigure")
    assert "Total: 0 row(s) affected" not in one.check(*asked)


def test_drtool_runs_on_the_host(host: Factory) -> None:
    one = host(variant="systemd")
    assert one.check("drtool", "--version").startswith("drtool")
    assert one.exec("systemd-analyze", "verify", "/etc/systemd/system/drtool-backup.timer")[0] == 0


@dataclass
class Repositories:
    """Two repositories on a host, and the real gitaly-backup beside them."""

    host: Host

    first = f"{hashed_path('@hashed', 1)}.git"
    second = f"{hashed_path('@hashed', 2)}.git"

    def sh(self, script: str, *arguments: str) -> tuple[int, str]:
        environment = {"GITALY_SERVERS": SERVERS, "HOME": "/var/opt/gitlab"}
        return self.host.exec("sh", "-ec", script, "sh", *arguments, user="git", environment=environment)

    def make(self) -> None:
        """Begin anew with one commit on main, and on the branch ``old``, in both."""
        self.remove()
        self.sh(f"rm -rf {BACKUP}; mkdir {BACKUP}")
        for path in (self.first, self.second):
            status, said = self.sh('git init -q --bare -b main "$1"', f"{STORAGE}/{path}")
            assert status == 0, said
            self.commit(path)
            self.git(path, "branch", "old")

    def remove(self) -> None:
        """Let the storage be that of an empty host."""
        self.sh(f"rm -rf {STORAGE}/@hashed")

    def commit(self, path: str) -> None:
        script = """
            cd "$1"; parent=$(git rev-parse -q --verify main || true)
            new=$(git -c user.name=a -c user.email=a@example.com commit-tree -m one ${parent:+-p $parent} \
              $(git mktree </dev/null))
            git update-ref refs/heads/main "$new"
        """
        status, said = self.sh(script, f"{STORAGE}/{path}")
        assert status == 0, said

    def git(self, path: str, *words: str) -> str:
        status, said = self.sh('cd "$1"; shift; git "$@"', f"{STORAGE}/{path}", *words)
        assert status == 0, said
        return said

    def refs(self, path: str) -> str | None:
        """None for a repository that is not there."""
        if self.sh('test -d "$1"', f"{STORAGE}/{path}")[0] != 0:
            return None
        return self.git(path, "for-each-ref", "--format=%(refname) %(objectname)")

    def backup(self, command: str, identifier: str, *options: str) -> tuple[int, list[str]]:
        """Run gitaly-backup over both; return its status and its messages, sorted."""
        requests = "\n".join(
            json.dumps(
                {"storage_name": "default", "relative_path": path, "gl_project_path": path, "always_create": True}
            )
            for path in (self.first, self.second)
        )
        program = "/opt/gitlab/embedded/bin/gitaly-backup"
        script = 'printf "%s\\n" "$1" >/tmp/requests; shift; exec "$@" </tmp/requests'
        command_line = (program, command, "-path", BACKUP, "-layout", "manifest", "-id", identifier, *options)
        status, said = self.sh(script, requests, *command_line)
        return status, sorted(json.loads(line)["msg"] for line in said.splitlines() if line.startswith("{"))

    def create(self, identifier: str, *options: str) -> list[str]:
        status, said = self.backup("create", identifier, *options)
        assert status == 0, said
        return said

    def restore(self, identifier: str) -> list[str]:
        """Restore as GitLab does. The status is 0, whatever became of the repositories."""
        status, said = self.backup("restore", identifier, "-remove-all-repositories", "default")
        assert status == 0, said
        return said

    def manifest(self, path: str, identifier: str) -> bool:
        return self.sh('test -e "$1"', f"{BACKUP}/manifests/default/{path}/{identifier}.toml")[0] == 0


@pytest.fixture(scope="module")
def gitaly(engine: Engine, network: Any, host_keys: Path) -> Iterator[Repositories]:
    with host_factory(engine, network, host_keys) as make:
        yield Repositories(make("gitaly"))


@pytest.fixture
def repositories(gitaly: Repositories) -> Repositories:
    gitaly.make()
    return gitaly


def test_an_unchanged_repository_is_not_in_an_increment_and_its_restore_deletes_it(repositories: Repositories) -> None:
    repositories.create("one")
    repositories.commit(repositories.first)
    wanted = repositories.refs(repositories.first)

    assert "skipped create" in repositories.create("two", "-incremental")
    assert repositories.manifest(repositories.first, "two")
    assert not repositories.manifest(repositories.second, "two")

    assert "skipped restore" in repositories.restore("two")
    assert repositories.refs(repositories.first) == wanted
    assert repositories.refs(repositories.second) is None


def test_refs_that_moved_without_a_new_commit_are_not_in_an_increment(repositories: Repositories) -> None:
    repositories.create("one")
    repositories.git(repositories.first, "branch", "-D", "old")
    repositories.git(repositories.first, "branch", "new", "main")

    assert repositories.create("two", "-incremental").count("skipped create") == 2
    assert not repositories.manifest(repositories.first, "two")


def test_a_deleted_branch_comes_back_when_a_chain_is_restored_onto_an_empty_host(repositories: Repositories) -> None:
    repositories.create("one")
    repositories.git(repositories.first, "branch", "-D", "old")
    repositories.commit(repositories.first)
    wanted = repositories.refs(repositories.first)
    repositories.create("two", "-incremental")

    repositories.remove()
    repositories.restore("two")
    found = repositories.refs(repositories.first)
    assert found != wanted
    assert "refs/heads/old " in (found or "")

    repositories.restore("two")  # the objects are there now, so only refs are set
    assert repositories.refs(repositories.first) == wanted


def test_a_restore_of_an_unknown_backup_deletes_every_repository(repositories: Repositories) -> None:
    repositories.create("one")
    assert repositories.restore("nosuch").count("skipped restore") == 2
    assert repositories.refs(repositories.first) is None
    assert repositories.refs(repositories.second) is None
