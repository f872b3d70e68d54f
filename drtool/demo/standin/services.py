"""The services of a host: numbers in files with PostgreSQL as the real thing, or all of them real, below runit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .settings import Host

SERVICES = ("gitaly", "gitlab-workhorse", "nginx", "postgresql", "puma", "redis", "sidekiq")
_WAIT_SECONDS = 60


class Service(Protocol):
    """One service. Each verb prints runit's line and says whether the service is now as it was asked to be."""

    @property
    def up(self) -> bool: ...

    @property
    def age(self) -> float:
        """Seconds since it went up or down."""
        ...

    def status(self) -> bool: ...

    def stop(self) -> bool: ...

    def start(self) -> bool: ...

    def restart(self) -> bool: ...


def service(host: Host, name: str) -> Service:
    """Take up a service, real where the host's settings name runit."""
    return Supervised(host, name) if host.settings["supervisor"] == "runit" else Recorded(host, name)


class Recorded:
    """A service of a sandbox. Its state is up, since when, and a number that stands for its process."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.file = host.services / f"{name}.json"
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.since = float(state.get("since", _installed_at(host)))
        self.up = bool(state.get("up", True))
        self.pid = int(state.get("pid", 1000 + SERVICES.index(name) * 2))
        if name == "postgresql":
            running = _postmaster(host)
            self.up, self.pid = running is not None, running or self.pid

    @property
    def age(self) -> float:
        return max(0, time.time() - self.since)

    def status(self) -> bool:
        log = f"run: log: (pid {self.pid - 1}) {int(self.age)}s"
        sys.stdout.write(f"{self._line()}; {log}\n")
        return self.up

    def stop(self) -> bool:
        if _refuses(self.host, "wont_stop", self.name):
            sys.stdout.write(f"timeout: run: {self.name}: (pid {self.pid}) {int(self.age)}s, want down\n")
            return False
        if self.up:
            if self.name == "postgresql":
                _stop_postgres(self.host)
            self._save(up=False)
        sys.stdout.write(f"ok: {self._line()}\n")
        return True

    def start(self) -> bool:
        if _refuses(self.host, "wont_start", self.name) and not self.up:
            sys.stdout.write(f"timeout: down: {self.name}: {int(self.age)}s, normally up, want up\n")
            return False
        if not self.up:
            if self.name == "postgresql":
                self.pid = _start_postgres(self.host)
            else:
                self.pid += 100
            self._save(up=True)
        sys.stdout.write(f"ok: {self._line()}\n")
        return True

    def restart(self) -> bool:
        if _refuses(self.host, "wont_stop", self.name):
            return self.stop()
        if self.up:
            if self.name == "postgresql":
                _stop_postgres(self.host)
            self._save(up=False)
        return self.start()

    def _line(self) -> str:
        if self.up:
            return f"run: {self.name}: (pid {self.pid}) {int(self.age)}s"
        return f"down: {self.name}: {int(self.age)}s, normally up"

    def _save(self, *, up: bool) -> None:
        self.up, self.since = up, time.time()
        self.file.write_text(json.dumps({"up": up, "since": self.since, "pid": self.pid}))


class Supervised:
    """A service below runit. What ``sv`` prints is what Omnibus prints."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name

    @property
    def up(self) -> bool:
        # The text tells: the status is 0 for a service that is down (runit 2.2, Debian).
        return self._sv("status").stdout.startswith("run:")

    @property
    def age(self) -> float:
        changed = self.host.services / self.name / "supervise/status"
        return max(0, time.time() - changed.stat().st_mtime)

    def status(self) -> bool:
        said = self._sv("status").stdout
        sys.stdout.write(said)
        return said.startswith("run:")

    def stop(self) -> bool:
        return not self._keeps("wont_stop") and self._do("stop")

    def start(self) -> bool:
        return not self._keeps("wont_start") and self._do("start")

    def restart(self) -> bool:
        return not self._keeps("wont_stop") and self._do("restart")

    def _keeps(self, switch: str) -> bool:
        if not _refuses(self.host, switch, self.name) or self.up != (switch == "wont_stop"):
            return False
        sys.stdout.write(f"timeout: {self._sv('status').stdout}")
        return True

    def _do(self, verb: str) -> bool:
        result = self._sv(verb)
        sys.stdout.write(result.stdout)
        return result.returncode == 0

    def _sv(self, verb: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SVDIR": str(self.host.services)}
        command = ["sv", "-w", str(_WAIT_SECONDS), verb, self.name]
        # sv opens the directory that it is started in, and git may not enter root's.
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, cwd="/")


def _refuses(host: Host, switch: str, name: str) -> bool:
    return host.switch(switch) in (name, "all")


def _installed_at(host: Host) -> float:
    return (host.rails / "INSTALLATION_TYPE").stat().st_mtime


def _postmaster(host: Host) -> int | None:
    """The pid of the running PostgreSQL: it works in its data directory."""
    data = Path(host.settings["postgres"]["data"])
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        same = Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
    except (FileNotFoundError, PermissionError, ValueError):
        return None
    return pid if same else None


def _stop_postgres(host: Host) -> None:
    pid = _postmaster(host)
    if pid is None:
        return
    os.kill(pid, signal.SIGINT)
    _until(lambda: _postmaster(host) is None)


def _start_postgres(host: Host) -> int:
    server = host.settings["postgres"]
    log = host.root / "var/log/gitlab/postgresql/current"
    with log.open("ab") as file:
        subprocess.Popen(
            server["start"], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd="/"
        )
    pid_file = Path(server["data"]) / "postmaster.pid"
    _until(lambda: pid_file.exists() and "ready" in pid_file.read_text())
    return _postmaster(host) or 0


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("PostgreSQL did not do as it was told")
        time.sleep(0.02)
