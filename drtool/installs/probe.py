"""What to ask a host before GitLab is restored onto it, in few round trips, and how to read its answers.

The scripts are POSIX shell and change nothing. What a program of theirs cannot tell is left out of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final, Literal

from drtool.core.command import Command
from drtool.core.host import Database, Offset, PackageManager, Place, Room, Tar
from drtool.errors import CommandFailed
from drtool.installs.omnibus import MINUTE, Omnibus

_PROGRAMS: Final = ("age", "curl", "apt-get", "dnf", "sudo", "flock")
_PACKAGES: Final = ("gitlab-ce", "gitlab-ee", "gitlab-jh", "gitlab-fips")

_TARS: Final[tuple[tuple[Literal["gnu", "bsd", "busybox"], str], ...]] = (
    ("gnu", r"GNU tar\) (\d{1,4})\.(\d{1,4})"),
    ("bsd", r"bsdtar (\d{1,4})\.(\d{1,4})"),
    ("busybox", r"(?i:busybox)\)? v?(\d{1,4})\.(\d{1,4})"),
)

# Every answer is a line "= status name" and its text, a blank before each line, so that no text passes for an answer.
_SHOW = r"""
show() {
  name=$1; shift
  if text=$("$@" 2>/dev/null); then status=0; else status=$?; fi
  printf '= %s %s\n' "$status" "$name"
  [ -z "$text" ] || printf '%s\n' "$text" | sed 's/^/ /'
}
"""

# $0 is the root, $1 GitLab's lock, $2 drtool's lock, $3 the backup directory; the directories of components follow.
_PROBE = (
    _SHOW
    + rf"""
programs() {{ for one in {" ".join(_PROGRAMS)}; do command -v "$one" >/dev/null && echo "$one"; done; true; }}
packages() {{
  [ "$root" = / ] || return 1
  dpkg-query -W -f '${{db:Status-Abbrev}} ${{Package}} ${{Version}}\n' {" ".join(_PACKAGES)} | sed -n 's/^[hi]i  *//p'
  rpm -q --qf 'rpm %{{NAME}} %{{VERSION}}-%{{RELEASE}}\n' {" ".join(_PACKAGES)} | sed -n 's/^rpm //p'
  true
}}
alive() {{ pid=$(cat -- "$1") || return; case $pid in ''|*[!0-9]*) return 2;; esac; [ -d "/proc/$pid" ]; }}
held() {{
  [ -e "$1" ] || return  # flock would make it; and in a container /proc/locks hides a lock whose taker has ended
  flock --shared --nonblock -- "$1" true
  [ $? = 1 ] && cat -- "$1"
}}
remains() {{
  [ -e "$var/postgresql/data/PG_VERSION" ] || [ -n "$(ls -A -- "$var/git-data/repositories" | head -n 1)" ]
}}
foreign() {{ find -H "$1" -mindepth 1 -maxdepth 1 -type d ! -user "$(stat -L -c %u -- "$1")"; }}
root=$0 task=$1 lock=$2 backups=$3
shift 3
rails=${{root%/}}/opt/gitlab/embedded/service/gitlab-rails
var=${{root%/}}/var/opt/gitlab
show hostname uname -n
show machine uname -m
show user id -u
show os cat /etc/os-release
show memory head -n 3 /proc/meminfo
show programs programs
show tar tar --version
show mounts cat /proc/self/mountinfo
show packages packages
show version cat "$rails/VERSION"
show type cat "$rails/INSTALLATION_TYPE"
show gitlab.yml cat "$rails/config/gitlab.yml"
show database.yml cat "$rails/config/database.yml"
show gitaly.toml cat "$var/gitaly/config.toml"
show remains remains
show cluster cat "$var/postgresql/data/PG_VERSION"
show task cat -- "$task"
show alive alive "$task"
show held held "$lock"
show aside ls -A -- "$backups/tmp"
for one; do
  show "directory $one" readlink -f -- "$one"
  case $one in */registry) ;; *) show "foreign $one" foreign "$one";; esac
done
"""
)

# $1 and $2 are a place and a path, and so on. A path that is not there yet is measured where it would be made.
_MEASURE = (
    _SHOW
    + r"""
while [ $# -gt 1 ]; do
  near=$2
  while [ ! -e "$near" ]; do near=${near%/*}; near=${near:-/}; done
  show "space $1 $2" df -P -k -- "$near"
  show "inodes $1 $2" df -P -i -- "$near"
  shift 2
done
"""
)

# Tables that are not there yet are an installation without data; XML is how one statement may count them nevertheless.
_DATABASE = """\
WITH size AS (SELECT format('SELECT count(*) AS n FROM %I.%I', 'public', 'projects') AS projects,
  format('SELECT sum(storage_size)::bigint AS n FROM %I.%I', 'public', 'project_statistics') AS stored)
SELECT current_setting('server_version_num'), pg_database_size(current_database()),
  CASE WHEN to_regclass('public.projects') IS NULL THEN '0'
    ELSE (xpath('/row/n/text()', query_to_xml(size.projects, false, true, '')))[1]::text END,
  CASE WHEN NOT EXISTS (SELECT FROM information_schema.columns WHERE table_schema = 'public'
      AND table_name = 'project_statistics' AND column_name = 'storage_size') THEN ''
    ELSE coalesce((xpath('/row/n/text()', query_to_xml(size.stored, false, true, '')))[1]::text, '') END,
  (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND n.nspname = 'public'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
FROM size"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one program of a script printed, and the status it ended with."""

    status: int
    text: str


def probe(install: Omnibus) -> Command:
    """Print everything that is cheap to see, for ``parse_shown``."""
    paths = (install.pid_file, install.restore_lock, install.backup_path, *install.component_directories.values())
    return Command(("sh", "-c", _PROBE, str(install.root), *map(str, paths)), 2 * MINUTE)


def measure(places: Iterable[tuple[Place, PurePosixPath | str]]) -> Command:
    """Print how much room there is at these absolute paths, for ``parse_rooms``."""
    words = [str(word) for place, path in places for word in (place, path)]
    return Command(("sh", "-c", _MEASURE, "measure", *words), 2 * MINUTE)


def ask_database(install: Omnibus) -> Command:
    """Print one line for ``parse_database``."""
    return install.query(_DATABASE, timeout=2 * MINUTE)


def read_clock() -> Command:
    """Print the seconds since 1970, for ``parse_offset``."""
    return Command(("date", "-u", "+%s.%N"), MINUTE)


def parse_shown(output: bytes) -> dict[str, Shown]:
    """Read what a script showed, by name. CommandFailed if it is something else."""
    found: dict[str, Shown] = {}
    name, status, lines = "", 0, list[str]()
    for line in output.decode("utf-8", "replace").split("\n"):
        if line.startswith(" ") and name:
            lines.append(line[1:])
        elif heading := re.fullmatch(r"= (\d{1,3}) (.+)", line):
            if name:
                found[name] = Shown(status, "\n".join(lines))
            name, status, lines = heading[2], int(heading[1]), []
        elif line:
            raise CommandFailed(f"the host answered something else than it was asked: {line[:80]!r}")
    if not name:
        raise CommandFailed("the host answered nothing")
    return {**found, name: Shown(status, "\n".join(lines))}


def text_of(shown: Mapping[str, Shown], name: str) -> str | None:
    """What that program printed; None if it failed or was never run."""
    answer = shown.get(name)
    return answer.text if answer and answer.status == 0 else None


def parse_os_release(text: str | None) -> tuple[str | None, str | None]:
    """Read ID and VERSION_ID; each None if it is missing."""
    values = dict(re.findall(r"""^([A-Z_]+)=["']?([^"'\n]*)["']?$""", text or "", re.MULTILINE))
    return values.get("ID") or None, values.get("VERSION_ID") or None


def parse_memory(text: str | None) -> int | None:
    """Read MemTotal of /proc/meminfo, in bytes."""
    found = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", text or "", re.MULTILINE | re.ASCII)
    return int(found[1]) << 10 if found else None


def parse_tar(text: str | None) -> Tar | None:
    """Read the first line of ``tar --version``; None if there is none."""
    lines = (text or "").splitlines()
    if not lines or not lines[0].strip():
        return None
    first = lines[0].strip()[:80]
    for kind, pattern in _TARS:
        if found := re.search(pattern, first):
            return Tar(kind, (int(found[1]), int(found[2])), first)
    return Tar("other", None, first)


def parse_package_manager(programs: Iterable[str]) -> PackageManager:
    return "apt" if "apt-get" in programs else "dnf" if "dnf" in programs else "none"


def parse_number(text: str | None) -> int | None:
    """Read a number that stands alone."""
    return int(text) if text and re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def parse_offset(output: bytes, before: datetime, took: timedelta) -> Offset | None:
    """Compare the host's time with ours. ``before`` is when we asked; the answer was there after ``took``."""
    found = re.fullmatch(rb"(\d{1,11})\.(\d{9})?\D*", output.strip())
    if not found:
        return None
    # Without nanoseconds (BusyBox) the second had begun: take its middle.
    fraction = timedelta(microseconds=int(found[2]) // 1000 if found[2] else 500_000)
    theirs = datetime.fromtimestamp(int(found[1]), UTC) + fraction
    blur = timedelta(0) if found[2] else timedelta(microseconds=500_000)
    return Offset(theirs - (before + took / 2), took / 2 + blur)


def parse_rooms(shown: Mapping[str, Shown]) -> tuple[Room, ...]:
    """Read what ``measure`` printed. A place whose room cannot be understood is left out."""
    return tuple(_rooms(shown))


def _rooms(shown: Mapping[str, Shown]) -> Iterator[Room]:
    places: tuple[Place, ...] = ("backups", "data", "database", "repositories", "root")
    for name in shown:
        what, _, rest = name.partition(" ")
        place, _, path = rest.partition(" ")
        found = _df(text_of(shown, name))
        if what != "space" or place not in places or found is None:
            continue
        source, total, free, mount = found
        inodes = _df(text_of(shown, f"inodes {rest}"))
        counted = (inodes[1], inodes[2]) if inodes and inodes[1] else (None, None)
        device = source if source.startswith("/") else f"{source} {mount}"
        yield Room(place, path, device, mount, total << 10, free << 10, *counted)


def _df(text: str | None) -> tuple[str, int, int, str] | None:
    """Read the one line of ``df -P`` below its heading: source, total, available, mount point."""
    lines = (text or "").splitlines()
    if len(lines) != 2:
        return None
    found = re.fullmatch(r"(.+?)\s+(\d{1,18})\s+(?:\d+|-)\s+(-?\d{1,18})\s+(?:\d+%|-)\s+(/.*)", lines[1], re.ASCII)
    return (found[1], int(found[2]), max(0, int(found[3])), found[4]) if found else None


def parse_mounts(mountinfo: str | None) -> tuple[str, ...]:
    """Read the mount points of /proc/self/mountinfo; lines that are none are left out."""
    fields = (line.split(" ") for line in (mountinfo or "").splitlines())
    return tuple(_unescape(field[4]) for field in fields if len(field) > 6 and field[4].startswith("/"))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), text)


def mounts_below(mounts: Iterable[str], directories: Iterable[str]) -> tuple[str, ...]:
    """Choose the mount points that lie inside one of these directories; the directory itself may be one."""
    fronts = tuple(f"{directory.rstrip('/')}/" for directory in directories if directory)
    return tuple(sorted({mount for mount in mounts if mount.startswith(fronts)})) if fronts else ()


def parse_database(output: bytes) -> Database | None:
    """Read the line that ``ask_database`` prints; None if it is anything else."""
    found = re.fullmatch(rb"(\d{5,7})\|(\d{1,18})\|(\d{1,18})\|(\d{0,18})\|(\d{1,9})\n?", output)
    if not found:
        return None
    number, size, projects, stored, views = found.groups()
    # From 10 on the first two of six digits are the major; before there were two parts to it.
    return Database(int(number) // 10_000, int(projects), int(size), int(stored) if stored else None, int(views))
