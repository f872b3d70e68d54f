"""A restore onto a real host, broken off at every kind of place and in every way: the same command ends it (I5, I7).

tests/faults/test_restore_crash.py does so at every single call, of a toy host; here PostgreSQL, Gitaly, sshd and runit
are the real ones, and what breaks is a process, a line, a machine or a disk.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from drtool.demo.census import difference
from tests.cutter import Cutter
from tests.integration.hosts import Factory, Host
from tests.integration.operators import Operator, Original

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

BACKUPS = "/var/opt/gitlab/backups"
MARK = f"{BACKUPS}/.drtool-restoring.json"
NAME = "new-host.example.com"
_SECONDS = 300
_BULK = 8 << 20  # at least so much comes to the host

Way = Literal["operator killed", "line cut", "power lost", "restarted"]


@dataclass
class Trial:
    """One restore onto one host, which is broken off and then taken up."""

    original: Original
    operator: Operator
    host: Host
    cutter: Cutter

    def start(self, *words: str) -> subprocess.Popen[str]:
        return self.operator.start(*_restore(self.operator, *words))

    def follow(self, process: subprocess.Popen[str], what: str, step: str) -> None:
        """Wait until the journal says that a step was started, or finished."""
        deadline = time.monotonic() + _SECONDS
        while not any((one["what"], one.get("step")) == (what, step) for one in self.operator.entries()):
            assert process.poll() is None, f"ended before {step} {what}: {process.communicate()}"
            assert time.monotonic() < deadline, f"{step} was not {what} in time"
            time.sleep(0.002)

    def strike(self, way: Way, process: subprocess.Popen[str]) -> None:
        """Break it off, and bring back what is to go on."""
        match way:
            case "operator killed":
                process.kill()
            case "line cut":
                self.cutter.cut()
            case "power lost":
                self.host.kill()
            case "restarted":
                self.host.restart()
        process.communicate(timeout=_SECONDS)
        assert process.returncode != 0, "it came to its end before"
        if way == "power lost":
            self.host.container.start()
            self.host.wait()

    def converges(self, *words: str) -> None:
        self.operator.run(*_restore(self.operator, *words)).succeeded()
        self.is_restored()

    def is_restored(self) -> None:
        assert difference(self.original.census, self.host.census()) == []
        self.is_tidy()

    def is_tidy(self) -> None:
        """Nothing of ours stays but the copies, all services run, and the receipt is there."""
        (run,) = self.operator.journals()
        assert self.operator.entries()[-1]["step"] == "receipt"
        assert list((self.operator.home / "store").rglob(f"receipts/{run.stem}.json.sig"))
        assert [name for name in self.staged() if not name.startswith("drtool-safety-")] == []
        self.host.check("gitlab-ctl", "status")
        self.host.check("/opt/gitlab/bin/gitlab-healthcheck", "--fail", "--max-time", "10")

    def staged(self) -> list[str]:
        return self.host.check("ls", "-A", BACKUPS).split()


def _restore(operator: Operator, *words: str) -> tuple[str, ...]:
    given = ("--to", "root@new-host", "--identity", str(operator.identity), "--yes")
    return ("restore", *words) if "--undo" in words else ("restore", "latest", *given, *words)


@contextlib.contextmanager
def _trial(original: Original, host: Host, home: Path) -> Iterator[Trial]:
    operator = original.operator.again(home)
    with closing(Cutter(host.port)) as cutter:
        operator.knows(host, "new-host", port=cutter.port, also=original.host_key)
        yield Trial(original, operator, host, cutter)


@pytest.fixture
def trial(original: Original, host: Factory, tmp_path: Path) -> Iterator[Trial]:
    with _trial(original, host("new-host"), tmp_path / "home") as made:
        yield made


@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("operator killed", "mark"),
        ("operator killed", "stage"),
        ("operator killed", "replace"),
        ("operator killed", "receipt"),
        ("line cut", "keep-config"),
        ("line cut", "reconfigure"),
        ("line cut", "compare"),
        ("power lost", "stage"),
        ("power lost", "quiesce"),
        ("power lost", "start"),
        ("restarted", "send-config"),
        ("restarted", "fit"),
        ("restarted", "restore"),
        ("restarted", "secrets"),
    ],
)
def test_a_restore_broken_off_in_a_step_ends_as_if_nothing_had_been(trial: Trial, way: Way, step: str) -> None:
    process = trial.start()
    trial.follow(process, "started", step)
    trial.strike(way, process)
    trial.converges()


@pytest.mark.parametrize("way", ["operator killed", "line cut", "power lost", "restarted"])
@pytest.mark.parametrize("phase", ["db", "repositories"])
def test_a_restore_broken_off_while_gitlab_restores_is_taken_up_by_its_run(trial: Trial, way: Way, phase: str) -> None:
    trial.host.switch(pause=f"{phase}:60")
    process = trial.start()
    trial.follow(process, "started", "restore")
    _await_lock(trial.host)
    trial.strike(way, process)
    trial.host.switch(pause=None)
    trial.converges("--resume", trial.operator.journals()[0].stem)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_restore_whose_line_is_cut_after_so_many_bytes_goes_on(trial: Trial, share: float) -> None:
    trial.cutter.sending_left = round(share * _BULK)
    process = trial.start()
    said, problem = process.communicate(timeout=_SECONDS)
    assert process.returncode == 16, said + problem
    last = trial.operator.entries()[-1]
    assert (last["what"], last["step"]) == ("started", "stage")
    trial.cutter.sending_left = None
    trial.converges()


@pytest.mark.parametrize(("directory", "step"), [(BACKUPS, "stage"), ("/etc/gitlab/config_backup", "keep-config")])
def test_a_restore_that_fills_a_disk_says_so_and_goes_on_when_there_is_room(
    original: Original, host: Factory, tmp_path: Path, directory: str, step: str
) -> None:
    target = host("new-host", tmpfs={directory: "size=64m"})
    with _trial(original, target, tmp_path / "home") as trial:
        process = trial.start()
        trial.follow(process, "started", "mark")
        trial.host.exec("dd", "if=/dev/zero", f"of={directory}/filler", "bs=1M")
        said, problem = process.communicate(timeout=_SECONDS)
        assert process.returncode not in (0, 1), said + problem
        assert "No space left" in problem, problem
        # The disk may be full before the mark that was begun is written; that says so too.
        assert trial.operator.entries()[-1]["step"] in ("mark", step)
        trial.host.check("rm", f"{directory}/filler")
        trial.converges()


def _await_lock(host: Host) -> None:
    """Wait until GitLab's own restore is at work."""
    deadline = time.monotonic() + _SECONDS
    while host.exec("test", "-s", "/opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid")[0] != 0:
        assert time.monotonic() < deadline, "GitLab's restore did not begin"
        time.sleep(0.05)
    time.sleep(1)  # into the phase


@pytest.mark.parametrize("moment", ["", "keep-config", "restore", "start"])
def test_undo_brings_back_what_was_there_before_a_restore_that_ended_or_did_not(trial: Trial, moment: str) -> None:
    trial.host.seed(projects=3, rows=500)
    former = trial.host.census()
    process = trial.start("--yes-replace", NAME)
    if moment:
        trial.follow(process, "finished", moment)
        process.kill()
        process.communicate()
    else:
        said, problem = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0, said + problem
        assert difference(former, trial.host.census()) != []
    (run,) = trial.operator.journals()

    trial.operator.run("restore", "--to", "root@new-host", "--undo", run.stem, "--yes").succeeded()

    assert difference(former, trial.host.census()) == []
    assert [name for name in trial.staged() if not name.startswith("drtool-safety-")] == []
    trial.host.check("/opt/gitlab/bin/gitlab-healthcheck", "--fail", "--max-time", "10")


def test_an_undo_that_is_broken_off_is_ended_by_the_same_command(trial: Trial) -> None:
    trial.host.seed(projects=3, rows=500)
    former = trial.host.census()
    trial.operator.run(*_restore(trial.operator, "--yes-replace", NAME)).succeeded()
    (run,) = trial.operator.journals()
    undo = ("--to", "root@new-host", "--undo", run.stem, "--yes")

    process = trial.start(*undo)
    trial.follow(process, "started", "put-back-config")
    process.kill()
    process.communicate()
    trial.operator.run("restore", *undo).succeeded()

    assert difference(former, trial.host.census()) == []
