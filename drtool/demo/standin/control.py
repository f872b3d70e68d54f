"""gitlab-ctl and gitlab-healthcheck: services as files of state, PostgreSQL as the real thing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from . import secret_file
from .settings import Host

SERVICES = ("gitaly", "gitlab-workhorse", "nginx", "postgresql", "puma", "redis", "sidekiq")
_LSB_DOWN = 3  # what Omnibus' sv answers for one service that is down; gitlab-ctl adds them up


def main(host: Host, arguments: list[str]) -> int:
    """Run a subcommand of gitlab-ctl."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    actions: dict[str, Callable[[Service], bool]] = {
        "status": Service.status,
        "start": Service.start,
        "stop": Service.stop,
        "restart": Service.restart,
    }
    if command in actions:
        return _for_each(host, command, actions[command], rest)
    match command:
        case "reconfigure":
            return _reconfigure(host)
        case "backup-etc":
            return _backup_etc(host, rest)
    sys.stderr.write(f"I don't know that command: {command}\n")
    return 1


def _for_each(host: Host, command: str, action: Callable[[Service], bool], names: list[str]) -> int:
    unknown = [name for name in names if name not in SERVICES]
    for name in unknown:
        sys.stdout.write(f"fail: {name}: unable to change to service directory: file does not exist\n")
    services = [Service(host, name) for name in names or SERVICES if name in SERVICES]
    failed = sum(not action(service) for service in services)
    if command == "status":
        return _LSB_DOWN * failed + (1 if unknown else 0)
    return 1 if failed or unknown else 0


class Service:
    """One runit service. Its state is up, since when, and a number that stands for its process."""

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
    def age(self) -> int:
        return max(0, int(time.time() - self.since))

    def status(self) -> bool:
        log = f"run: log: (pid {self.pid - 1}) {self.age}s"
        sys.stdout.write(f"{self._line()}; {log}\n")
        return self.up

    def stop(self) -> bool:
        if self._refuses("wont_stop"):
            sys.stdout.write(f"timeout: run: {self.name}: (pid {self.pid}) {self.age}s, want down\n")
            return False
        if self.up:
            if self.name == "postgresql":
                _stop_postgres(self.host)
            self._save(up=False)
        sys.stdout.write(f"ok: {self._line()}\n")
        return True

    def start(self) -> bool:
        if self._refuses("wont_start") and not self.up:
            sys.stdout.write(f"timeout: down: {self.name}: {self.age}s, normally up, want up\n")
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
        if self._refuses("wont_stop"):
            return self.stop()
        if self.up:
            if self.name == "postgresql":
                _stop_postgres(self.host)
            self._save(up=False)
        return self.start()

    def _refuses(self, switch: str) -> bool:
        return self.host.switch(switch) in (self.name, "all")

    def _line(self) -> str:
        if self.up:
            return f"run: {self.name}: (pid {self.pid}) {self.age}s"
        return f"down: {self.name}: {self.age}s, normally up"

    def _save(self, *, up: bool) -> None:
        self.up, self.since = up, time.time()
        self.file.write_text(json.dumps({"up": up, "since": self.since, "pid": self.pid}))


def healthcheck(host: Host) -> int:
    """0 only when the web services run and the database answers; else curl's words and statuses."""
    services = {name: Service(host, name) for name in ("nginx", "gitlab-workhorse", "puma", "postgresql")}
    if not services["nginx"].up:
        sys.stderr.write("curl: (7) Failed to connect to localhost port 80: Connection refused\n")
        return 7
    slow = float(host.switch("ready_after") or 0) > time.time() - services["puma"].since
    if host.switch("never_ready") or slow or not all(service.up for service in services.values()):
        sys.stderr.write("curl: (22) The requested URL returned error: 502\n")
        return 22
    query = [host.postgres_program("psql"), "-XAtqc", "select 1"]
    environment = host.postgres_environment()
    answer = subprocess.run(query, env=environment, capture_output=True, check=False)
    if answer.returncode != 0:
        sys.stderr.write("curl: (22) The requested URL returned error: 500\n")
        return 22
    return 0


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


def _reconfigure(host: Host) -> int:
    """Generate what secrets are missing, without a word; make directories; note the version that is installed."""
    sys.stdout.write("Starting Chef Infra Client, version 18.3.0\n")
    if host.switch("reconfigure_fails"):
        sys.stdout.write("Infra Phase failed. 3 resources updated in 02 seconds\n")
        sys.stderr.write("There was an error running gitlab-ctl reconfigure:\n\nexpected the sandbox to let it pass\n")
        return 1
    if not (host.etc / "gitlab.rb").exists():
        sys.stdout.write("Recipe: gitlab::default\n")
    secret_file.reconfigure(host.secrets)
    for name in ("uploads", "shared", "tmp"):
        (host.data / "gitlab-rails" / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    host.backups.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(host.rails / "VERSION", host.data / "gitlab-rails/VERSION")
    sys.stdout.write("\nRunning handlers:\nRunning handlers complete\n")
    sys.stdout.write("Infra Phase complete, 3/812 resources updated in 02 seconds\ngitlab Reconfigured!\n")
    return 0


def _backup_etc(host: Host, arguments: list[str]) -> int:
    """Pack /etc/gitlab with absolute names, as the real command does with the real directory."""
    target = host.etc / "config_backup"
    delete = True
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-p", "--backup-path"):
            target = Path(next(rest))
        elif argument in ("--delete-old-backups", "--no-delete-old-backups"):
            delete = argument == "--delete-old-backups"
        elif not argument.startswith("-"):
            target = Path(argument)  # deprecated, and how CRON=1 becomes a directory
    if not target.is_dir():
        sys.stdout.write(f"Could not find '{target}' directory. Creating.\n")
        target.mkdir(mode=0o700)
    now = datetime.now(UTC)
    archive = target / f"gitlab_config_{int(now.timestamp())}_{now:%Y_%m_%d}.tar"
    sys.stdout.write(f"Running configuration backup\nCreating configuration backup archive: {archive.name}\n")
    sys.stdout.flush()
    excluded = [f"--exclude={target.relative_to(host.root)}"] if target.is_relative_to(host.root) else []
    names = ["--absolute-names", "--show-transformed-names", "--transform=s,^,/,"]
    command = ["tar", *names, "--dereference", "--verbose", "--create", f"--directory={host.root}", *excluded]
    archive.touch(mode=0o600)
    if subprocess.run([*command, f"--file={archive}", "--", "etc/gitlab"], check=False).returncode != 0:
        return 1
    sys.stdout.write(f"Configuration backup archive complete: {archive}\n")
    _prune_etc(host, target, now.timestamp(), delete=delete)
    return 0


def _prune_etc(host: Host, directory: Path, now: float, *, delete: bool) -> None:
    keep = int(host.settings["keep_time"])
    if keep <= 0 or not delete:
        sys.stdout.write("Keeping all older configuration backups\n")
        return
    limit = datetime.fromtimestamp(now - keep, UTC)
    sys.stdout.write(f"Removing configuration backups older than {limit:%Y-%m-%d %H:%M:%S +0000} ...\n")
    removed = 0
    for path in sorted(directory.glob("gitlab_config_*.tar")):
        epoch = path.name.split("_")[2]
        if epoch.isdigit() and int(epoch) < now - keep:
            path.unlink()
            removed += 1
            sys.stdout.write(f"  Removed {path}\n")
    sys.stdout.write(f"done. Removed {removed} older configuration backups.\n")
