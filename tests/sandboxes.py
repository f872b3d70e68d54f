"""Sandboxes for tests: plain functions, to be called from fixtures.

``observed`` is an instance with the content of a real archive: GitLab 18.9.0-pre, six repositories, twenty tables
(tests/data/gitlab-18.9). It is built once per process; a clone of it takes well under a second::

    @pytest.fixture
    def host(tmp_path: Path) -> Iterator[Sandbox]:
        with sandboxes.observed(tmp_path / "host") as sandbox:
            yield sandbox
"""

from __future__ import annotations

import atexit
import functools
import gzip
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.demo import postgres
from drtool.demo.sandbox import Sandbox
from drtool.errors import HostUnfit

DATA = Path(__file__).parent / "data/gitlab-18.9"
OBSERVED_VERSION = "18.9.0-pre"
OBSERVED_ID = "1795219681_2026_11_21_18.9.0-pre"
OBSERVED_ARCHIVE = DATA / f"archives/{OBSERVED_ID}_gitlab_backup.tar"

UPGRADE_SKIP = (
    "repositories,uploads,builds,artifacts,lfs,terraform_state,registry,pages,packages,ci_secure_files,external_diffs"
)


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    stdout: str
    stderr: str


def require() -> None:
    """Skip the test, with the reason, where sandboxes cannot be made."""
    try:
        postgres.find_programs()
    except HostUnfit as reason:
        pytest.skip(str(reason))
    for program in ("git", "tar", "gzip", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("running as root, and setpriv (util-linux) is not installed")


def fresh(root: Path, *, version: str = "18.9.0-ee") -> Sandbox:
    """A host right after installation: a clone of one that is made once per process and version."""
    return _empty_template(version).clone(root)


def observed(root: Path) -> Sandbox:
    """A host with the content of the real archive, running."""
    return _observed_template().clone(root)


def run(
    sandbox: Sandbox, command: str, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None
) -> Result:
    """Run one of the sandbox's commands to its end."""
    result = subprocess.run(
        [str(sandbox.bin / command), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return Result(result.returncode, result.stdout, result.stderr)


def upgrade_backup(sandbox: Sandbox) -> Path:
    """The database-only archive that a package upgrade makes, under a perfectly normal name."""
    before = set(sandbox.backups.iterdir())
    result = run(sandbox, "gitlab-rake", "gitlab:backup:create", f"SKIP={UPGRADE_SKIP}")
    assert result.status == 0, result.stdout + result.stderr
    (archive,) = set(sandbox.backups.iterdir()) - before
    return archive


@functools.cache
def _empty_template(version: str) -> Sandbox:
    sandbox = Sandbox.create(_template_root(), version=version)
    sandbox.stop()
    return sandbox


@functools.cache
def _observed_template() -> Sandbox:
    sandbox = Sandbox.create(_template_root(), version=OBSERVED_VERSION)
    # The transcripts were made with this address; it is part of the warning before a restore.
    sandbox.gitlab_rb.write_text("external_url 'http://gitlab.example.com'\n")
    with tempfile.TemporaryDirectory() as unpacked:
        # Not tarfile: its filters came with Python 3.11.4, and Debian 12 has 3.11.2.
        subprocess.run(["tar", "-xf", str(OBSERVED_ARCHIVE), "-C", unpacked, "--no-same-owner"], check=True)
        _fill(sandbox, Path(unpacked))
    sandbox.stop()
    return sandbox


def _template_root() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="drtool-template-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory / "gitlab"


def _fill(sandbox: Sandbox, members: Path) -> None:
    """Restore by hand, without the stand-in: the fixture must not depend on what is tested with it."""
    _load_dump(sandbox, gzip.decompress((members / "db/database.sql.gz").read_bytes()).decode())
    for refs in sorted(members.glob("repositories/default/**/001.refs")):
        relative = refs.parent.parent.relative_to(members / "repositories/default")
        _make_repository(sandbox.repositories / relative, refs)
    directories = {
        "uploads": sandbox.uploads,
        "builds": sandbox.builds,
        "lfs": sandbox.shared / "lfs-objects",
        "external_diffs": sandbox.shared / "external-diffs",
    }
    for tarball in members.glob("*.tar.gz"):
        name = tarball.name.removesuffix(".tar.gz")
        target = directories.get(name, sandbox.shared / name)
        # As root tar would keep the uid 998 of the real host, which means nothing here.
        subprocess.run(["tar", "--no-same-owner", "-p", "-C", str(target), "-xzf", str(tarball)], check=True)


def _load_dump(sandbox: Sandbox, dump: str) -> None:
    """Load the real SQL, without what this PostgreSQL lacks: settings of a newer one, extensions."""
    available = sandbox.sql("select extname from pg_extension").split()
    dump = re.sub(r"^(SET transaction_timeout.*|\\(un)?restrict .*)\n", "", dump, flags=re.MULTILINE)
    dump = re.sub(r"^(CREATE|COMMENT ON|DROP) EXTENSION .*\n", "", dump, flags=re.MULTILINE)
    if "btree_gist" not in available:
        dump = re.sub(r"ALTER TABLE ONLY public\.issues\n    ADD CONSTRAINT \w+ EXCLUDE .*;\n", "", dump)
    if "pg_trgm" not in available:
        dump = re.sub(r"CREATE INDEX .* public\.gin_trgm_ops\);\n", "", dump)
    sandbox.sql(dump)


def _make_repository(path: Path, refs: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    bundle, hooks = refs.with_name("001.bundle"), refs.with_name("001.custom_hooks.tar")
    if bundle.exists():
        subprocess.run(["git", "-C", str(path), "fetch", "-q", str(bundle), "+refs/*:refs/*"], check=True)
    if hooks.exists():
        subprocess.run(["tar", "--no-same-owner", "-C", str(path), "-xf", str(hooks)], check=True)
