"""A set is restored without drtool, by the very lines of the README (I11)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.demo.census import difference, doctor, take_census
from drtool.demo.sandbox import Sandbox
from tests import sandboxes
from tests.playground import Playground, playground

README = Path(__file__).parent.parent.parent / "README.md"


def readme_block(beginning: str) -> str:
    """The fenced block of the section "Restore without drtool" that begins like this."""
    section = README.read_text().partition("## Restore without drtool\n")[2].partition("\n## ")[0]
    (block,) = re.findall(rf"^```\n({re.escape(beginning)}.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Playground]:
    if shutil.which("age") is None:
        pytest.skip("age is not installed")
    with playground(tmp_path) as place:
        place.configure("drtool.toml", ("# volume_size = ", 'volume_size = "64 KiB" #'))  # several volumes
        yield place


@pytest.mark.engine("age")
def test_the_lines_of_the_readme_restore_an_instance(lost: Playground, tmp_path: Path) -> None:
    before = take_census(lost.host)
    assert lost.drtool("backup").status == 0
    set_id = lost.drtool("list", "--json").last["sets"][0]["set_id"]
    folder = lost.store / "gitlab/sets" / set_id
    assert len(list(folder.glob("application-*.tar.age"))) > 1
    secrets = lost.host.gitlab_secrets.read_bytes()
    lost.host.stop()
    with sandboxes.fresh(tmp_path / "new", version=sandboxes.OBSERVED_VERSION) as target:
        _run(readme_block("age -d "), target, lost, folder)
        assert target.gitlab_secrets.read_bytes() == secrets
        _run(readme_block("cd "), target, lost, folder)
        assert difference(before, take_census(target)) == []
        assert doctor(target)[1] == 0


def _run(script: str, target: Sandbox, lost: Playground, folder: Path) -> None:
    """Run a block with the places of this test in those of the README; every line must end well."""
    assert set(re.findall(r"(?<=\s)/\S*", script)) <= {
        "/srv/gitlab-backups/gitlab/sets/ID",
        "/var/opt/gitlab/backups",
        "/",
    }
    places = {
        "/srv/gitlab-backups/gitlab/sets/ID": str(folder),
        "key.txt": str(lost.made.identity),
        "/var/opt/gitlab/backups": str(target.backups),
        "-C / ": f"-C {target.root} ",
    }
    for of_readme, of_test in places.items():
        script = script.replace(of_readme, of_test)
    assert " / " not in script  # never the real root
    path = f"{target.bin}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
