"""What tells that somebody replaces GitLab on a host at this moment: a package manager at work, or a reconfigure.

While they are at it, GitLab's files, its VERSION and its database's schema need not be of one version.

A package manager at work is known by the lock that dpkg, apt, rpm, and what is built upon them, hold for as long as
they change anything: an idle packagekitd, a waiting unattended-upgrade-shutdown, dpkg-query, `apt-get update` and an
editor with a file named apt hold none. gitlab-ctl has no such lock, and is known by its words. drtool's own units are
shown no other process (ProtectProc=): there an upgrade is seen, and a reconfigure by itself is not. (Sources: apt 2.6,
dpkg 1.21, rpm 4.18; the package's gitlab-ctl, which stays while Ruby's omnibus-ctl works below it.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from drtool.core.command import Command
from drtool.core.packages import PACKAGE_NAMES
from drtool.errors import CommandFailed
from drtool.installs.omnibus import MINUTE, Omnibus

_LOCKS: Final = (
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/lock",
    "var/lib/rpm/.rpm.lock",
    "usr/lib/sysimage/rpm/.rpm.lock",
)
_CONTROLS: Final = ("opt/gitlab/bin/gitlab-ctl", "opt/gitlab/embedded/bin/omnibus-ctl")
_CLIENTS: Final = ("opt/gitlab/embedded/bin/cinc-client", "opt/gitlab/embedded/bin/chef-client")
_REPLACING: Final = ("reconfigure", "upgrade", "pg-upgrade", "revert-pg-upgrade")
_DISPLAYED: Final = 60

# $0 is the root, the rest are files that are locked. Every process found is a line "= number why" and its words, one a
# line, a blank before each; every process above this one is a line "^ number". The kernel shows a host the processes of
# its containers too: another root directory tells them, or, where that may not be read, process numbers of their own.
_LOOK = r"""
here() {
  if [ -e "/proc/$1/root/." ]; then [ "/proc/$1/root" -ef / ]; return; fi
  while read -r name _ inner; do
    if [ "$name" = NSpid: ] && [ -n "$inner" ]; then return 1; fi
  done 2>/dev/null <"/proc/$1/status"
  return 0
}
show() {
  here "$1" || return 0
  printf '= %s %s\n' "$1" "$2"
  tr '\n\0' ' \n' <"/proc/$1/cmdline" 2>/dev/null | sed 's/^/ /'
}
for path; do
  [ -e "$path" ] && inode=$(stat -L -c %i -- "$path") || continue
  while read -r _ kind _ access pid place _; do
    case "$kind $access ${place##*:}" in "POSIX WRITE $inode") show "$pid" "$path";; esac
  done </proc/locks
done
for file in $(LC_ALL=C grep -alsE 'opt/gitlab/(bin|embedded/bin)/(gitlab-ctl|omnibus-ctl|cinc-client|chef-client)' \
    /proc/[0-9]*/cmdline); do
  pid=${file#/proc/}
  show "${pid%/cmdline}" gitlab
done
pid=$$
while [ "${pid:-0}" -gt 1 ]; do
  printf '^ %s\n' "$pid"
  while read -r name parent _; do [ "$name" = PPid: ] && break; done <"/proc/$pid/status"
  pid=$parent
done
"""


def look_for_upgrades(install: Omnibus) -> Command:
    """Print what is at work on the host, for ``parse_upgrades``."""
    return Command(("sh", "-c", _LOOK, str(install.root), *(str(install.root / lock) for lock in _LOCKS)), MINUTE)


def parse_upgrades(output: bytes, install: Omnibus) -> tuple[str, ...]:
    """Say what replaces GitLab or could, in a few words each. CommandFailed if it is no such output.

    What runs above drtool is left out, as a hook of apt's that takes a backup first: it waits for us.
    """
    above: set[int] = set()
    seen: list[tuple[int, str, list[str]]] = []
    for line in output.decode("utf-8", "replace").splitlines():
        if line.startswith(" ") and seen:
            seen[-1][2].append(line[1:])
        elif found := re.fullmatch(r"= (\d{1,9}) (.+)", line):
            seen.append((int(found[1]), found[2], []))
        elif found := re.fullmatch(r"\^ (\d{1,9})", line):
            above.add(int(found[1]))
        else:
            raise CommandFailed(f"the host answered something else than it was asked: {line[:80]!r}")
    if not above:
        raise CommandFailed("the host does not tell what is at work on it")
    return tuple(dict.fromkeys(_told(install, [one for one in seen if one[0] not in above])))


def _told(install: Omnibus, seen: list[tuple[int, str, list[str]]]) -> Iterator[str]:
    for pid, why, words in seen:
        if why != "gitlab":
            yield f"a package manager is at work{_shown(words)} (process {pid})"
        elif replaces := _replacing(install, words):
            yield f"{replaces} is at work (process {pid})"


def _replacing(install: Omnibus, words: list[str]) -> str:
    """What GitLab is being told, if it replaces anything: a program of GitLab's is run by itself or an interpreter."""
    for place, word in enumerate(words[:3]):
        if word in {str(install.root / path) for path in _CLIENTS}:
            return "gitlab-ctl reconfigure"
        if word in {str(install.root / path) for path in _CONTROLS}:
            told = [later for later in words[place + 1 :] if later in _REPLACING]
            return f"gitlab-ctl {told[0]}" if told else ""
    return ""


def _shown(words: list[str]) -> str:
    """The program after a colon, and no more: what it was told can be long, or nobody's business.

    Nothing where its words are hidden from us, or it ended meanwhile, which the next look tells.
    """
    names = [PurePosixPath(word).name for word in words[:2] if not word.startswith("-")]
    if len(names) == 2 and re.fullmatch(r"python[0-9.]*|perl|sh|bash", names[0]):
        del names[0]  # what it runs says more
    return f": {names[0][:_DISPLAYED]}" if names else ""


def list_unfinished(install: Omnibus) -> Command:
    """Print packages and their states as dpkg has them, for ``parse_unfinished``. Fails where none is of GitLab."""
    return Command(
        ("dpkg-query", f"--admindir={install.root / 'var/lib/dpkg'}", "--show",
         r"--showformat=${Package}\t${Version}\t${Status}\n", "gitlab-*"),
        MINUTE,
    )  # fmt: skip


def parse_unfinished(output: bytes) -> tuple[str, ...]:
    """GitLab's packages that dpkg began to install or remove and did not finish, with what it says of them."""
    found = []
    for line in output.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition("\t")
        version, _, status = rest.partition("\t")
        state = status.split(" ")[-1]
        if name in PACKAGE_NAMES and state not in {"installed", "not-installed", "config-files", ""}:
            found.append(f"{name} {version} is {state}")
    return tuple(found)
