"""How commands begin and end for others: hooks, notifications and pings of the real console script on a toy host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drtool.config_notify import BACKUP_PHASES
from drtool.errors import BucketMissing, HookFailed, NotificationFailed, ObjectiveBreached
from drtool.hosts.local import LocalRunner
from drtool.initialise import initialise
from drtool.told import read_record
from tests.listeners import Listener, closed_port, listener
from tests.playground import Ran, drtool, start, wait_until
from tests.toyhost import ToyHost

TOKEN = "fake-token-0815-kilo"


@dataclass
class Desk:
    """A toy GitLab, a configuration for it, and a listener whose address is in two secret files."""

    base: Path
    config: Path
    server: Listener

    @property
    def store(self) -> Path:
        return self.base / "store"

    @property
    def sets(self) -> list[str]:
        return sorted(path.parent.name for path in self.store.rglob("manifest.json"))

    def add(self, text: str) -> None:
        """Add tables to the configuration."""
        self.config.write_text(f"{self.config.read_text()}\n{text}\n")

    def secret(self, name: str, text: str) -> str:
        path = self.base / name
        path.write_text(text)
        path.chmod(0o600)
        return f"file:{path}"

    def watch(
        self, *, on: str = '["start", "success", "failure", "breach"]', port: int = 0, timeout: str = "20s"
    ) -> None:
        """Tell the listener, or whoever is on another port, of all that happens."""
        address = f"127.0.0.1:{port or self.server.port}/{TOKEN}"
        url, ping = self.secret("url", f"json://{address}/message"), self.secret("ping", f"http://{address}/ping")
        self.add(f'[instance.notify]\nurls = ["{url}"]\non = {on}\nping_url = "{ping}"\ntimeout = "{timeout}"')

    def hook(self, when: str, *command: str, timeout: str = "10m") -> None:
        self.add(f'[[instance.hooks]]\nwhen = "{when}"\ncommand = {json.dumps(command)}\ntimeout = "{timeout}"')

    def run(self, *words: str, **environment: str) -> Ran:
        return drtool(*words, "-c", str(self.config), environment=environment)

    @property
    def told(self) -> list[str]:
        """What was told, in order: kinds of messages, and paths of pings."""
        return [
            json.loads(body)["type"] if path.endswith("/message") else path.removeprefix(f"/{TOKEN}")
            for path, body in self.server.received
        ]

    @property
    def last_message(self) -> dict[str, Any]:
        bodies = [json.loads(body) for path, body in self.server.received if path.endswith("/message")]
        return {**bodies[-1], **dict(line.split(": ", 1) for line in bodies[-1]["message"].splitlines())}

    def remembered(self, command: str) -> dict[str, Any]:
        found = read_record(self.base / "state")["gitlab"][command]
        assert isinstance(found, dict)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with listener() as server:
        yield lay_out(tmp_path, server)


def lay_out(base: Path, server: Listener) -> Desk:
    host = ToyHost(base / "host")
    (base / "store").mkdir()
    made = initialise(
        base / "dr",
        LocalRunner(),
        instance="gitlab",
        host="toy",
        store=base / "store",
        state=base / "state",
        prefix=host.root,
    )
    return Desk(base, made.config, server)


# -- endings that are told -------------------------------------------------------------------------------------------


def test_a_backup_tells_its_beginning_and_its_success(desk: Desk) -> None:
    desk.watch()
    ran = desk.run("backup")
    assert ran.status == 0, ran.stderr
    assert sorted(desk.told[:2]) == ["/ping/start", "info"]
    assert sorted(desk.told[2:]) == ["/ping", "success"]
    assert desk.last_message["Set"] == desk.sets[0]
    assert desk.last_message["Outcome"] == "success, exit status 0"
    remembered = desk.remembered("backup")
    assert (remembered["outcome"], remembered["exit_status"], remembered["set_id"]) == ("success", 0, desk.sets[0])
    assert [one["failed"] for one in remembered["told"]] == [""] * 4


def test_a_failure_is_told_with_its_error_and_no_path(desk: Desk) -> None:
    desk.watch(on='["failure"]')
    desk.store.rmdir()
    ran = desk.run("backup")
    assert ran.status == BucketMissing.exit_status
    assert sorted(desk.told) == ["/ping/fail", "/ping/start", "failure"]
    assert desk.last_message["Outcome"] == "failure, exit status 12, BucketMissing"
    said = b"".join(body for _, body in desk.server.received).decode()
    assert str(desk.base) in ran.stderr
    assert str(desk.base) not in said
    assert TOKEN not in ran.stdout + ran.stderr + said


def test_a_broken_promise_is_told_as_a_breach(desk: Desk) -> None:
    assert desk.run("backup").status == 0
    desk.watch()
    assert desk.run("verify", "--newer-than", "0m").status == ObjectiveBreached.exit_status
    assert sorted(desk.told) == ["/ping/log", "info", "warning"]
    assert desk.last_message["Outcome"] == "breach, exit status 22, ObjectiveBreached"
    assert desk.last_message["Set"] == desk.sets[0]


def test_a_damaged_set_is_told_by_what_is_wrong_with_it(desk: Desk) -> None:
    assert desk.run("backup").status == 0
    desk.watch()
    for volume in desk.store.rglob("application-*"):
        volume.write_bytes(volume.read_bytes()[:-1])
    assert desk.run("verify").status == 21
    assert desk.last_message["Outcome"] == "failure, exit status 21, SetDamaged"
    assert "Message" in desk.last_message


def test_a_defect_of_drtool_is_told_by_its_name_alone(desk: Desk) -> None:
    """Its text can hold anything."""
    desk.watch()
    script = f"""
import sys
import drtool.backup
def broken(order, place):
    raise KeyError("{TOKEN}")
drtool.backup.back_up = broken
sys.argv = ["drtool", "backup", "-c", {str(desk.config)!r}]
from drtool.cli import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "defect" in ran.stderr
    assert desk.last_message["Outcome"] == "failure, exit status 1, KeyError"
    assert TOKEN not in json.dumps(desk.last_message)


def test_an_interrupted_run_is_told(desk: Desk) -> None:
    desk.watch()
    desk.hook("before-backup", "sh", "-c", f"touch {desk.base}/begun; sleep 60")
    with start("backup", "-c", desk.config) as process:
        wait_until((desk.base / "begun").exists)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert sorted(desk.told) == ["/ping/fail", "/ping/start", "failure", "info"]
    assert desk.last_message["Outcome"] == "failure, exit status 130, Interrupted"


def test_a_wrong_command_line_in_the_middle_of_the_night_is_told(desk: Desk) -> None:
    """Nothing of the configuration was read by then."""
    desk.watch()
    assert desk.run("verify", "--level", "present", "--sample", "5%").status == 2
    assert sorted(desk.told) == ["/ping/log", "failure"]


@pytest.mark.parametrize("words", [("backup", "--dry-run"), ("prune", "--dry-run"), ("list",), ("check",)])
def test_what_does_nothing_tells_nobody_and_runs_no_hook(desk: Desk, words: tuple[str, ...]) -> None:
    desk.watch()
    for when in (f"{before}-{command}" for before in ("before", "after") for command in ("backup", "prune")):
        desk.hook(when, "touch", str(desk.base / "hooked"))
    assert desk.run(*words).status == 0
    assert desk.server.received == []
    assert not (desk.base / "hooked").exists()


def test_a_restore_that_nobody_agreed_to_tells_nobody(desk: Desk) -> None:
    assert desk.run("backup").status == 0
    desk.watch()
    desk.hook("before-restore", "touch", str(desk.base / "hooked"))
    ran = desk.run(
        "restore", "latest", "--to", "local", "--yes-replace", os.uname().nodename, "-i", f"{desk.base}/dr/identity.txt"
    )
    assert "nobody said yes" in ran.stderr
    assert ran.status == 1
    assert desk.server.received == []
    assert not (desk.base / "hooked").exists()


def test_a_restore_begins_for_others_when_somebody_agreed(desk: Desk) -> None:
    assert desk.run("backup").status == 0
    desk.watch()
    desk.hook("before-restore", "sh", "-c", f"! test -e {desk.base}/stop")
    desk.hook("after-restore", "sh", "-c", f'echo "$DRTOOL_SET" >{desk.base}/restored')
    agreed = ("--yes", "--yes-replace", os.uname().nodename)
    words = ("restore", "latest", "--to", "local", "--no-count", "-i", f"{desk.base}/dr/identity.txt", *agreed)
    (desk.base / "stop").touch()
    assert desk.run(*words).status == HookFailed.exit_status
    assert not (desk.base / "host/restored").exists()
    (desk.base / "stop").unlink()
    ran = desk.run(*words)
    assert ran.status == 0, ran.stderr
    assert (desk.base / "restored").read_text() == f"{desk.sets[0]}\n"
    assert sorted(desk.told) == ["/ping/log", "/ping/log", "failure", "info", "info", "success"]


@pytest.mark.parametrize("back", [False, True])
def test_a_hook_that_fails_keeps_nobody_from_finishing_or_undoing_a_restore_that_began(desk: Desk, back: bool) -> None:
    assert desk.run("backup").status == 0
    desk.hook("before-restore", "sh", "-c", f"! test -e {desk.base}/stop")
    desk.hook("after-restore", "touch", str(desk.base / "ended"))
    agreed = ("--to", "local", "--yes", "--yes-replace", os.uname().nodename)
    words = ("restore", "latest", "--no-count", "-i", f"{desk.base}/dr/identity.txt", *agreed)
    assert not back or desk.run(*words).status == 0  # only of what there was there is something to bring back
    known = set((desk.base / "state/runs").glob("restore-*.jsonl"))
    control = desk.base / "host/opt/gitlab/bin/gitlab-ctl"
    kept = control.read_text()
    control.write_text("#!/bin/sh\nexit 1\n")
    assert desk.run(*words).status not in (0, HookFailed.exit_status)
    control.write_text(kept)
    (run_id,) = (path.stem for path in set((desk.base / "state/runs").glob("restore-*.jsonl")) - known)
    (desk.base / "ended").unlink(missing_ok=True)
    (desk.base / "stop").touch()
    ran = desk.run("restore", "--undo", run_id, *agreed) if back else desk.run(*words)
    assert ran.stderr.count("the hook before-restore (sh) ended with status 1") == 2  # at once, and at the end
    assert ran.status == HookFailed.exit_status
    assert not [name for name in os.listdir(desk.base / "host/var/opt/gitlab/backups") if name.startswith(".drtool-")]
    assert (desk.base / "host/restored").exists()
    assert (desk.base / "ended").exists()


# -- services that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["refuses", "500", "hangs"])
def test_a_service_that_fails_changes_no_status_and_is_not_silent(tmp_path: Path, mood: str) -> None:
    with listener(hangs=mood == "hangs") as server:
        desk = lay_out(tmp_path, server)
        server.status = 500
        desk.watch(port=closed_port() if mood == "refuses" else 0, timeout="2s")
        ran = desk.run("backup", "--quiet")
        as_json = desk.run("backup", "--json")
    why = {"refuses": "refused the connection", "500": "answered 500", "hangs": "did not answer within 2 s"}[mood]
    assert ran.status == as_json.status == 0
    assert len(desk.sets) == 2
    assert ran.stderr.count("note: nobody was told by ") == ran.stderr.count(why) == 4
    assert as_json.last["event"] == "result"
    assert [line["code"] for line in as_json.lines if "told by" in str(line.get("message"))] == [
        "notification-failed"
    ] * 4
    assert {one["failed"] for one in desk.remembered("backup")["told"]} == {f"{why}"}
    assert TOKEN not in ran.stdout + ran.stderr + as_json.stdout + as_json.stderr


def test_json_ends_with_the_error_of_a_run_that_never_began(desk: Desk) -> None:
    desk.watch(port=closed_port())
    ran = desk.run("restore", "latest", "--to", "local", "--json")
    assert ran.status == 14
    assert [line["event"] for line in ran.lines] == ["noticed", "noticed", "error"]


def test_a_memory_that_cannot_be_written_changes_no_status(desk: Desk) -> None:
    desk.watch()
    (desk.base / "state").mkdir()
    (desk.base / "state/notified.json").mkdir()
    ran = desk.run("backup")
    assert ran.status == 0
    assert "notified.json: cannot be written" in ran.stderr
    assert desk.told[-2:] != []


# -- hooks -----------------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_and_know_what_happened(desk: Desk) -> None:
    log = desk.base / "log"
    dump = f'printf "%s %s %s %s %s\\n" $0 "$DRTOOL_COMMAND" "$DRTOOL_INSTANCE" "$DRTOOL_OUTCOME" "$DRTOOL_SET" >>{log}'
    for name, when in (
        ("one", "before-backup"),
        ("two", "before-backup"),
        ("three", "after-backup"),
        ("x", "on-failure"),
    ):
        desk.hook(when, "sh", "-c", dump, name)
    assert desk.run("backup").status == 0
    assert log.read_text().splitlines() == [
        "one backup gitlab  ",
        "two backup gitlab  ",
        f"three backup gitlab success {desk.sets[0]}",
    ]


def test_hooks_get_nothing_secret(desk: Desk) -> None:
    desk.watch()
    desk.hook(
        "after-backup", "sh", "-c", f"env >{desk.base}/seen; tr '\\0' ' ' </proc/$PPID/cmdline >>{desk.base}/seen"
    )
    assert desk.run("backup", DRTOOL_FAKE_CREDENTIAL=TOKEN).status == 0
    seen = (desk.base / "seen").read_text()
    assert "DRTOOL_EXIT_STATUS=0" in seen
    assert "drtool backup" in seen
    assert TOKEN not in seen


def test_a_hook_that_fails_before_a_backup_keeps_it_from_beginning(desk: Desk) -> None:
    desk.watch()
    desk.hook("before-backup", "sh", "-c", "echo the disk is not there >&2; exit 3")
    desk.hook("before-backup", "touch", str(desk.base / "second"))
    desk.hook("on-failure", "sh", "-c", f'echo "$DRTOOL_OUTCOME $DRTOOL_EXIT_STATUS" >{desk.base}/failed')
    ran = desk.run("backup")
    assert ran.status == HookFailed.exit_status
    assert "the hook before-backup (sh) ended with status 3: the disk is not there" in ran.stderr
    assert desk.sets == []
    assert not (desk.base / "second").exists()
    assert (desk.base / "failed").read_text() == "failure 35\n"
    assert desk.last_message["Outcome"] == "failure, exit status 35, HookFailed"


def test_a_hook_that_fails_after_a_backup_is_told_and_takes_nothing_from_it(desk: Desk) -> None:
    desk.watch()
    desk.hook("after-backup", "sh", "-c", "exit 3")
    ran = desk.run("backup", "--json")
    assert ran.status == HookFailed.exit_status
    assert [line["event"] for line in ran.lines][-2:] == ["result", "error"]
    assert ran.last["exit_status"] == HookFailed.exit_status
    assert "nothing of it was undone" in ran.last["hint"]
    assert len(desk.sets) == 1
    assert desk.run("verify").status == 0
    backup = desk.remembered("backup")
    assert (backup["outcome"], backup["error"], backup["set_id"]) == ("failure", "HookFailed", desk.sets[0])


def test_a_hook_for_failures_that_fails_changes_no_status(desk: Desk) -> None:
    desk.store.rmdir()
    desk.hook("on-failure", "false")
    ran = desk.run("backup")
    assert ran.status == BucketMissing.exit_status
    assert "note: the hook on-failure (false) ended with status 1" in ran.stderr


def test_every_phase_of_a_backup_has_its_hooks(desk: Desk) -> None:
    (desk.base / "second").mkdir()
    copies, _, rest = desk.config.read_text().partition("[store.main]")
    table = f'[[instance.copies]]\nstore = "second"\n\n[store.second]\nkind = "local"\npath = "{desk.base}/second"'
    desk.config.write_text(f"{copies}{table}\n\n[store.main]{rest}")
    for phase in BACKUP_PHASES:
        for when in ("before", "after"):
            desk.hook(f"{when}-backup-{phase}", "sh", "-c", f"echo $0 >>{desk.base}/log", f"{when} {phase}")
    ran = desk.run("backup", "--json")
    assert ran.status == 0
    assert {line["phase"] for line in ran.lines if line["event"] == "phase_started"} - {"hook"} == {*BACKUP_PHASES}
    order = [(when, phase) for phase in BACKUP_PHASES for when in ("before", "after")]
    assert (desk.base / "log").read_text().splitlines() == [f"{when} {phase}" for when, phase in order]


def test_a_hook_that_fails_before_a_phase_ends_the_backup_and_the_next_goes_on(desk: Desk) -> None:
    mended = desk.base / "mended"
    desk.hook("before-backup-send", "test", "-e", str(mended))
    ran = desk.run("backup")
    assert ran.status == HookFailed.exit_status
    assert "the hook before-backup-send (test) ended with status 1" in ran.stderr
    assert desk.sets == []
    mended.touch()
    again = desk.run("backup", "--json")
    assert again.status == 0
    assert again.last["continued"]


def test_a_hook_that_fails_after_a_phase_ends_nothing_and_is_told_at_the_end(desk: Desk) -> None:
    desk.watch()
    desk.hook("after-backup-create", "false")
    desk.hook("after-backup", "touch", str(desk.base / "after"))
    ran = desk.run("backup")
    assert ran.status == HookFailed.exit_status
    assert "the hook after-backup-create (false) ended with status 1" in ran.stderr
    assert desk.last_message["Outcome"] == "failure, exit status 35, HookFailed"
    assert (desk.base / "after").exists()
    assert desk.run("verify").status == 0


def test_a_hook_after_a_phase_takes_the_place_of_no_other_failure(desk: Desk) -> None:
    desk.hook("after-backup-look", "false")
    desk.hook("before-backup-commit", "sh", "-c", f"chmod a-w {desk.store}; rm -r {desk.store}")
    ran = desk.run("backup")
    assert ran.status not in (0, HookFailed.exit_status)
    assert "note: the hook after-backup-look (false) ended with status 1" in ran.stderr


def test_a_hook_that_does_not_end_is_ended(desk: Desk) -> None:
    desk.hook("before-backup", "sleep", "60", timeout="1s")
    ran = desk.run("backup")
    assert ran.status == HookFailed.exit_status
    assert "did not end in time" in ran.stderr


def test_a_hook_that_is_not_there_is_named(desk: Desk) -> None:
    desk.hook("before-backup", "/nowhere/hook")
    ran = desk.run("backup")
    assert ran.status == HookFailed.exit_status
    assert "the hook before-backup (/nowhere/hook) ended with status 127" in ran.stderr


# -- drtool notify ---------------------------------------------------------------------------------------------------


def test_notify_tries_every_kind_on_every_service_and_the_log_of_the_ping(desk: Desk) -> None:
    desk.watch(on='["failure"]')
    ran = desk.run("notify", "--test", "--json")
    assert ran.status == 0
    assert desk.told == ["info", "success", "failure", "warning", "/ping/log"]
    assert [one["reason"] for one in ran.last["deliveries"]] == [""] * 5


def test_notify_fails_if_one_service_does(desk: Desk) -> None:
    desk.watch()
    desk.server.status = 403
    ran = desk.run("notify", "--test")
    assert ran.status == NotificationFailed.exit_status
    assert ran.stdout.count("answered 403") == 5
    assert TOKEN not in ran.stdout + ran.stderr


def test_notify_without_anybody_to_tell_is_refused(desk: Desk) -> None:
    ran = desk.run("notify", "--test")
    assert ran.status == 3
    assert "nobody is to be told" in ran.stderr


def of_unit(desk: Desk, invocation: str, status: str = "9", code: str = "killed") -> Ran:
    """What OnFailure= starts, as systemd does."""
    monitored = {"INVOCATION_ID": invocation, "SERVICE_RESULT": "signal", "EXIT_CODE": code, "EXIT_STATUS": status}
    environment = {f"MONITOR_{name}": value for name, value in monitored.items()}
    return desk.run("notify", "--unit", "drtool-backup.service", **environment)


def test_a_killed_unit_is_told_once_a_day(desk: Desk) -> None:
    desk.watch()
    assert of_unit(desk, "aaaa").status == 0
    assert sorted(desk.told) == ["/ping/fail", "failure"]
    assert desk.last_message["Message"] == "systemd says: signal (killed 9)"
    assert "told already" in of_unit(desk, "bbbb").stdout
    assert len(desk.told) == 2
    assert of_unit(desk, "cccc", status="1", code="exited").status == 0
    assert len(desk.told) == 4


def test_a_unit_whose_run_told_everybody_is_not_told_again(desk: Desk) -> None:
    desk.watch()
    desk.store.rmdir()
    assert desk.run("backup", INVOCATION_ID="aaaa").status == BucketMissing.exit_status
    before = list(desk.told)
    assert of_unit(desk, "aaaa", status="12", code="exited").status == 0
    assert desk.told == before
    of_unit(desk, "bbbb", status="12", code="exited")
    assert desk.told != before


def test_a_unit_whose_run_reached_nobody_is_told_once_more(desk: Desk) -> None:
    desk.watch()
    desk.store.rmdir()
    desk.server.status = 500
    desk.run("backup", INVOCATION_ID="aaaa")
    desk.server.status = 200
    before = list(desk.told)
    assert of_unit(desk, "aaaa", status="12", code="exited").status == 0
    assert desk.told != before
