"""The stand-in against transcripts of GitLab 18.9's own code: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import gzip
import io
import os
import pty
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drtool.demo.sandbox import Sandbox
from tests import sandboxes
from tests.contracts import standin_transcripts as transcripts
from tests.sandboxes import OBSERVED_ARCHIVE, OBSERVED_ID, Result, run

pytestmark = pytest.mark.engine("sandbox")

_SHA1 = "6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
_SHA2 = "d4/73/d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
_ALPHA, _BETA = f"@hashed/{_SHA1}.git", f"@hashed/{_SHA2}.git"
_BOTH = ("force=yes", "GITLAB_ASSUME_YES=1")
_COMMITTER = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


@pytest.fixture(scope="module")
def engine() -> None:
    sandboxes.require()


@pytest.fixture
def host(tmp_path: Path, engine: None) -> Iterator[Sandbox]:
    """The instance the transcripts were made with; its backup directory is empty."""
    with sandboxes.observed(tmp_path / "host") as sandbox:
        yield sandbox


@pytest.fixture
def empty_host(tmp_path: Path, engine: None) -> Iterator[Sandbox]:
    with sandboxes.fresh(tmp_path / "empty", version=sandboxes.OBSERVED_VERSION) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, engine: None) -> Path:
    """An archive of that instance made by the stand-in. The real one holds SQL that only PostgreSQL 17 takes."""
    directory = tmp_path_factory.mktemp("archive")
    with sandboxes.observed(directory / "host") as sandbox:
        result = run(sandbox, "gitlab-rake", "gitlab:backup:create")
        assert result.status == 0, result
        (made,) = sandbox.backups.glob("*.tar")
        return Path(shutil.copy2(made, directory))


@pytest.fixture(scope="module")
def incremental_archive(tmp_path_factory: pytest.TempPathFactory, engine: None) -> Path:
    """An increment over the real archive, after one commit in one repository."""
    directory = tmp_path_factory.mktemp("increment")
    with sandboxes.observed(directory / "host") as sandbox:
        assert _increment(sandbox).status == 0
        (made,) = (path for path in sandbox.backups.glob("*.tar") if path.name != OBSERVED_ARCHIVE.name)
        return Path(shutil.copy2(made, directory))


def _increment(sandbox: Sandbox) -> Result:
    _put(sandbox, OBSERVED_ARCHIVE)
    _commit(sandbox.repository_path(_ALPHA))
    return run(sandbox, "gitlab-rake", "gitlab:backup:create", "INCREMENTAL=yes")


def _commit(repository: Path) -> None:
    script = "git update-ref refs/heads/main $(git commit-tree -p refs/heads/main -m more 'refs/heads/main^{tree}')"
    subprocess.run(["sh", "-c", script], cwd=repository, check=True, env={**os.environ, **_COMMITTER})


def _rewritten(source: Path, target: Path, edit: Callable[[str, bytes], bytes]) -> Path:
    """Copy an archive, passing every file in it through ``edit``."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            stream = old.extractfile(member)
            if stream is None:
                new.addfile(member)
                continue
            content = edit(member.name, stream.read())
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target


def _expect(number: str, result: Result) -> transcripts.Transcript:
    """Compare status, standard output and standard error with the transcript's."""
    expected = transcripts.transcript(number)
    output = transcripts.normalised(result.stdout.splitlines())
    wanted = transcripts.normalised(expected.section("standard output"))
    assert transcripts.comparable(output) == transcripts.comparable(wanted)
    complaints = [line for line in expected.section("standard error") if line]
    assert transcripts.comparable(transcripts.errors(result.stderr)) == transcripts.comparable(complaints)
    assert result.status == expected.status
    return expected


def _expect_archive(expected: transcripts.Transcript, archive: Path) -> None:
    """Compare order, names, modes and the sizes that are GitLab's own; then the manifest, line by line."""
    theirs, ours = transcripts.listing_in(expected.section("tar tvf")), transcripts.listing_of(archive)
    assert ours == theirs
    with tarfile.open(archive) as tar:
        stream = tar.extractfile("backup_information.yml")
        assert stream is not None
        _expect_information(expected, stream.read().decode())


def _expect_information(expected: transcripts.Transcript, text: str) -> None:
    def plain(lines: list[str]) -> list[str]:
        # Times differ, and so may the version of tar.
        timeless = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} Z", "TIME", line) for line in lines]
        return transcripts.normalised([re.sub(r"tar\) 1\.\d\d$", "tar) 1.N", line) for line in timeless])

    assert plain(text.splitlines()) == plain(expected.section("backup_information.yml"))


def _archives(sandbox: Sandbox) -> list[str]:
    return sorted(path.name for path in sandbox.backups.glob("*_gitlab_backup.tar"))


def _named(sandbox: Sandbox, identifier: str) -> Path:
    return sandbox.backups / f"{identifier}_gitlab_backup.tar"


def _repositories(sandbox: Sandbox) -> dict[str, int]:
    """Relative path -> number of refs."""
    found = {}
    for head in sandbox.repositories.rglob("*.git/HEAD"):
        refs = subprocess.run(["git", "for-each-ref"], cwd=head.parent, capture_output=True, check=True).stdout
        found[str(head.parent.relative_to(sandbox.repositories))] = refs.count(b"\n")
    return found


# Creating


def test_create_prints_and_packs_what_gitlab_does(host: Sandbox) -> None:
    expected = _expect("01", run(host, "gitlab-rake", "gitlab:backup:create"))
    (archive,) = host.backups.iterdir()
    _expect_archive(expected, archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert transcripts.directory_of(host.backups) == transcripts.directory_in(expected.section("backup directory"))


def test_create_writes_the_repository_manifests_of_the_real_archive(host: Sandbox) -> None:
    """Byte for byte: the bundles were restored from that archive, and the ID is given."""
    assert run(host, "gitlab-rake", "gitlab:backup:create", f"BACKUP={OBSERVED_ID}").status == 0
    with tarfile.open(_named(host, OBSERVED_ID)) as ours, tarfile.open(OBSERVED_ARCHIVE) as theirs:
        for tar_name in theirs.getnames():
            if tar_name.endswith((".toml", ".refs")):
                ours_stream, theirs_stream = ours.extractfile(tar_name), theirs.extractfile(tar_name)
                assert ours_stream is not None
                assert theirs_stream is not None
                assert ours_stream.read() == theirs_stream.read(), tar_name


def test_create_skip_tar_leaves_its_staging_files(host: Sandbox) -> None:
    _put(host, OBSERVED_ARCHIVE)
    expected = _expect("02", run(host, "gitlab-rake", "gitlab:backup:create", "SKIP=tar"))
    _expect_information(expected, (host.backups / "backup_information.yml").read_text())
    assert transcripts.directory_of(host.backups) == transcripts.directory_in(expected.section("backup directory"))


def test_create_skip_db_leaves_out_the_database(host: Sandbox) -> None:
    # In the transcript, the loose members of an earlier run lie around, and db/ is cleaned up with the others.
    assert run(host, "gitlab-rake", "gitlab:backup:create", "SKIP=tar").status == 0
    expected = _expect("03", run(host, "gitlab-rake", "gitlab:backup:create", "SKIP=db"))
    (archive,) = host.backups.iterdir()
    _expect_archive(expected, archive)


def test_create_skips_a_missing_repository_without_a_trace(host: Sandbox) -> None:
    shutil.rmtree(host.repository_path(_BETA))
    expected = _expect("04", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=missing"))
    _expect_archive(expected, _named(host, "missing"))


def test_create_packs_an_empty_dump_when_pg_dump_fails(host: Sandbox) -> None:
    host.switch(pg_dump="fails")
    expected = _expect("05a", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=pgfail"))
    _expect_archive(expected, _named(host, "pgfail"))
    with tarfile.open(_named(host, "pgfail")) as tar:
        stream = tar.extractfile("db/database.sql.gz")
        assert stream is not None
        assert gzip.decompress(stream.read()) == b""


def test_create_incremental_skips_unchanged_repositories(host: Sandbox) -> None:
    expected = _expect("06a", _increment(host))
    (archive,) = (path for path in host.backups.iterdir() if path.name != OBSERVED_ARCHIVE.name)
    _expect_archive(expected, archive)
    assert transcripts.directory_of(host.backups) == transcripts.directory_in(expected.section("backup directory"))


def test_create_is_silent_under_cron(host: Sandbox) -> None:
    _expect("07", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=cron", environment={"CRON": "1"}))
    assert _archives(host) == ["cron_gitlab_backup.tar"]


def test_create_fails_for_a_corrupt_repository(host: Sandbox) -> None:
    objects = host.repository_path(_BETA) / "objects"
    shutil.rmtree(objects)
    (objects / "pack").mkdir(parents=True)
    (objects / "info").mkdir()
    _expect("09", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=corrupt"))
    assert list(host.backups.iterdir()) == []


def test_create_packs_what_a_failed_component_left(host: Sandbox) -> None:
    """By switch: the transcript's unreadable file is readable to root, whom the tests may run as."""
    host.switch(tar_fails="packages")
    _without_feature_branch(host)
    expected = _expect("10b", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=unread"))
    _expect_archive(expected, _named(host, "unread"))


def test_create_prunes_by_name(host: Sandbox) -> None:
    host.configure(keep_time=604800)
    recent = f"{int(time.time()) - 1}_2026_11_21_18.9.0-pre"
    kept = {
        "11493107454_2018_04_25_10.6.4-ce",
        "1679556133_2023_03_23_15.9.2-jh",
        "1701728344_2023_12_04_16.7.0-rc42",
        "1703484999_2023_12_25_16.7.0-ce",
        "dump",
        recent,
    }
    removed = {
        "1477883719",
        "1482974651_2016_12_29",
        "1701728344_2023_12_04_16.7.0-pre",
        "1703484999_2023_12_25_16.7.0-ee",
        "1703484999_2023_12_25_16.7.0.rc1",
    }
    for name in kept | removed:
        _named(host, name).write_bytes(b"")
    expected = _expect("12", run(host, "gitlab-rake", "gitlab:backup:create", "SKIP=repositories"))
    assert len(_archives(host)) == len(expected.section("archive names"))
    assert {f"{name}_gitlab_backup.tar" for name in kept} < set(_archives(host))


def test_create_stops_at_a_lock_that_is_held(host: Sandbox) -> None:
    host.lock.write_text(str(os.getpid()))
    _expect("13a", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=lk"))
    assert host.lock.read_text() == str(os.getpid())


def test_create_takes_over_a_stale_lock(host: Sandbox) -> None:
    host.lock.write_text(str(_dead_pid()))
    _expect("13c", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=lk", "SKIP=db,repositories"))
    assert not host.lock.exists()


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_create_is_coloured_on_a_terminal(host: Sandbox) -> None:
    expected = transcripts.transcript("14").section("standard output on a terminal")
    output = _on_a_terminal([str(host.bin / "gitlab-rake"), "gitlab:backup:create", "BACKUP=tty"])
    lines = output.replace("\r", "^M").replace("\x1b", "^[").split("\n")
    assert all(line.endswith("^M") for line in lines if line)

    def plain(lines: list[str]) -> list[str]:
        return transcripts.normalised([line.removesuffix("^M") for line in lines])

    assert plain(lines) == plain(expected)


def _on_a_terminal(argv: list[str]) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the last writer is gone
                break
            if not chunk:
                break
            chunks.append(chunk)
    os.close(ours)
    assert process.returncode == 0
    return b"".join(chunks).decode()


def test_create_includes_the_registry_where_it_is_on(host: Sandbox) -> None:
    host.configure(registry=True)
    _without_feature_branch(host)
    (host.shared / "registry/docker").mkdir()
    (host.shared / "registry/docker/blob").write_text("layer")
    expected = _expect("17", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=reg"))
    _expect_archive(expected, _named(host, "reg"))


def test_create_of_an_instance_without_repositories_has_no_such_member(host: Sandbox) -> None:
    """The transcript's real layout of 1401 tables is not at hand; its other half is: no rows, no repositories."""
    host.sql("truncate projects, snippets, snippet_repositories cascade")
    for directory in (host.uploads, host.builds, *(host.shared / name for name in ("artifacts", "lfs-objects"))):
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
    expected = _expect("54a", run(host, "gitlab-rake", "gitlab:backup:create", "BACKUP=real"))
    assert transcripts.listing_of(_named(host, "real")) == transcripts.listing_in(expected.section("tar tvf"))


def _without_feature_branch(sandbox: Sandbox) -> None:
    """From the tenth run on the real instance had lost this branch; the sizes of the .refs files show it."""
    branch = ["git", "update-ref", "-d", "refs/heads/feature"]
    subprocess.run(branch, cwd=sandbox.repository_path(_BETA), check=True)


# Restoring


def _put(sandbox: Sandbox, archive: Path, identifier: str | None = None) -> None:
    target = _named(sandbox, identifier) if identifier else sandbox.backups / archive.name
    shutil.copy2(archive, target)
    target.chmod(0o600)


def test_restore_onto_an_empty_host_brings_everything_back(empty_host: Sandbox, archive: Path) -> None:
    _put(empty_host, archive)
    result = run(empty_host, "gitlab-rake", "gitlab:backup:restore", *_BOTH)
    expected = _expect("30a", result)
    theirs = expected.section("standard output")
    assert transcripts.copied(result.stdout.splitlines()) == transcripts.copied(theirs)
    _expect_state(empty_host)


def _expect_state(sandbox: Sandbox) -> None:
    """Compare with what the real code left: rows and digests per table, refs, hooks, files, authorized_keys."""
    text = (sandboxes.DATA / "states/restored-from-1795219681-on-empty-host.txt").read_text()
    for table, rows, digest in re.findall(r"^((?:public|gitlab_\w+)\.\w+) (\d+) ([0-9a-f]{32})$", text, re.MULTILINE):
        rows_in_order = "string_agg(x::text, '|' order by x::text collate \"C\")"
        sql = f"select count(*), md5(coalesce({rows_in_order}, '')) from {table} x"
        assert sandbox.sql(sql) == f"{rows}|{digest}", table
    pattern = r"^\./(@\S+) HEAD=(\S+) (\w+) n=(\d+) fsck=0 hooks=(\S*)$"
    repositories = re.findall(pattern, text, re.MULTILINE)
    assert {path for path, *_ in repositories} == set(_repositories(sandbox))
    for path, head, digest, _, hooks in repositories:
        repository = sandbox.repository_path(path)
        script = "git for-each-ref | md5sum; git symbolic-ref HEAD; git fsck >/dev/null 2>&1 && echo sound"
        seen = subprocess.run(["sh", "-c", script], cwd=repository, capture_output=True, text=True, check=True).stdout
        assert [line.split()[0][: max(8, len(head))] for line in seen.splitlines()][1:] == [head, "sound"]
        assert seen.startswith(digest)
        assert "".join(f"{hook.name}," for hook in repository.glob("custom_hooks/*")) == hooks
    # Not "shared/" itself: that directory is the package's, no restore touches it.
    pattern = r"^((?:\.\./gitlab-ci/|shared/.|uploads/).*?) (\d{3})(?: (\d+))?$"
    for path, mode, size in re.findall(pattern, text, re.MULTILINE):
        file = sandbox.data / "gitlab-rails" / path
        assert oct(file.stat().st_mode)[-3:] == mode, path
        assert not size or file.stat().st_size == int(size), path
    assert sandbox.authorized_keys.read_text().startswith(text[text.index("# Managed by") :].rstrip())


@pytest.mark.parametrize(("number", "stdin"), [("30b", ""), ("30c", "maybe\ny\nno\n")])
def test_restore_ends_without_a_yes_and_touches_nothing(host: Sandbox, archive: Path, number: str, stdin: str) -> None:
    _put(host, archive)
    _expect(number, run(host, "gitlab-rake", "gitlab:backup:restore", stdin=stdin))
    assert host.sql("select count(*) from projects") == "3"
    assert _archives(host) == [archive.name]


@pytest.mark.slow
def test_restore_goes_on_after_two_answers(host: Sandbox, archive: Path) -> None:
    """Five seconds of it are GitLab's own pause before it drops the tables."""
    _put(host, archive)
    _expect("30d", run(host, "gitlab-rake", "gitlab:backup:restore", stdin="yes\nyes\n"))


def test_restore_forced_asks_nothing(host: Sandbox, archive: Path) -> None:
    _put(host, archive)
    _expect("30e", run(host, "gitlab-rake", "gitlab:backup:restore", "force=yes"))


def _of_another_version(name: str, content: bytes) -> bytes:
    if name == "backup_information.yml":
        return content.replace(b":gitlab_version: 18.9.0-pre", b":gitlab_version: 18.8.2-ee")
    return content


def test_restore_refuses_another_version(host: Sandbox, archive: Path) -> None:
    _rewritten(archive, _named(host, "vm"), _of_another_version)
    _expect("31a", run(host, "gitlab-rake", "gitlab:backup:restore", "BACKUP=vm", *_BOTH))


def test_restore_refuses_to_choose_between_archives(host: Sandbox, archive: Path) -> None:
    _put(host, archive)
    _put(host, archive, "vm")
    _expect("32a", run(host, "gitlab-rake", "gitlab:backup:restore", *_BOTH))


def test_restore_refuses_an_archive_that_is_not_there(host: Sandbox, archive: Path) -> None:
    _put(host, archive)
    _expect("33a", run(host, "gitlab-rake", "gitlab:backup:restore", "BACKUP=1234_nosuch", *_BOTH))


def test_restore_takes_a_stray_manifest_for_the_backup(host: Sandbox, archive: Path) -> None:
    _put(host, archive)
    stray = host.backups / "backup_information.yml"
    stray.write_text(":gitlab_version: 18.8.2-ee\n:skipped: ''\n")
    _expect("34a", run(host, "gitlab-rake", "gitlab:backup:restore", *_BOTH))
    assert not stray.exists()


def test_restore_of_loose_members_leaves_them(host: Sandbox, empty_host: Sandbox) -> None:
    assert run(host, "gitlab-rake", "gitlab:backup:create", "SKIP=tar").status == 0
    shutil.copytree(host.backups, empty_host.backups, dirs_exist_ok=True)
    before = transcripts.directory_of(empty_host.backups)
    _expect("35a", run(empty_host, "gitlab-rake", "gitlab:backup:restore", *_BOTH))
    assert transcripts.directory_of(empty_host.backups) == before


def _with_truncated_bundle(name: str, content: bytes) -> bytes:
    return content[:-200] if _SHA2 in name and name.endswith("001.bundle") else content


def test_restore_succeeds_with_a_truncated_bundle(empty_host: Sandbox, archive: Path) -> None:
    """It ends with status 0, and the repository is there and empty."""
    _rewritten(archive, empty_host.backups / archive.name, _with_truncated_bundle)
    _expect("38", run(empty_host, "gitlab-rake", "gitlab:backup:restore", *_BOTH))
    assert _repositories(empty_host)[_BETA] == 0


def test_restore_of_an_increment_loses_what_had_not_changed(empty_host: Sandbox, incremental_archive: Path) -> None:
    _put(empty_host, incremental_archive)
    _expect("40a", run(empty_host, "gitlab-rake", "gitlab:backup:restore", *_BOTH))
    listed = (sandboxes.DATA / "transcripts/40a-repositories-after.txt").read_text()
    expected = {path: int(refs) for path, refs in re.findall(r"^\./(\S+) (\d+)$", listed, re.MULTILINE)}
    assert _repositories(empty_host) == expected


def test_restore_of_a_renamed_archive_is_complete(host: Sandbox, archive: Path) -> None:
    _put(host, archive, "renamed")
    _expect("43", run(host, "gitlab-rake", "gitlab:backup:restore", "BACKUP=renamed", *_BOTH))
    assert len(_repositories(host)) == 6


def _with_another_key(name: str, content: bytes) -> bytes:
    return content + b":future_key: 1\n" if name == "backup_information.yml" else content


def test_restore_does_not_know_a_key_of_the_future(host: Sandbox, archive: Path) -> None:
    _rewritten(archive, _named(host, "newkey"), _with_another_key)
    _expect("44b", run(host, "gitlab-rake", "gitlab:backup:restore", "BACKUP=newkey", *_BOTH))


@pytest.mark.parametrize(("number", "options"), [("48a", ("force=yes",)), ("48c", _BOTH)])
def test_restore_meets_sql_errors(host: Sandbox, number: str, options: tuple[str, ...]) -> None:
    """A sequence has the name of a table, and the drop leaves it alone.

    The table is empty in the archive: before 17.11 (seen: 15.18) psql takes the rows behind a COPY that failed for
    statements, and loses the statements after them.
    """
    host.sql("delete from issues")
    assert run(host, "gitlab-rake", "gitlab:backup:create").status == 0
    host.sql("drop table issues cascade; create sequence issues")
    identifier = _archives(host)[0].removesuffix("_gitlab_backup.tar")
    _expect(number, run(host, "gitlab-rake", "gitlab:backup:restore", f"BACKUP={identifier}", *options))
    assert host.sql("select relkind from pg_class where relname = 'issues'") == "S"
