"""What the stand-in does when something goes wrong, by switch and for real: as observed with GitLab 18.9."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drtool.demo.sandbox import Sandbox
from tests import sandboxes
from tests.sandboxes import Result, run

pytestmark = pytest.mark.engine("sandbox")

_BOTH = ("force=yes", "GITLAB_ASSUME_YES=1")
_SHA2 = "d4/73/d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.observed(tmp_path / "host") as sandbox:
        yield sandbox


def _create(host: Sandbox, *arguments: str) -> Result:
    return run(host, "gitlab-backup", "create", "BACKUP=x", *arguments)


def _restore(host: Sandbox, *arguments: str) -> Result:
    return run(host, "gitlab-backup", "restore", *_BOTH, *arguments)


def _members(host: Sandbox, name: str = "x") -> list[str]:
    with tarfile.open(host.backups / f"{name}_gitlab_backup.tar") as tar:
        return tar.getnames()


def _dump_in(host: Sandbox) -> bytes:
    with tarfile.open(host.backups / "x_gitlab_backup.tar") as tar:
        stream = tar.extractfile("db/database.sql.gz")
        assert stream is not None
        return gzip.decompress(stream.read())


def _is_complete(host: Sandbox) -> bool:
    """Look for the last member: an archive cut between two members lists without an error, also with GNU tar."""
    command = ["tar", "-tf", str(host.backups / "x_gitlab_backup.tar")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode == 0 and result.stdout.endswith("\nexternal_diffs.tar.gz\n")


def _left(host: Sandbox) -> list[str]:
    return sorted(path.name for path in host.backups.iterdir())


# gitlab-backup, the wrapper


@pytest.mark.parametrize(("arguments", "status"), [(["-h"], 0), (["--nonsense"], 1), (["destroy"], 1)])
def test_wrapper_answers_options_without_a_run(host: Sandbox, arguments: list[str], status: int) -> None:
    result = run(host, "gitlab-backup", *arguments)
    assert result.status == status
    assert "Usage: gitlab-backup" in result.stdout + result.stderr
    assert _left(host) == []


def test_wrapper_needs_its_settings_file(host: Sandbox) -> None:
    (host.root / "opt/gitlab/etc/gitlab-rails-rc").unlink()
    assert run(host, "gitlab-backup", "create").status == 2


def test_wrapper_splits_values_with_blanks_and_rake_finds_no_such_task(host: Sandbox) -> None:
    """The run itself is complete, under another name than was meant."""
    result = run(host, "gitlab-backup", "create", "BACKUP=my backup")
    assert result.status == 1
    assert "Don't know how to build task 'backup'" in result.stderr
    assert _left(host) == ["my_gitlab_backup.tar"]


# Creating


def test_dump_that_dies_is_a_valid_gzip_of_half_the_sql(host: Sandbox) -> None:
    host.switch(pg_dump="dies")
    assert _create(host).status == 1
    dump = _dump_in(host)
    assert dump.startswith(b"--\n-- PostgreSQL database dump\n")
    assert b"dump complete" not in dump


def test_pg_dump_of_another_version_says_so(host: Sandbox) -> None:
    host.switch(pg_dump="version")
    result = _create(host)
    assert result.status == 1
    assert "server version mismatch" in result.stderr
    assert _dump_in(host) == b""


def test_silent_failure_ends_with_status_0(host: Sandbox) -> None:
    host.switch(silent_failure=True)
    result = _create(host)
    assert result.status == 0
    assert "Dumping database failed" in result.stdout
    assert _dump_in(host) == b""


def test_switch_turned_off_has_no_effect(host: Sandbox) -> None:
    host.switch(pg_dump="dies")
    host.switch(pg_dump=None)
    assert _create(host).status == 0
    assert b"dump complete" in _dump_in(host)


def test_tar_that_met_a_changing_file_is_tolerated(host: Sandbox) -> None:
    host.switch(tar_changes="uploads")
    result = _create(host)
    assert result.status == 0
    assert "Ignoring tar exit status 1 'Some files differ'" in result.stdout


def test_full_disk_while_packing_leaves_half_an_archive_under_its_name(host: Sandbox) -> None:
    host.switch(disk_full=True)
    result = _create(host)
    assert result.status == 1
    assert "Creating archive x_gitlab_backup.tar failed" in result.stdout
    assert "Backup::Error: Backup failed" in result.stderr
    assert _left(host) == ["x_gitlab_backup.tar"]
    assert not _is_complete(host)


def test_full_disk_in_a_component_is_a_failed_component(host: Sandbox) -> None:
    host.switch(disk_full="uploads")
    result = _create(host)
    assert result.status == 1
    assert "Dumping uploads failed" in result.stdout
    assert "uploads.tar.gz" in _members(host)


def test_missing_component_directory_ends_the_run(host: Sandbox) -> None:
    (host.shared / "packages").rmdir()
    result = _create(host)
    assert result.status == 1
    assert "Errno::ENOENT" in result.stderr
    assert _left(host) == []


def test_failed_upload_leaves_the_archive_and_prunes_nothing(host: Sandbox) -> None:
    host.configure(keep_time=60, remote_directory="far")
    host.switch(upload="fails")
    old = host.backups / "1477883719_gitlab_backup.tar"
    old.write_bytes(b"")
    result = _create(host)
    assert result.status == 1
    assert "Uploading backup archive to remote storage far ... " in result.stdout
    assert _left(host) == [old.name, "x_gitlab_backup.tar"]


def test_postgres_that_is_down_ends_the_run_before_the_first_component(host: Sandbox) -> None:
    host.postgres.stop()
    result = _create(host)
    assert result.status == 1
    assert "ActiveRecord::ConnectionNotEstablished" in result.stderr
    assert "Dumping" not in result.stdout


def test_copy_strategy_leaves_no_copies(host: Sandbox) -> None:
    assert _create(host, "STRATEGY=copy").status == 0
    assert _left(host) == ["x_gitlab_backup.tar"]


def test_repositories_can_be_limited_to_a_group(host: Sandbox) -> None:
    assert _create(host, "REPOSITORIES_PATHS=grp/sub").status == 0
    refs = [name for name in _members(host) if name.endswith(".refs")]
    assert len(refs) == 1
    assert _SHA2 in refs[0]


def test_increment_inherits_what_its_base_skipped(host: Sandbox) -> None:
    assert run(host, "gitlab-backup", "create", "BACKUP=base", "SKIP=db").status == 0
    result = run(host, "gitlab-backup", "create", "INCREMENTAL=yes", "PREVIOUS_BACKUP=base", "BACKUP=next")
    assert result.status == 0
    assert "Dumping database ... [SKIPPED]" in result.stdout
    assert "db/database.sql.gz" not in _members(host, "next")


def test_upgrade_makes_a_database_only_archive_with_a_normal_name(host: Sandbox) -> None:
    archive = sandboxes.upgrade_backup(host)
    assert archive.name.endswith("_18.9.0-pre_gitlab_backup.tar")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["backup_information.yml", "db", "db/database.sql.gz"]


# The lock


@pytest.mark.parametrize("content", ["nonsense", "0", "1"])
def test_lock_blocks_on_what_reads_as_a_living_process(host: Sandbox, content: str) -> None:
    host.lock.write_text(content)
    result = _create(host)
    assert result.status == 1
    assert "There is a backup and restore task in progress" in result.stdout
    assert host.lock.read_text() == content


def test_lock_of_a_number_too_large_raises(host: Sandbox) -> None:
    host.lock.write_text("9" * 30)
    result = _create(host)
    assert result.status == 1
    assert "RangeError" in result.stderr


def test_lock_keeps_the_tail_of_a_longer_stale_pid(host: Sandbox) -> None:
    host.lock.write_text("4194303")  # the greatest there can be
    host.switch(pause="lock:20")
    with subprocess.Popen([host.bin / "gitlab-backup", "create"], stdout=subprocess.DEVNULL) as process:
        _until(lambda: host.lock.read_text() != "4194303")
        own = str(process.pid)
        assert host.lock.read_text() == own + "4194303"[len(own) :]
        process.kill()


# Killing


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_killed_while_packing_leaves_everything(host: Sandbox) -> None:
    host.switch(kill="pack")
    assert _create(host).status == -signal.SIGKILL
    left = _left(host)
    assert {"backup_information.yml", "db", "repositories", "uploads.tar.gz", "x_gitlab_backup.tar"} < set(left)
    assert host.lock.exists()
    assert not _is_complete(host)


@pytest.mark.parametrize("phase", ["lock", "db", "repositories", "uploads", "information", "packed", "cleanup"])
def test_run_after_a_kill_converges(host: Sandbox, phase: str) -> None:
    host.switch(kill=phase)
    assert _create(host).status == -signal.SIGKILL
    host.switch(kill=None)
    result = _create(host)
    assert result.status == 0, result
    assert "but the process is not running" in result.stdout
    assert _left(host) == ["x_gitlab_backup.tar"]


@pytest.mark.parametrize(("to_the_group", "complete"), [(False, True), (True, False)])
def test_signal_while_packing_ends_with_1_and_cleans_up(host: Sandbox, to_the_group: bool, complete: bool) -> None:
    """To rake alone: the archive is completed first. To the whole group, as by Ctrl-C: it is cut."""
    host.switch(pause="pack:2")
    archive = host.backups / "x_gitlab_backup.tar"
    command = [str(host.bin / "gitlab-backup"), "create", "BACKUP=x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        _until(lambda: archive.exists() and archive.stat().st_size > 0)
        if to_the_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        output, _ = process.communicate()
    assert process.returncode == 1
    assert "is done." not in output
    assert _left(host) == [archive.name]
    assert not host.lock.exists()
    assert _is_complete(host) == complete


# Restoring


def test_restore_can_skip_every_repository_and_succeed(host: Sandbox) -> None:
    assert _create(host).status == 0
    host.switch(restore_skips_repositories=True)
    result = _restore(host)
    assert result.status == 0
    assert result.stdout.count("skipped restore") == 8
    assert list(host.repositories.rglob("*.git")) == []


def test_restore_meets_an_sql_error_by_switch(host: Sandbox) -> None:
    assert _create(host).status == 0
    host.switch(restore_sql_errors=True)
    result = _restore(host)
    assert result.status == 0
    assert "------ BEGIN ERRORS -----" in result.stdout


def test_restore_without_the_registry_member_stops_halfway(host: Sandbox) -> None:
    """The database is replaced by then, the registry's old content moved aside and gone."""
    assert _create(host).status == 0
    host.configure(registry=True)
    (host.shared / "registry/layer").write_text("x")
    host.sql("delete from issues")
    result = _restore(host)
    assert result.status == 1
    assert "Errno::ENOENT" in result.stderr
    assert "registry.tar.gz" in result.stderr
    assert host.sql("select count(*) from issues") == "250"
    assert not (host.shared / "registry/layer").exists()
    assert _left(host) == ["x_gitlab_backup.tar"]


def test_restore_of_a_cut_archive_leaves_loose_members(host: Sandbox) -> None:
    assert _create(host).status == 0
    archive = host.backups / "x_gitlab_backup.tar"
    archive.write_bytes(archive.read_bytes()[:60000])
    result = _restore(host)
    assert result.status == 1
    assert "backup_information.yml" in _left(host)
    assert host.sql("select count(*) from projects") == "3"


def test_restore_of_an_empty_dump_removes_all_repositories(host: Sandbox) -> None:
    host.switch(pg_dump="fails")
    assert _create(host).status == 1
    result = _restore(host)
    assert result.status == 1
    assert "Restoring database ... done" in result.stdout
    assert list(host.repositories.rglob("*.git")) == []


def test_restore_of_a_damaged_dump_has_dropped_the_tables(host: Sandbox) -> None:
    assert _create(host, "SKIP=tar").status == 0
    dump = host.backups / "db/database.sql.gz"
    dump.write_bytes(b"no gzip")
    result = _restore(host)
    assert result.status == 1
    assert "[FAILED]" in result.stdout
    assert host.sql("select count(*) from pg_tables where schemaname = 'public'") == "0"


def test_drop_stops_at_a_materialized_view(host: Sandbox) -> None:
    """The list of migrations is empty by then, everything else still there."""
    assert _create(host).status == 0
    host.sql("create materialized view many as select * from users")
    assert _restore(host).status == 1
    assert host.sql("select count(*) from schema_migrations") == "0"
    assert host.sql("select count(*) from users") == "120"


def test_restore_asks_about_authorized_keys_unless_literally_forced(host: Sandbox) -> None:
    assert _create(host).status == 0
    result = run(host, "gitlab-backup", "restore", "FORCE=yes")
    assert result.status == 1
    assert "This task will now rebuild the authorized_keys file." in result.stdout
    assert "NoMethodError" in result.stderr


def test_restore_takes_the_default_archive_when_blanks_surround_the_equals_sign(host: Sandbox) -> None:
    assert _create(host).status == 0
    result = run(host, "gitlab-backup", "restore", *_BOTH, "BACKUP", "=", "y")
    assert result.status == 1
    assert "Restore task is done." in result.stdout
    assert "Don't know how to build task 'BACKUP'" in result.stderr


def test_restore_of_a_truncated_bundle_passes_where_the_objects_are(host: Sandbox) -> None:
    """Refs are reset and the bundle is not read: a check that restores over the source proves nothing."""
    assert _create(host, "SKIP=tar").status == 0
    (bundle,) = host.backups.glob(f"repositories/default/@hashed/{_SHA2}.git/*/001.bundle")
    bundle.write_bytes(bundle.read_bytes()[:-200])
    result = _restore(host)
    assert result.status == 0
    assert "gitaly-backup exit status" not in result.stdout


def test_restore_needs_gitaly_backup(host: Sandbox) -> None:
    assert _create(host).status == 0
    (host.root / "opt/gitlab/embedded/bin/gitaly-backup").unlink()
    result = _restore(host)
    assert result.status == 1
    assert "gitaly-backup" in result.stderr


def test_restore_deletes_what_was_moved_aside(host: Sandbox) -> None:
    assert _create(host).status == 0
    (host.uploads / "newer").write_text("x")
    assert _restore(host).status == 0
    assert not (host.uploads / "newer").exists()
    assert not (host.backups / "tmp").exists()


def test_two_archives_and_an_empty_name_take_the_first(host: Sandbox) -> None:
    assert _create(host).status == 0
    shutil.copy(host.backups / "x_gitlab_backup.tar", host.backups / "y_gitlab_backup.tar")
    assert _restore(host, "BACKUP=").status == 0
