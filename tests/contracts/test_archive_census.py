"""What an archive says of an instance is what the instance, asked itself, says: in every layout that GitLab ever wrote.

The other side counts a living sandbox with git and SQL, by code that the judge does not share.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.core.census import Census
from drtool.demo.census import take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.gitlab.application import ApplicationJudge, Judgement
from drtool.gitlab.archive import TarScanner, parse_archive_name
from tests import sandboxes

pytestmark = pytest.mark.engine("sandbox")

VERSIONS = (
    "8.17.8",
    "9.5.10",
    "11.3.6",
    "13.12.15-ee",
    "14.9.5",
    "15.4.6",
    "16.7.0-ee",
    "16.10.1",
    "17.8.2",
    "18.9.0-pre",
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.observed(tmp_path_factory.mktemp("observed") / "host") as sandbox:
        yield sandbox


def _archive(host: Sandbox, version: str) -> Path:
    host.set_version(version)
    for earlier in host.backups.glob("*_gitlab_backup.tar"):  # one of the same second would be overwritten
        earlier.unlink()
    before = set(host.backups.iterdir())
    result = sandboxes.run(host, "gitlab-rake", "gitlab:backup:create")
    assert result.status == 0, result.stdout + result.stderr
    (archive,) = set(host.backups.iterdir()) - before
    return archive


def _judge(content: bytes, backup_id: str, version: str, *, chunk: int = 1 << 16) -> Judgement:
    judge = ApplicationJudge(backup_id, version, (), frozenset())
    scanner = TarScanner(judge.watch)
    for at in range(0, len(content), chunk):
        scanner.feed(content[at : at + chunk])
    scanner.close()
    return judge.judge(scanner.members)


def _judge_file(archive: Path, version: str) -> Judgement:
    name = parse_archive_name(archive.name)
    assert name is not None
    return _judge(archive.read_bytes(), name.backup_id, version)


def _expect_same(found: Census, host: Sandbox) -> None:
    living = take_census(host)
    assert dict(found.tables) == {name: rows.count for name, rows in living.tables.items() if name in found.tables}
    partitioned = set(living.tables) - set(found.tables)
    assert partitioned <= {"public.analytics", "public.web_hook_logs"}  # their rows are in the partitions
    known = {name.removeprefix("default/"): one for name, one in found.repositories.items()}
    for name, repository in living.repositories.items():
        path = name.removeprefix("default/")
        if path not in known:  # an old layout has no trace of an empty one
            assert repository.refs == 0, name
            continue
        listed = _listed(host.repositories / path)
        assert (known[path].refs, known[path].digest) == (repository.refs, hashlib.sha256(listed).hexdigest())
        assert known[path].head in ("", repository.head)
    assert set(known) <= {name.removeprefix("default/") for name in living.repositories}
    for component, files in living.components.items():
        if component in found.components:
            assert (found.components[component].count, found.components[component].size) == (files.count, files.size)
    assert set(living.components) - set(found.components) <= {
        *("registry", "terraform_state", "packages", "ci_secure_files", "external_diffs"),
    }


def _listed(repository: Path) -> bytes:
    command = ["git", "-c", "safe.directory=*", "-C", str(repository), "for-each-ref"]
    return subprocess.run(
        [*command, "--format=%(objectname) %(refname)"], capture_output=True, check=True, stdin=subprocess.DEVNULL
    ).stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_archive_of_every_release_is_green_and_its_census_that_of_the_host(host: Sandbox, version: str) -> None:
    found = _judge_file(_archive(host, version), version)
    assert (found.problems, found.findings) == ((), ())
    assert found.census is not None
    assert len(found.census.repositories) >= 5
    assert [project.path for project in found.census.projects] == ["grp/alpha", "grp/sub/beta", "root/empty"]
    alpha = found.census.projects[0]
    assert len(found.census.repositories_of(alpha)) == 3
    _expect_same(found.census, host)


@pytest.mark.parametrize("version", VERSIONS)
def test_archive_of_every_release_is_red_when_one_of_its_repositories_is_cut(host: Sandbox, version: str) -> None:
    archive = _archive(host, version)
    content = bytearray(archive.read_bytes())
    place = content.index(b"PACK") + 30  # inside a bundle, behind its header
    content[place] ^= 1
    name = parse_archive_name(archive.name)
    assert name is not None
    problems = _judge(bytes(content), name.backup_id, version).problems
    assert any(".bundle is cut off or changed" in problem for problem in problems), problems


@pytest.mark.parametrize("version", ["15.4.6", "16.7.0-ee"])
@pytest.mark.parametrize("lost", ["LATEST", "001.bundle", "001.refs"])
def test_archive_with_pointers_is_red_when_one_leads_nowhere(
    host: Sandbox, version: str, lost: str, tmp_path: Path
) -> None:
    archive = _archive(host, version)
    name = parse_archive_name(archive.name)
    assert name is not None
    subprocess.run(["tar", "-xf", str(archive), "-C", str(tmp_path), "--no-same-owner"], check=True)
    beta = next(tmp_path.glob("repositories/@hashed/d4/73/*"))
    (beta / name.backup_id / lost).unlink()
    content = subprocess.run(["tar", "-cf", "-", "-C", str(tmp_path), "."], capture_output=True, check=True).stdout
    problems = _judge(content, name.backup_id, version).problems
    assert problems
    assert all(beta.name in problem for problem in problems), problems


def test_archive_of_an_increment_is_red_for_what_it_would_lose(tmp_path: Path) -> None:
    sandboxes.require()
    with sandboxes.observed(tmp_path / "host") as host:
        first = _archive(host, sandboxes.OBSERVED_VERSION)
        script = "git update-ref refs/heads/main $(git commit-tree -p refs/heads/main -m x 'refs/heads/main^{tree}')"
        alpha = next(host.repositories.glob("@hashed/6b/86/*[0-9a-f].git"))
        names = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        git = {**names, "PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CONFIG_COUNT": "1"}
        git |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        subprocess.run(["sh", "-ec", script], cwd=alpha, check=True, env=git)
        time.sleep(1.1)  # GitLab names its archives by the second
        result = sandboxes.run(host, "gitlab-rake", "gitlab:backup:create", "INCREMENTAL=yes")
        assert result.status == 0, result
        (archive,) = (path for path in host.backups.glob("*.tar") if path != first)
        problems = _judge_file(archive, sandboxes.OBSERVED_VERSION).problems
    assert len(problems) == 4
    assert all("has no manifest of this backup" in problem for problem in problems)


def test_archive_of_a_package_upgrade_is_told_apart(tmp_path: Path) -> None:
    sandboxes.require()
    with sandboxes.observed(tmp_path / "host") as host:
        found = _judge_file(sandboxes.upgrade_backup(host), sandboxes.OBSERVED_VERSION)
    assert found.problems == ("it holds the database only, as a package upgrade makes it",)


def test_archive_of_a_seeded_instance_has_its_newest_event_and_every_project(tmp_path: Path) -> None:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "host") as host:
        seed(host, projects=6)
        found = _judge_file(_archive(host, "18.9.0-ee"), "18.9.0-ee")
        assert (found.problems, found.findings) == ((), ())
        assert found.census is not None
        _expect_same(found.census, host)
        sql = "select count(*) from projects union all select count(*) from namespaces where type = 'Group'"
        assert [str(len(found.census.projects)), str(found.census.groups)] == host.sql(sql).split()
        newest = host.sql("select to_char(max(created_at), 'YYYY-MM-DD HH24:MI:SS') from events").strip()
        assert found.census.newest_activity is not None
        assert f"{found.census.newest_activity:%Y-%m-%d %H:%M:%S}" >= newest
        assert {project.visibility for project in found.census.projects} == {"private", "internal", "public"}
