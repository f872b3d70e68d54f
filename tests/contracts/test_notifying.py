"""Notifications and pings against real servers: what arrives, and that nothing of theirs is ours to suffer."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.config_notify import NotifyTable
from drtool.core.bulletin import KINDS, Bulletin
from drtool.notifying import notify, ping, wait_for
from tests.listeners import MAIL_PASSWORD, closed_port, listener, mailbox

TOKEN = "fake-token-0815-kilo"
BULLETIN = Bulletin(
    "failure",
    "backup",
    "gitlab",
    "host.example.com",
    exit_status=18,
    took=timedelta(minutes=61, seconds=5),
    error="BackupFailed",
    message="GitLab's own backup failed: no room in /var/opt/gitlab/backups",
    hint="Make room.",
)


def table(
    folder: Path, *urls: str, ping_url: str = "", timeout: float = 20, on: tuple[str, ...] = KINDS
) -> NotifyTable:
    """A table whose references are files."""

    def reference(name: str, text: str) -> str:
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o600)
        return f"file:{folder / name}"

    references = tuple(reference(f"url{number}", url) for number, url in enumerate(urls))
    pinged = {"ping_url": reference("ping", ping_url)} if ping_url else {}
    made = NotifyTable.model_validate({"urls": references, **({"on": on} if urls else {}), **pinged})
    return made.model_copy(update={"timeout": timedelta(seconds=timeout)})


def reasons(table: NotifyTable, bulletin: Bulletin = BULLETIN) -> list[str]:
    return [one.reason for one in wait_for(notify(table, bulletin))]


# -- what arrives ----------------------------------------------------------------------------------------------------


def test_a_service_is_told_what_happened(tmp_path: Path) -> None:
    with listener() as server:
        assert reasons(table(tmp_path, f"json://127.0.0.1:{server.port}/{TOKEN}")) == [""]
    (message,) = server.messages
    assert message["title"] == "drtool: backup of gitlab on host.example.com: FAILED"
    assert message["type"] == "failure"
    assert message["message"].splitlines() == [
        "Instance: gitlab",
        "Host: host.example.com",
        "Command: backup",
        "Outcome: failure, exit status 18, BackupFailed",
        "Took: 1 h 01 min",
        "Message: GitLab's own backup failed: no room in …",
        "What to do: Make room.",
    ]


@pytest.mark.parametrize(("kind", "called"), [("start", "info"), ("success", "success"), ("breach", "warning")])
def test_every_kind_arrives_as_what_it_is(tmp_path: Path, kind: str, called: str) -> None:
    bulletin = Bulletin(kind, "backup", "gitlab", "host")  # type: ignore[arg-type]  # as a test says
    with listener() as server:
        assert reasons(table(tmp_path, f"json://127.0.0.1:{server.port}/"), bulletin) == [""]
    assert [message["type"] for message in server.messages] == [called]


def test_a_mail_arrives_by_smtp_with_a_login(tmp_path: Path) -> None:
    with mailbox() as box:
        assert reasons(table(tmp_path, box.url)) == [""]
    (mail,) = box.mails
    assert mail["Subject"] == "drtool: backup of gitlab on host.example.com: FAILED"
    assert "root@example.com" in mail["To"]
    assert "BackupFailed" in mail.as_string()
    assert MAIL_PASSWORD not in mail.as_string()


def test_kinds_that_nobody_wants_are_not_sent(tmp_path: Path) -> None:
    with listener() as server:
        assert reasons(table(tmp_path, f"json://127.0.0.1:{server.port}/", on=("success",))) == []
    assert server.received == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [("start", "/ping/x/start"), ("success", "/ping/x"), ("failure", "/ping/x/fail"), ("breach", "/ping/x/fail")],
)
def test_a_ping_goes_to_the_address_of_its_kind(tmp_path: Path, kind: str, path: str) -> None:
    with listener() as server:
        told = wait_for(ping(table(tmp_path, ping_url=f"http://127.0.0.1:{server.port}/ping/x/"), kind, "said"))  # type: ignore[arg-type]  # as a test says
    assert [one.reason for one in told] == [""]
    assert server.received == [(path, b"said")]


def test_a_ping_without_a_kind_goes_to_the_log(tmp_path: Path) -> None:
    with listener() as server:
        wait_for(ping(table(tmp_path, ping_url=f"http://127.0.0.1:{server.port}/x"), None, "said"))
    assert server.paths == ["/x/log"]


# -- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_a_server_that_refuses_is_told_by_its_status(tmp_path: Path, status: int) -> None:
    with listener() as server:
        server.status = status
        address = f"127.0.0.1:{server.port}/{TOKEN}"
        made = table(tmp_path, f"json://{address}", ping_url=f"http://{address}")
        assert reasons(made) == [f"answered {status}"]
        assert [one.reason for one in wait_for(ping(made, "failure", ""))] == [f"answered {status}"]


def test_an_address_that_healthchecks_does_not_know_is_no_ping(tmp_path: Path) -> None:
    with listener() as server:
        server.said = b"OK (not found)"
        told = wait_for(ping(table(tmp_path, ping_url=f"http://127.0.0.1:{server.port}/x"), "success", ""))
    assert [one.reason for one in told] == ['answered "not found"']


def test_nobody_there_is_told_so(tmp_path: Path) -> None:
    address = f"127.0.0.1:{closed_port()}/{TOKEN}"
    made = table(
        tmp_path,
        f"json://{address}",
        f"mailto://u:{TOKEN}@{address}?mode=insecure&from=a@b.cc&to=a@b.cc",
        ping_url=f"http://{address}",
    )
    told = wait_for([*notify(made, BULLETIN), *ping(made, "failure", "")])
    assert [one.reason for one in told] == ["refused the connection"] * 3


def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with mailbox() as box:
        (reason,) = reasons(table(tmp_path, box.url.replace(MAIL_PASSWORD, "fake-wrong-password")))
    assert reason == "answered 535"


@pytest.mark.parametrize("mood", ["hangs", "trickles"])
def test_a_server_that_never_comes_to_an_end_costs_no_more_than_its_time(tmp_path: Path, mood: str) -> None:
    """In a process of its own, which has to end although the answer never does."""
    with listener(hangs=mood == "hangs", trickles=mood == "trickles") as server:
        address = f"127.0.0.1:{server.port}/{TOKEN}"
        table(tmp_path, f"json://{address}?rto=60", ping_url=f"http://{address}")
        script = f"""
from datetime import timedelta
from drtool.config_notify import NotifyTable
from drtool.core.bulletin import Bulletin
from drtool.notifying import *
table = NotifyTable(urls=("file:{tmp_path}/url0",), ping_url="file:{tmp_path}/ping", timeout="2s")
sent = [*notify(table, Bulletin("failure", "backup", "g", "h")), *ping(table, "failure", "x")]
print(*(one.reason for one in wait_for(sent)), sep=chr(10))
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40)
    assert ran.stdout.splitlines() == ["did not answer within 2 s"] * 2
    assert (ran.returncode, ran.stderr) == (0, "")


def test_references_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    nowhere = NotifyTable(urls=(f"file:{tmp_path}/nowhere",))
    (reason,) = reasons(nowhere)
    assert reason.endswith("no such file")
    exposed = table(tmp_path, "json://127.0.0.1:1/")
    (tmp_path / "url0").chmod(0o644)
    (reason,) = reasons(exposed)
    assert "url0" in reason
    assert "127.0.0.1" not in reason


@pytest.mark.parametrize("url", ["", "nonsense", f"nosuch://{TOKEN}@host/", "discord://"])
def test_what_is_no_address_is_told_without_repeating_it(tmp_path: Path, url: str) -> None:
    assert reasons(table(tmp_path, url)) == ["holds no address that apprise understands"]
    told = wait_for(ping(table(tmp_path, ping_url=url or " "), "success", ""))
    assert [one.reason for one in told] == ["holds no http:// or https:// address"]


def test_nothing_of_an_address_is_logged_printed_or_raised(tmp_path: Path) -> None:
    """In a process of its own, that shows what libraries log: apprise's lines hold addresses and payloads."""
    with listener() as server:
        server.status = 500
        address = f"{TOKEN}@127.0.0.1:{server.port}/{TOKEN}"
        table(tmp_path, f"json://user:{address}", f"mailto://u:{TOKEN}@127.0.0.1:1?mode=insecure&from=a@b.cc&to=a@b.cc")
        script = f"""
import logging
logging.basicConfig(level=logging.INFO)
from drtool.config_notify import NotifyTable
from drtool.core.bulletin import Bulletin
from drtool.notifying import *
table = NotifyTable(urls=("file:{tmp_path}/url0", "file:{tmp_path}/url1"))
print(wait_for(notify(table, Bulletin("failure", "backup", "g", "h"))))
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert server.received  # it was really tried
    assert "answered 500" in ran.stdout
    assert "refused the connection" in ran.stdout
    assert ran.stderr == ""
    assert TOKEN not in ran.stdout
