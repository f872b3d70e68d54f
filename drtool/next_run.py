"""When does the next backup begin by itself, and does somebody else start GitLab's own? Looks at systemd and cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final

from drtool.core.command import Command
from drtool.core.crontab import Line, next_backup, parse_lines
from drtool.core.situation import NextRun
from drtool.errors import CommandFailed
from drtool.hosts import Runner

_PATIENCE: Final = timedelta(seconds=30)
# A missing file is no answer, one that cannot be read is a failure: then nobody knows what it says.
_GREP: Final = """\
for path in "$0/etc/crontab" "$0/etc/cron.d" "$0/var/spool/cron" "$0/etc/systemd/system"; do
  [ -e "$path" ] || continue
  grep -rHE 'gitlab|drtool' "$path" || [ $? -eq 1 ] || exit 3
done"""


def read_lines(runner: Runner, root: PurePosixPath) -> tuple[Line, ...]:
    """Every line of a crontab or of a unit below ``root`` that speaks of GitLab or drtool. Raises CommandFailed."""
    where = "" if root == PurePosixPath("/") else str(root)
    found = runner.run(Command(("sh", "-c", _GREP, where), timeout=_PATIENCE))
    return parse_lines(found.decode(errors="replace"))


def look_at_next_run(runner: Runner, root: PurePosixPath, instance: str, now: datetime) -> NextRun:
    """The earlier of what systemd and cron say. systemd is asked about the machine itself alone, not below a prefix."""
    found, doubts = [], []
    if root == PurePosixPath("/"):
        for unit in (f"drtool-backup-{instance}.timer", "drtool-backup.timer"):
            match _ask_systemd(runner, unit):
                case datetime() as at:
                    found.append((at, unit))
                case str() as doubt:
                    doubts.append(doubt)
    try:
        if by_cron := next_backup(read_lines(runner, root), instance, now.astimezone()):
            found.append(by_cron)
    except CommandFailed as problem:
        doubts.append(f"crontabs cannot be read: {problem}")
    if found:
        at, source = min(found)
        return NextRun("known", at.astimezone(UTC), source)
    return (
        NextRun("unknown", None, doubts[0]) if doubts else NextRun("none", None, "no timer and no crontab starts one")
    )


def _ask_systemd(runner: Runner, unit: str) -> datetime | str | None:
    """When it elapses; None without such a timer; text where there is one and no time could be told."""
    properties = ("-p", "LoadState", "-p", "ActiveState", "-p", "NextElapseUSecRealtime")
    command = Command(("env", "TZ=UTC", "LC_ALL=C", "systemctl", "show", unit, *properties), timeout=_PATIENCE)
    try:
        said = runner.run(command).decode(errors="replace")
    except CommandFailed:
        return None  # no systemd here: then there is no timer either
    values = dict(line.partition("=")[::2] for line in said.splitlines())
    if values.get("LoadState") != "loaded":
        return None
    if values.get("ActiveState") != "active":
        return f"{unit} is there, and not active: systemctl enable --now {unit}"
    try:
        text = values.get("NextElapseUSecRealtime", "").removesuffix(" UTC")
        return datetime.strptime(f"{text} +0000", "%a %Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return f"{unit} is active, and systemd does not say when it elapses"
