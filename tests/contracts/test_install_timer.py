"""`drtool install-timer` by the real console script, on the root directory of a host that is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from drtool.core.schedule import JOBS
from tests.playground import Ran, drtool

pytestmark = pytest.mark.engine("systemctl")
CONFIG = """\
state_dir = "{state}"
[[instance]]
name = "gitlab"
store = "main"
backup_path = "/srv/gitlab's backups"
[[instance.copies]]
store = "share"
{more}
[store.main]
kind = "s3"
bucket = "backups"
access_key_id = "env:FAKE_KEY_ID"
secret_access_key = "file:/etc/drtool/secret"
[store.share]
kind = "local"
path = "/mnt/share"
"""
SECOND = '[[instance]]\nname = "other.one"\nstore = "share"\n'
CRON = "etc/cron.d/drtool"
# There, and where units can reach it: a checkout may be below /tmp, where systemd would not let them see it.
PROGRAM = Path("/bin/sh")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if shutil.which("systemctl") is None:
        pytest.skip("systemctl is not installed")
    configure(tmp_path)
    return tmp_path


def configure(root: Path, *, state: str = "/var/lib/drtool", more: str = "") -> None:
    (root / "etc/drtool").mkdir(parents=True, exist_ok=True)
    (root / "etc/drtool/drtool.toml").write_text(CONFIG.format(state=state, more=more))


def install(root: Path, *words: str) -> Ran:
    return drtool("install-timer", "--root", root, "--program", PROGRAM, "-c", root / "etc/drtool/drtool.toml", *words)


def files(root: Path) -> dict[str, str]:
    """Everything there but the configuration: a file's text, or where a link leads."""
    found = [path for path in root.rglob("*") if path.is_symlink() or (path.is_file() and path.suffix != ".toml")]
    return {str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_text() for path in found}


def actions(ran: Ran) -> dict[str, str]:
    return {Path(one["path"]).name: one["action"] for one in ran.last["files"]}


def test_units_are_written_and_enabled(root: Path) -> None:
    ran = install(root, "--json")
    assert ran.status == 0, ran.stdout
    assert set(actions(ran).values()) == {"written"}
    found = files(root)
    for job in JOBS:
        assert f"etc/systemd/system/drtool-{job.name}.service" in found
        assert f"etc/systemd/system/timers.target.wants/drtool-{job.name}.timer" in found
    service = found["etc/systemd/system/drtool-backup.service"]
    assert f"ExecStart={PROGRAM} backup\n" in service
    assert 'ReadWritePaths="-/srv/gitlab\'s backups"\n' in service
    assert "ReadWritePaths=-/mnt/share\n" in service
    assert "StateDirectory=drtool\n" in service
    assert oct((root / "etc/systemd/system/drtool-backup.service").stat().st_mode & 0o777) == "0o644"


def test_systemd_understands_what_was_written(root: Path) -> None:
    configure(root, state="/srv/state", more=SECOND)
    assert install(root, "--instance", "other.one", "--prometheus", '/srv/metrics/100% "ours".prom').status == 0
    assert install(root, "--instance", "gitlab").status == 0
    paths = sorted((root / "etc/systemd/system").glob("drtool-*"))
    assert len(paths) == 2 * (2 * len(JOBS) + 1)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    status = (root / "etc/systemd/system/drtool-status-other.one.service").read_text()
    assert "ReadWritePaths=-/srv/state\n" in status
    assert "ReadWritePaths=-/srv/metrics\n" in status
    assert "--instance other.one" in status
    assert "100%% " in status


def test_a_second_time_changes_nothing(root: Path) -> None:
    assert install(root).status == 0
    before = files(root)
    ran = install(root, "--json")
    assert ran.status == 0
    assert set(actions(ran).values()) == {"unchanged"}
    assert files(root) == before


def test_what_a_changed_configuration_needs_is_written_again(root: Path) -> None:
    assert install(root).status == 0
    configure(root, state="/srv/state")
    assert actions(install(root, "--json"))["drtool-backup.service"] == "replaced"
    assert "ReadWritePaths=-/srv/state" in files(root)["etc/systemd/system/drtool-backup.service"]


@pytest.mark.parametrize("words", [(), ("--cron",)])
def test_a_file_that_somebody_changed_is_kept_and_that_is_said(root: Path, words: tuple[str, ...]) -> None:
    assert install(root, *words).status == 0
    path = root / (CRON if words else "etc/systemd/system/drtool-backup.timer")
    path.write_text(path.read_text().replace("15", "45"))
    changed = path.read_text()
    configure(root, state="/srv/state")
    for again in ((), ("--remove",)):
        ran = install(root, "--json", *words, *again)
        assert ran.status == 0
        assert [line["message"] for line in ran.lines if line.get("code") == "file-kept"] == [
            f"{path} was changed by somebody, and is left as it is"
        ]
        assert path.read_text() == changed


def test_a_unit_that_somebody_masked_stays_masked(root: Path) -> None:
    unit = root / "etc/systemd/system/drtool-prune.service"
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    assert actions(install(root, "--json"))["drtool-prune.service"] == "kept"
    assert os.readlink(unit) == "/dev/null"


@pytest.mark.parametrize("words", [(), ("--cron",)])
def test_remove_leaves_nothing_of_it(root: Path, words: tuple[str, ...]) -> None:
    assert install(root, *words).status == 0
    ran = install(root, "--remove", "--json", *words)
    assert ran.status == 0
    assert set(actions(ran).values()) == {"removed"}
    assert files(root) == {}
    again = install(root, "--remove", "--json", *words)
    assert again.status == 0
    assert set(actions(again).values()) == {"absent"}


@pytest.mark.parametrize("words", [(), ("--cron",)])
def test_a_dry_run_shows_the_files_and_writes_none(root: Path, words: tuple[str, ...]) -> None:
    ran = install(root, "--dry-run", *words)
    assert ran.status == 0
    assert " would be written" not in ran.stdout or files(root) == {}
    assert "would be written" in ran.stdout
    assert f"{PROGRAM} backup" in ran.stdout
    assert files(root) == {}


def test_cron_gets_a_file_of_its_own(root: Path) -> None:
    configure(root, more=SECOND)
    assert install(root, "--cron", "--instance", "other.one").status == 0
    assert list(files(root)) == ["etc/cron.d/drtool-other_one"]  # cron ignores files with a dot in their name
    entries = [line for line in files(root)["etc/cron.d/drtool-other_one"].splitlines() if " root " in line]
    assert len(entries) == len(JOBS)
    assert entries[0] == f"15 3 * * * root {PROGRAM} backup --instance other.one --quiet"


@pytest.mark.parametrize("first", [(), ("--cron",)])
def test_cron_and_timers_are_not_both_installed(root: Path, first: tuple[str, ...]) -> None:
    second = () if first else ("--cron",)
    assert install(root, *first).status == 0
    before = files(root)
    ran = install(root, *second)
    assert ran.status == 3
    assert "everything would run twice" in ran.stderr
    assert files(root) == before
    assert install(root, "--remove", *first).status == 0
    assert install(root, *second).status == 0


def test_a_secret_in_the_environment_is_pointed_out(root: Path) -> None:
    ran = install(root, "--cron", "--json")
    noted = [line["message"] for line in ran.lines if line.get("code") == "not-in-environment"]
    assert noted == ["env:FAKE_KEY_ID: timers and cron do not set it"]


@pytest.mark.parametrize("path", ["/tmp/state", "/var/tmp/state"])
def test_what_systemd_would_hide_is_refused(root: Path, path: str) -> None:
    configure(root, state=path)
    ran = install(root)
    assert ran.status == 3
    assert f"{path}: what systemd runs has a {path.rpartition('/')[0]} of its own" in ran.stderr
    assert files(root) == {}


def test_a_configuration_in_another_place_is_named(root: Path) -> None:
    (root / "etc/drtool/drtool.toml").rename(root / "etc/elsewhere.toml")
    ran = drtool("install-timer", "--root", root, "--program", PROGRAM, "-c", root / "etc/elsewhere.toml", "--json")
    assert ran.status == 0
    assert "backup --config /etc/elsewhere.toml\n" in files(root)["etc/systemd/system/drtool-backup.service"]
    assert json.dumps(str(root)) not in json.dumps(files(root))
