"""The dumps of real PostgreSQL: that of GitLab's own backup code, and that of a seeded sandbox."""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.demo.standin import secret_file
from drtool.gitlab.dump import DumpCheck
from drtool.gitlab.secrets import Fit, Sample, SecretsCheck, SecretsVerdict, read_secrets
from tests import sandboxes

SEEDED = {
    "public.application_settings.asset_proxy_secret_key": 1,
    "public.application_settings.encrypted_ci_job_token_signing_key": 1,
    "public.application_settings.encrypted_ci_jwt_signing_key": 1,
    "public.application_settings.error_tracking_access_token_encrypted": 1,
    "public.application_settings.runners_registration_token_encrypted": 1,
    "public.ci_group_variables.encrypted_value": 3,
    "public.ci_runners.token_encrypted": 3,
    "public.ci_variables.encrypted_value": 8,
    "public.cloud_connector_keys.secret_key": 2,
    "public.integrations.encrypted_properties": 3,
    "public.namespaces.runners_token_encrypted": 7,
    "public.projects.runners_token_encrypted": 24,
    "public.users.encrypted_otp_secret": 1,
    "public.web_hooks.encrypted_token": 4,
    "public.web_hooks.encrypted_url": 4,
    "public.web_hooks.encrypted_url_variables": 4,
}


def judge(dump: bytes, secrets: bytes, sample: Sample | None = None) -> SecretsVerdict:
    check = SecretsCheck(read_secrets(secrets_json=secrets), sample=sample)
    reading = DumpCheck(watchers=[check])
    for start in range(0, len(dump), 1 << 16):
        reading.write(memoryview(dump[start : start + (1 << 16)]))
    assert reading.finish().rows
    return check.finish()


def counts(verdict: SecretsVerdict, *, opened: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for column in verdict.columns:
        name = f"{column.table}.{column.column}"
        found[name] = found.get(name, 0) + (column.opened if opened else column.failed)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.fresh(tmp_path_factory.mktemp("secrets") / "host") as sandbox:
        seed(sandbox)
        yield sandbox


def dump_of(sandbox: Sandbox, tmp_path: Path) -> bytes:
    """What the host's own backup archives."""
    result = sandboxes.run(sandbox, "gitlab-backup", "create", f"BACKUP={tmp_path.name}")
    assert result.status == 0, result.stdout + result.stderr
    archive = sandbox.backups / f"{tmp_path.name}_gitlab_backup.tar"
    command = ["tar", "-xOf", str(archive), "db/database.sql.gz"]
    return gzip.decompress(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.engine("postgresql")
@pytest.mark.engine("git")
@pytest.mark.parametrize("output", ["hex", "escape"])
def test_the_dump_of_a_host_fits_its_secrets_value_by_value_and_no_others(
    host: Sandbox, tmp_path: Path, output: str
) -> None:
    host.sql(f"alter database {host_database(host)} set bytea_output = '{output}'", superuser=True)
    dump = dump_of(host, tmp_path)
    assert (b"\t\\\\x" in dump) is (output == "hex")
    for sample in (None, Sample()):
        verdict = judge(dump, host.gitlab_secrets.read_bytes(), sample)
        assert verdict.fit is Fit.FITS
        assert counts(verdict, opened=True) == SEEDED
        assert not verdict.untested
    wrong = judge(dump, json.dumps(secret_file.complete({})).encode())  # what a new host generates for itself
    assert wrong.fit is Fit.DOES_NOT_FIT
    assert counts(wrong, opened=False) == SEEDED


def host_database(host: Sandbox) -> str:
    return host.sql("select current_database()").strip()


def test_the_real_archive_has_nothing_to_test_with_and_that_is_not_called_a_fit() -> None:
    with tarfile.open(sandboxes.OBSERVED_ARCHIVE) as archive:
        member = archive.extractfile("db/database.sql.gz")
        assert member is not None
        dump = gzip.GzipFile(fileobj=BytesIO(member.read())).read()
    verdict = judge(dump, b'{"gitlab_rails": {"db_key_base": "fake-key-base"}}')
    assert verdict.fit is Fit.UNTESTED
    assert not verdict.columns
