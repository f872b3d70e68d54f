"""The five commands of opt/gitlab/bin, gitaly-backup, and the web services of a host that has real services."""

from __future__ import annotations

import os
import pwd
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import checks, control, create, doctor, gitaly, restore
from .console import Quit, RakeAborted
from .settings import Host

_USAGE = """\
Usage: gitlab-backup COMMAND [OPTIONS]

COMMANDS:
  create   create a backup (this is the default)
  restore  restore a backup

OPTIONS:
  -h, --help   print this
"""
_TASKS: dict[str, Callable[[Host], None]] = {
    "gitlab:backup:create": create.run,
    "gitlab:backup:restore": restore.run,
    "gitlab:check": checks.check,
    "gitlab:env:info": checks.environment,
    "gitlab:doctor:secrets": doctor.run,
}


class Interrupted(BaseException):
    """SIGINT or SIGTERM. Not an Exception, so that nothing takes it for a failure of its own."""


def main(root: Path, arguments: list[str]) -> int:
    """Run the command named first. Returns the exit status."""
    command, rest = arguments[0], arguments[1:]
    host = Host(root)
    match command:
        case "gitlab-backup":
            return _backup_wrapper(host, rest)
        case "gitlab-rake":
            return _rake(host, rest)
        case "gitlab-ctl":
            return control.main(host, rest)
        case "gitlab-healthcheck":
            return control.healthcheck(host, rest)
        case "gitlab-psql":
            return _psql(host, rest)
        case "gitaly-backup":
            return gitaly.main(host, rest)
        case "serve":
            from . import web  # the commands do without a server's modules

            return web.serve(host, rest[0])
    sys.stderr.write(f"no such command: {command}\n")
    return 127


def _backup_wrapper(host: Host, arguments: list[str]) -> int:
    """What the bash script gitlab-backup does before it starts gitlab-rake."""
    settings = host.root / "opt/gitlab/etc/gitlab-rails-rc"
    if not os.access(settings, os.R_OK):
        sys.stderr.write(f"gitlab-backup error: could not load {settings}\n")
        return 2
    subcommand = "create"
    if arguments:
        first, *rest = arguments
        if first in ("-h", "--help"):
            sys.stdout.write(_USAGE)
            return 0
        if first.startswith("-"):
            sys.stderr.write(f"gitlab-backup: unknown option {first}\n{_USAGE}")
            return 1
        if "=" not in first:
            subcommand, arguments = first, rest
    if subcommand not in ("create", "restore"):
        sys.stderr.write(f"gitlab-backup: unknown command {subcommand}\n{_USAGE}")
        return 1
    # Unquoted in the script: a value with blanks falls apart, and rake takes the pieces for tasks.
    words = [word for argument in arguments for word in argument.split()]
    return _rake(host, [f"gitlab:backup:{subcommand}", *words])


def _rake(host: Host, arguments: list[str]) -> int:
    _drop_privileges(str(host.settings["user"]))
    os.umask(0o022)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    tasks = []
    for argument in arguments:
        if assignment := re.fullmatch(r"(\w+)=(.*)", argument, re.DOTALL):
            os.environ[assignment[1]] = assignment[2]
        elif not argument.startswith("-"):
            tasks.append(argument)
    try:
        for task in tasks:
            _run_task(host, task)
    except Quit as quit_:
        return quit_.status
    except Interrupted:
        return 1
    except RakeAborted as error:
        return _aborted(str(error), task)
    except OSError as error:
        kind = {2: "Errno::ENOENT", 13: "Errno::EACCES", 28: "Errno::ENOSPC"}.get(error.errno or 0, "SystemCallError")
        return _aborted(str(RakeAborted(kind, str(error))), task)
    return 0


def _run_task(host: Host, task: str) -> None:
    name = task.partition("[")[0]
    if name not in _TASKS:
        raise RakeAborted(
            "RuntimeError",
            f"Don't know how to build task '{task}' (See the list of available tasks with `rake --tasks`)",
        )
    _TASKS[name](host)


def _aborted(message: str, task: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"rake aborted!\n{message}\n\nTasks: TOP => {task}\n")
    sys.stderr.write("(See full trace by running task with --trace)\n")
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise Interrupted


def _drop_privileges(user: str) -> None:
    if not user or os.geteuid() != 0:
        return
    account = pwd.getpwnam(user)
    os.initgroups(user, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir


def _psql(host: Host, arguments: list[str]) -> int:
    """Become psql, as the superuser."""
    _drop_privileges(host.settings["postgres_user"])
    program = host.postgres_program("psql")
    environment = host.postgres_environment("gitlab-psql")
    os.execve(program, [program, *arguments], environment)  # never returns
