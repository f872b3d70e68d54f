"""gitlab-ctl and gitlab-healthcheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from . import mail_settings, secret_file
from .services import SERVICES, Service, service
from .settings import Host

_LSB_DOWN = 3  # what Omnibus' sv answers for one service that is down; gitlab-ctl adds them up


def main(host: Host, arguments: list[str]) -> int:
    """Run a subcommand of gitlab-ctl."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    actions: dict[str, Callable[[Service], bool]] = {
        "status": lambda one: one.status(),
        "start": lambda one: one.start(),
        "stop": lambda one: one.stop(),
        "restart": lambda one: one.restart(),
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
    services = [service(host, name) for name in names or SERVICES if name in SERVICES]
    failed = sum(not action(one) for one in services)
    if command == "status":
        return _LSB_DOWN * failed + (1 if unknown else 0)
    return 1 if failed or unknown else 0


def healthcheck(host: Host, arguments: list[str]) -> int:
    """0 only when the web services run and the database answers; else curl's words and statuses."""
    if host.settings["web"]:
        url = host.settings["web"] + "/-/readiness"
        command = ["curl", *arguments, "--silent", "--show-error", "--output", "/dev/null", url]
        return subprocess.run(command, check=False).returncode
    services = {name: service(host, name) for name in ("nginx", "gitlab-workhorse", "puma", "postgresql")}
    if not services["nginx"].up:
        sys.stderr.write("curl: (7) Failed to connect to localhost port 80: Connection refused\n")
        return 7
    if is_slow(host, services["puma"]) or not all(one.up for one in services.values()):
        sys.stderr.write("curl: (22) The requested URL returned error: 502\n")
        return 22
    if not database_answers(host):
        sys.stderr.write("curl: (22) The requested URL returned error: 500\n")
        return 22
    return 0


def is_slow(host: Host, puma: Service) -> bool:
    """Say whether a switch keeps puma from being ready yet, or for ever."""
    return bool(host.switch("never_ready")) or float(host.switch("ready_after") or 0) > puma.age


def database_answers(host: Host) -> bool:
    query = [host.postgres_program("psql"), "-XAtqc", "select 1"]
    answer = subprocess.run(query, env=host.postgres_environment(), capture_output=True, check=False)
    return answer.returncode == 0


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
    secret_file.hand_over(host.secrets, host.rails_secrets, host.settings["user"])
    mail_settings.write(host)
    for path in (*(host.data / "gitlab-rails" / name for name in ("uploads", "shared", "tmp")), host.backups):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0 and host.settings["user"]:
            shutil.chown(path, host.settings["user"])
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
