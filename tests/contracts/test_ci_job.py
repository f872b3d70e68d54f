"""contrib/gitlab-ci/verify-backups.yml: GitLab would take it, and its script does what it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from drtool.errors import IdentityMismatch, ObjectiveBreached, SetDamaged
from tests.playground import PROGRAM, Playground, playground

pytestmark = pytest.mark.engine("postgresql")

FILE = Path(__file__).parents[2] / "contrib/gitlab-ci/verify-backups.yml"


def job() -> dict[str, Any]:
    (found,) = yaml.safe_load(FILE.read_text()).values()
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with playground(tmp_path_factory.mktemp("ci")) as made:
        assert made.drtool("backup").status == 0
        yield made


def run_script(place: Playground, at: Path, **variables: str) -> int:
    """Run the job's script lines as a GitLab runner does: one shell, stopping at the first failure."""
    programs = at / "bin"
    programs.mkdir()
    (programs / "drtool").symlink_to(PROGRAM)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(at),
        **job()["variables"],
        "DRTOOL_CONFIG": str(place.made.config),
        "DRTOOL_INSTANCE": "gitlab",
        **variables,
    }
    script = "set -eo pipefail\n" + "\n".join(job()["script"])
    return subprocess.run(("bash", "-c", script), cwd=at, env=environment, check=False).returncode


def test_job_is_what_gitlab_understands() -> None:
    found = job()
    assert set(found) <= {"image", "rules", "parallel", "variables", "before_script", "script", "artifacts"}
    assert all(isinstance(line, str) for line in [*found["before_script"], *found["script"]])
    assert all(isinstance(value, str) for value in found["variables"].values())
    assert found["parallel"] == {"matrix": [{"DRTOOL_INSTANCE": ["gitlab"]}]}
    assert found["artifacts"]["when"] == "always"
    assert found["artifacts"]["reports"]["junit"] in " ".join(found["script"])


@pytest.mark.parametrize("level", ["digest", "contents"])
def test_script_verifies_and_leaves_a_report(place: Playground, tmp_path: Path, level: str) -> None:
    variables = {"DRTOOL_LEVEL": level}
    if level == "contents":
        variables["DRTOOL_IDENTITY"] = str(place.made.identity)
    assert run_script(place, tmp_path, **variables) == 0
    report = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert report.get("failures") == "0"
    assert int(report.get("tests", "0")) > 3
    assert json.loads((tmp_path / "verdict.jsonl").read_text().splitlines()[-1])["level"] == level


def test_script_fails_for_a_set_that_is_too_old(place: Playground, tmp_path: Path) -> None:
    assert run_script(place, tmp_path, DRTOOL_NEWER_THAN="0m") == ObjectiveBreached.exit_status
    assert ElementTree.parse(tmp_path / "report.xml").getroot().get("failures") == "1"


def test_script_fails_without_the_identity_that_contents_need(place: Playground, tmp_path: Path) -> None:
    config = place.configure("without.toml", ('identities = ["file:identity.txt"]', ""))
    status = run_script(place, tmp_path, DRTOOL_LEVEL="contents", DRTOOL_CONFIG=str(config))
    assert status == IdentityMismatch.exit_status


def test_script_fails_for_damage_and_says_where(place: Playground, tmp_path: Path) -> None:
    volume = next(place.store.rglob("application-0000*"))
    content = volume.read_bytes()
    volume.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert run_script(place, tmp_path) == SetDamaged.exit_status
    finally:
        volume.write_bytes(content)
    failure = ElementTree.parse(tmp_path / "report.xml").getroot().find("testcase/failure")
    assert failure is not None
    assert "application-0000" in str(failure.get("message"))
