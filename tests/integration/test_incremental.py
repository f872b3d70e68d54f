"""Sets made with INCREMENTAL=yes by the real gitaly-backup: what drtool says of them is what a restore does."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drtool.demo.census import Census, difference
from drtool.gitlab.application import ApplicationJudge, Judgement
from drtool.gitlab.archive import TarScanner
from tests.integration.engine import Engine
from tests.integration.hosts import Factory, Host, host_factory

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

BACKUPS = "/var/opt/gitlab/backups"
VERSION = "16.11.6"
# A commit on main, or the first one; for each repository below the storage that is named.
COMMIT = """
cd /var/opt/gitlab/git-data/repositories
for path; do
  export GIT_DIR=$PWD/$path GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com
  export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
  parent=$(git rev-parse -q --verify main || true)
  new=$(git commit-tree -m more ${parent:+-p $parent} $(git mktree </dev/null))
  git update-ref refs/heads/main "$new"
done
"""


@pytest.fixture(scope="module")
def make(engine: Engine, network: Any, host_keys: Path) -> Iterator[Factory]:
    with host_factory(engine, network, host_keys) as factory:
        yield factory


@pytest.fixture(scope="module")
def old(make: Factory) -> Host:
    """A host with a full backup named ``full``."""
    one = make("old")
    one.seed(projects=6, rows=400)
    one.check("gitlab-backup", "create", "BACKUP=full")
    return one


def _commit(host: Host, *names: str) -> None:
    paths = [name.removeprefix("default/") for name in names]
    host.check("sh", "-ec", COMMIT, "sh", *paths, user="git")


def _increment(host: Host, backup_id: str) -> tuple[bytes, Census]:
    """Back up what changed since ``full``; return the archive and what the host held."""
    host.check("gitlab-backup", "create", f"BACKUP={backup_id}", "INCREMENTAL=yes", "PREVIOUS_BACKUP=full")
    chunks, _ = host.container.get_archive(f"{BACKUPS}/{backup_id}_gitlab_backup.tar")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as outer:
        inner = outer.extractfile(f"{backup_id}_gitlab_backup.tar")
        assert inner
        return inner.read(), host.census()


def _judge(archive: bytes, backup_id: str) -> Judgement:
    judge = ApplicationJudge(backup_id, VERSION, (), frozenset())
    scanner = TarScanner(judge.watch)
    scanner.feed(archive)
    scanner.close()
    return judge.judge(scanner.members)


def _restore(make: Factory, archive: bytes, backup_id: str) -> Census:
    """Restore onto an empty host, which GitLab calls a success whatever became of it."""
    new = make("new")
    new.write(f"{BACKUPS}/{backup_id}_gitlab_backup.tar", archive)
    new.check("gitlab-backup", "restore", f"BACKUP={backup_id}", "force=yes", "GITLAB_ASSUME_YES=1")
    census = new.census()
    new.destroy()
    return census


def _named(sentences: tuple[str, ...] | list[str]) -> set[str]:
    return {found[1] for one in sentences if (found := re.match(r"repository (\S+?):? ", one))}


def test_what_an_increment_lacks_is_named_and_is_what_its_restore_loses(make: Factory, old: Host) -> None:
    changed = next(name for name, one in old.census().repositories.items() if one.refs)
    _commit(old, changed)
    archive, before = _increment(old, "some")

    judgement = _judge(archive, "some")
    lost = _named(judgement.problems)
    after = _restore(make, archive, "some")

    assert judgement.problems != ()
    assert lost == before.repositories.keys() - after.repositories.keys()
    assert changed not in lost
    assert len(lost) >= 8


def test_an_increment_of_everything_is_sound_and_restores_exactly(make: Factory, old: Host) -> None:
    _commit(old, *old.census().repositories)
    archive, before = _increment(old, "every")

    assert _judge(archive, "every").problems == ()
    assert [one for one in difference(before, _restore(make, archive, "every")) if not one.startswith("secret ")] == []


def test_a_branch_that_a_restore_would_bring_back_from_the_dead_is_a_problem(make: Factory, old: Host) -> None:
    names = old.census().repositories
    with_branch = next(
        name for name in names if "chart" in old.check(*_git(name, "for-each-ref", "--format=%(refname:short)"))
    )
    old.check(*_git(with_branch, "update-ref", "-d", "refs/heads/chart"))
    _commit(old, *names)
    archive, before = _increment(old, "without")

    after = _restore(make, archive, "without")
    assert _named(difference(before, after)) == {with_branch}
    assert _named(_judge(archive, "without").problems) == {with_branch}


def _git(name: str, *words: str) -> list[str]:
    path = f"/var/opt/gitlab/git-data/repositories/{name.removeprefix('default/')}"
    return ["git", "-c", "safe.directory=*", "-C", path, *words]
