"""What to run on a package installation to stop it from writing, to keep it stopped, and to let it serve again.

A fence has two halves, because either alone has been lost before: files named ``down``, at which runit leaves a service
down when the machine starts (runsv(8)), and systemd's own switch of the unit that starts runit. Both can be taken back.
Exit statuses prove little here; ``look`` tells what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from drtool.core.command import Command
from drtool.errors import HostUnfit
from drtool.installs.omnibus import MINUTE, Omnibus

UNIT: Final = "gitlab-runsvdir.service"
# They write only what the others tell them to, and without them nothing can be counted. What is not named here writes.
_STORES: Final = ("gitaly", "postgresql", "praefect", "redis", "redis-sentinel", "pgbouncer", "logrotate")
# The doors first, so that nobody is let in whose request is then cut off.
_DOORS: Final = ("nginx", "gitlab-sshd", "gitlab-workhorse", "registry", "puma")

_LOOK = """\
printf '= services\\n'
"$0/opt/gitlab/bin/gitlab-ctl" status 2>&1
printf '= held\\n'
for service in "$0"/opt/gitlab/service/*/; do
  if [ -d "$service" ]; then
    if [ -e "${service}down" ]; then printf 'held %s\\n' "$service"; else printf 'free %s\\n' "$service"; fi
  fi
done
printf '= unit\\n'
if [ "$1" = systemd ] && [ -d /run/systemd/system ]; then systemctl is-enabled "$2" 2>/dev/null; fi
printf '= mark\\n'
cat -- "$3" 2>/dev/null
printf '\\n= end\\n'"""

_HOLD = """\
set -eu
for service in "$0"/opt/gitlab/service/*/; do
  if [ -d "$service" ] && [ ! -e "${service}down" ]; then printf 'drtool cutover\\n' >"${service}down"; fi
done
sync
if [ "$1" = systemd ] && [ -d /run/systemd/system ] && systemctl cat "$2" >/dev/null 2>&1; then
  systemctl disable "$2"
fi
"""

# By systemd too, so that a gitlab-ctl start by mistake finds nobody who would do it.
_FENCE = f"""\
{_HOLD}
"$0/opt/gitlab/bin/gitlab-ctl" stop || :
if [ "$1" = systemd ] && [ -d /run/systemd/system ] && systemctl cat "$2" >/dev/null 2>&1; then
  systemctl stop "$2"
fi"""

# A file that somebody else put there is none of ours. After the unit's start runit needs up to five seconds to look
# into each directory; before that, gitlab-ctl fails.
_OPEN = """\
set -eu
for service in "$0"/opt/gitlab/service/*/; do
  if [ -e "${service}down" ] && [ "$(cat -- "${service}down")" = 'drtool cutover' ]; then rm -f -- "${service}down"; fi
done
if [ "$1" = systemd ] && [ -d /run/systemd/system ] && systemctl cat "$2" >/dev/null 2>&1; then
  systemctl enable --now "$2"
  for service in "$0"/opt/gitlab/service/*/; do
    tries=30
    while [ ! -p "${service}supervise/ok" ] && [ $tries -gt 0 ]; do sleep 1; tries=$((tries - 1)); done
  done
fi
"$0/opt/gitlab/bin/gitlab-ctl" start"""

_SERVICE = re.compile(r"(?P<state>[a-z]+): (?P<name>[a-z][a-z0-9_-]*): ")
_DOWN = ("down", "fail", "warning")  # the last two: nobody supervises it, so nobody runs it


@dataclass(frozen=True, slots=True)
class Services:
    """GitLab's services. ``held``: none would be up after a restart of the machine. ``mark``: what we left there."""

    up: frozenset[str]
    down: frozenset[str]
    held: bool
    mark: str

    @property
    def writing(self) -> tuple[str, ...]:
        """What is up and may write, in the order in which it is to be stopped."""
        found = self.up.difference(_STORES)
        return (*(name for name in _DOORS if name in found), *sorted(found.difference(_DOORS)))


def look(install: Omnibus) -> Command:
    """Print how the services are, for ``parse_services``."""
    return Command(("sh", "-c", _LOOK, *_place(install), str(mark_path(install))), 2 * MINUTE)


def parse_services(output: bytes, host: str) -> Services:
    """Read what ``look`` printed. Raises HostUnfit where it says nothing about any service: silence is no fence."""
    sections = dict(_sections(output.decode("utf-8", "replace")))
    found = [match for line in sections.get("services", []) if (match := _SERVICE.match(line))]
    if not found or "end" not in sections:
        raise HostUnfit(
            f"{host}: gitlab-ctl status names no service", hint="Is GitLab there? Run `gitlab-ctl status` as root."
        )
    down = {match["name"] for match in found if match["state"] in _DOWN}
    held = [line for line in sections["held"] if line]
    enabled = [line for line in sections["unit"] if line and line not in ("disabled", "masked", "not-found")]
    return Services(
        up=frozenset(match["name"] for match in found) - down,
        down=frozenset(down),
        held=bool(held) and all(line.startswith("held ") for line in held) and not enabled,
        mark="\n".join(sections["mark"]).strip(),
    )


def freeze(install: Omnibus, services: Services) -> tuple[Command, ...]:
    """Stop everything that may write, from starting with the machine first; the database and Gitaly stay for counting.

    A machine that starts anew in between would else serve again after it was counted.
    """
    hold = Command(("sh", "-c", _HOLD, *_place(install)), MINUTE)
    return (hold, *(install.stop(service) for service in services.writing))


def fence(install: Omnibus) -> Command:
    """Stop everything and keep it so. May be run again."""
    return Command(("sh", "-c", _FENCE, *_place(install)), 15 * MINUTE)


def open_again(install: Omnibus) -> Command:
    """Take a fence away and start everything. May be run again, also where there is no fence."""
    return Command(("sh", "-c", _OPEN, *_place(install)), 15 * MINUTE)


def mark_path(install: Omnibus) -> PurePosixPath:
    """Where a cut-over leaves word on a host. In no backup, or a restore would bring it to another one."""
    return install.root / "var/opt/gitlab/drtool-cutover.json"


def unmark(install: Omnibus) -> Command:
    return Command(("rm", "-f", "--", str(mark_path(install))), MINUTE)


def _place(install: Omnibus) -> tuple[str, str, str]:
    # Below another root than the machine's own, its systemd is somebody else's.
    whole = install.root == PurePosixPath("/")
    return ("" if whole else str(install.root), "systemd" if whole else "none", UNIT)


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("= "):
            yield name, lines
            name, lines = line[2:], []
        else:
            lines.append(line)
    yield name, lines
