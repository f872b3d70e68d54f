"""A GitLab host with systemd, left alone: its units work inside their sandbox, and what dies there is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.integration.hosts import Factory, Host

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

# A listener of its own on the host: each message and each ping becomes a line of /root/told.
_LISTENER = """\
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        with open("/root/told", "ab") as log:
            log.write(self.path.encode() + b" " + body.replace(b"\\n", b" ") + b"\\n")
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""
_NOTIFY = """
[instance.notify]
urls = ["file:/etc/drtool/url"]
on = ["success", "failure"]
ping_url = "file:/etc/drtool/ping"
"""


@pytest.fixture
def left_alone(host: Factory) -> Host:
    """A host with a store, somebody to tell, and timers as install-timer makes them."""
    one = host(variant="systemd", seeded=True)
    one.check("mkdir", "/srv/gitlab-backups", "/srv/metrics")
    one.check("drtool", "init", "--store", "/srv/gitlab-backups")
    one.write("/root/listener", _LISTENER.encode())
    one.check("systemd-run", "--unit=listener", "python3", "/root/listener")
    one.write("/etc/drtool/url", b"json://127.0.0.1:8099/message", mode=0o600)
    one.write("/etc/drtool/ping", b"http://127.0.0.1:8099/ping", mode=0o600)
    one.check("sh", "-c", f"cat >>/etc/drtool/drtool.toml <<'END'\n{_NOTIFY}\nEND")
    one.check("sh", "-c", "rm -f /etc/systemd/system/drtool-*")
    one.check("drtool", "install-timer", "--prometheus", "/srv/metrics/drtool.prom")
    return one


def told(one: Host) -> list[str]:
    return one.exec("cat", "/root/told")[1].splitlines()


def wait_for(one: Host, condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, one.exec("journalctl", "--no-pager", "-n", "40", "-u", "drtool-*")[1]
        time.sleep(0.2)


def test_what_runs_by_itself_works_in_its_sandbox(left_alone: Host) -> None:
    one = left_alone
    timers = one.check("systemctl", "list-timers", "--no-pager", "drtool-*")
    assert [name for name in ("backup", "verify", "prune", "status") if f"drtool-{name}.timer" not in timers] == []
    assert one.check("systemctl", "is-enabled", "drtool-backup.timer") == "enabled\n"

    # The timer itself, on a moment that comes soon: a drop-in, as an operator would.
    one.check("mkdir", "/etc/systemd/system/drtool-backup.timer.d")
    soon = b"[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=1s\n"
    one.write("/etc/systemd/system/drtool-backup.timer.d/soon.conf", soon)
    one.check("sh", "-c", "systemctl daemon-reload && systemctl restart drtool-backup.timer")
    wait_for(one, lambda: any("message" in line and "success" in line for line in told(one)))
    one.check("systemctl", "stop", "drtool-backup.timer")
    wait_for(one, lambda: "inactive" in one.exec("systemctl", "is-active", "drtool-backup.service")[1])

    assert json.loads(one.check("drtool", "list", "--json").splitlines()[-1])["sets"] != []
    assert any(line.startswith("/ping ") for line in told(one))
    for name in ("verify", "prune", "status"):
        status, said = one.exec("systemctl", "start", f"drtool-{name}.service")
        assert status == 0, said + one.exec("journalctl", "--no-pager", "-u", f"drtool-{name}.service")[1]
    assert "drtool_" in one.check("cat", "/srv/metrics/drtool.prom")
    assert one.exec("drtool", "install-timer", "--prometheus", "/srv/metrics/drtool.prom")[1].count("unchanged") == 9


def test_a_backup_in_its_sandbox_waits_for_who_upgrades_gitlab(left_alone: Host) -> None:
    one = left_alone
    holding = 'import fcntl,time; lock = open("/var/lib/dpkg/lock-frontend", "w"); fcntl.lockf(lock, fcntl.LOCK_EX); '
    one.check("systemd-run", "--unit=upgrade", "python3", "-c", f"{holding}time.sleep(3600)")
    wait_for(one, lambda: "POSIX" in one.exec("cat", "/proc/locks")[1])
    one.check("systemctl", "start", "--no-block", "drtool-backup.service")
    said = "a package manager is at work"  # the unit's sandbox hides whose lock it is, and must not hide the lock
    wait_for(one, lambda: said in one.exec("journalctl", "--no-pager", "-u", "drtool-backup.service")[1])
    assert json.loads(one.check("drtool", "list", "--json").splitlines()[-1])["sets"] == []
    one.check("systemctl", "stop", "upgrade")
    wait_for(one, lambda: any("message" in line and "success" in line for line in told(one)))


def test_a_killed_backup_is_told_by_systemd(left_alone: Host) -> None:
    one = left_alone
    hook = '[[instance.hooks]]\nwhen = "before-backup"\ncommand = ["sleep", "60"]'
    one.check("sh", "-c", f"cat >>/etc/drtool/drtool.toml <<'END'\n{hook}\nEND")
    one.check("systemctl", "start", "--no-block", "drtool-backup.service")
    wait_for(one, lambda: one.exec("pgrep", "-x", "sleep")[0] == 0)
    one.check("systemctl", "kill", "--signal=KILL", "drtool-backup.service")
    wait_for(
        one, lambda: any("/ping/fail" in line for line in told(one)) and any('"failure"' in line for line in told(one))
    )
    assert "systemd says: signal (killed KILL)" in "".join(told(one))


def test_a_failure_that_was_told_is_not_told_again_by_systemd(left_alone: Host) -> None:
    one = left_alone
    one.check("mv", "/srv/gitlab-backups", "/srv/elsewhere")
    assert one.exec("systemctl", "start", "drtool-backup.service")[0] == 1
    notice = "drtool-failed@drtool-backup.service.service"
    wait_for(one, lambda: "Everybody was told already" in one.exec("journalctl", "--no-pager", "-u", notice)[1])
    assert sum('"failure"' in line for line in told(one)) == 1
    assert "BucketMissing" in "".join(told(one))
