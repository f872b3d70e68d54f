"""A set comes back without drtool (I11): with the README's own lines, the real age and tar, and GitLab's command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.demo.census import Census, difference, doctor, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.signing import public_key
from tests import sandboxes
from tests.playground import Playground, lay_out

pytestmark = [pytest.mark.engine("age"), pytest.mark.engine("postgresql")]

README = Path(__file__).parents[2] / "README.md"
VERSION = "18.9.1-ee"

CONFIGURATION = """\
age -d -i key.txt config-0000.tar.age | tar -x -p -C / --exclude=opt
gitlab-ctl reconfigure
gitlab-ctl stop puma
gitlab-ctl stop sidekiq
"""
DATA = """\
cd /srv/gitlab-backups/gitlab/sets/ID
for v in application-*.tar.age; do age -d -i key.txt "$v"; done | tar -x -C /var/opt/gitlab/backups
gitlab-backup restore force=yes
"""
AFTERWARDS = ("gitlab-ctl start", "gitlab-rake gitlab:check SANITIZE=true", "gitlab-rake gitlab:doctor:secrets")
SIGNATURE = "ssh-keygen -Y verify -f signers -I drtool-host -n drtool -s manifest.json.sig < manifest.json\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Playground, Census]]:
    """A seeded host with one set of several volumes, and what the host held."""
    if shutil.which("age") is None:
        pytest.skip("age is not installed")
    sandboxes.require()
    base = tmp_path_factory.mktemp("without-drtool")
    with sandboxes.fresh(base / "host", version=VERSION) as host:
        seed(host, projects=4, bulk_bytes=2 << 20)
        made = lay_out(base, host)
        small = made.configure("small.toml", ('# volume_size = "1 GiB"', 'volume_size = "512 KiB"'))
        ran = made.drtool("backup", "--config", small)
        assert ran.status == 0, ran.stderr
        yield made, take_census(host)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Sandbox]:
    with sandboxes.fresh(tmp_path / "target", version=VERSION) as sandbox:
        yield sandbox


@pytest.fixture
def folder(place: tuple[Playground, Census], tmp_path: Path) -> Path:
    """The set's folder, fetched from the store by whatever copies files, with the age identity beside it."""
    made, _ = place
    (committed,) = (made.store / "gitlab/sets").iterdir()
    shutil.copytree(committed, tmp_path / "set")
    shutil.copy(made.made.identity, tmp_path / "set/key.txt")
    assert len(list((tmp_path / "set").glob("application-*.tar.age"))) > 2
    return tmp_path / "set"


@pytest.mark.parametrize("text", [CONFIGURATION, DATA, *AFTERWARDS, SIGNATURE])
def test_readme_shows_the_lines_that_are_tested_here(text: str) -> None:
    assert text in README.read_text()


def test_set_is_restored_with_age_tar_and_gitlab_alone(
    place: tuple[Playground, Census], target: Sandbox, folder: Path
) -> None:
    _sh(CONFIGURATION, target, folder)
    _sh(DATA, target, folder)
    said = [_sh(command, target, folder) for command in AFTERWARDS]
    assert "Checking GitLab subtasks ... Finished" in said[1]
    assert "Total: 0 row(s) affected" in said[2]
    assert difference(place[1], take_census(target)) == []
    opened, failed = doctor(target)
    assert opened > 0
    assert failed == 0


def test_signature_is_checked_with_openssh_alone(
    place: tuple[Playground, Census], target: Sandbox, folder: Path
) -> None:
    key = public_key(place[0].made.signing_key)
    (folder / "signers").write_text(f"drtool-host {key}\n")
    assert "Good" in _sh(SIGNATURE, target, folder)
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"green", b"amber"))
    with pytest.raises(AssertionError):
        _sh(SIGNATURE, target, folder)


def _sh(script: str, target: Sandbox, folder: Path) -> str:
    """Run lines of the README as they stand there, but for the places: the sandbox is the host."""
    for place, here in (
        ("/srv/gitlab-backups/gitlab/sets/ID", folder),
        ("/var/opt/gitlab/backups", target.backups),
        (" -C / ", f" -C {target.root} "),
    ):
        script = script.replace(place, str(here))
    environment = {**os.environ, "PATH": f"{target.bin}:{os.environ['PATH']}"}
    command = ["sh", "-e", "-c", script]
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
