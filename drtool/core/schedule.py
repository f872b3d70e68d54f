"""What runs by itself on a GitLab host, and the files that make cron or systemd run it. Pure: text from values.

contrib/systemd and contrib/cron hold what this makes of the defaults; `drtool install-timer` writes it for one host.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

_NOTICE = "# Made by `drtool install-timer`, which leaves it alone once it was changed by hand; seal {seal}"
_SEAL = re.compile(r"\A# Made by `drtool install-timer`.*; seal ([0-9a-f]{16})\n")
_PROGRAM, _STATE = PurePosixPath("/usr/local/bin/drtool"), PurePosixPath("/var/lib/drtool")
_ROOT, _STORE = PurePosixPath("/"), PurePosixPath("/srv/gitlab-backups")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Job:
    """One command with a rhythm. ``runs_gitlab`` ones start GitLab's own commands, and need more rights for that."""

    name: str
    words: tuple[str, ...]
    description: str
    calendar: str
    delay: str
    cron: str
    runs_gitlab: bool = False


STATUS = "status"
JOBS = (
    Job(
        "backup",
        ("backup",),
        "Backup of GitLab",
        calendar="*-*-* 03:15:00",
        delay="30min",
        cron="15 3 * * *",
        runs_gitlab=True,
    ),
    Job(
        "verify",
        ("verify", "--every-store", "--newer-than", "26h"),
        "Verification of GitLab's newest backup, every byte of it, in every store",
        calendar="*-*-* 09:30:00",  # every one of them: retention counts no set that nobody read whole in that store
        delay="1h",
        cron="30 9 * * *",
    ),
    Job(
        "prune",
        ("prune",),
        "Removal of the backups of GitLab that the policy lets go",
        calendar="*-*-* 12:45:00",
        delay="30min",
        cron="45 12 * * *",
    ),
    Job(
        STATUS,
        ("status",),
        "What is promised of GitLab's backups, held against what is",
        calendar="hourly",
        delay="5min",
        cron="5 8 * * *",  # once a day: cron would mail a broken promise every hour
    ),
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are on one host. ``instance`` is None where the configuration has only one.

    ``stores`` are directories that jobs write backups to, ``backups`` is GitLab's own backup directory where it is
    not the usual one. ``metrics`` is a file for node-exporter that the status is to write.
    """

    program: PurePosixPath = _PROGRAM
    config: PurePosixPath | None = None
    instance: str | None = None
    state: PurePosixPath = _STATE
    gitlab: PurePosixPath = _ROOT
    backups: PurePosixPath | None = None
    stores: tuple[PurePosixPath, ...] = (_STORE,)
    metrics: PurePosixPath | None = None
    jobs: tuple[Job, ...] = JOBS

    def unit(self, name: str, kind: Literal["service", "timer"] = "service") -> str:
        return f"drtool-{name}{f'-{self.instance}' if self.instance else ''}.{kind}"

    @property
    def failed_unit(self) -> str:
        return f"drtool-failed{f'-{self.instance}' if self.instance else ''}@.service"

    @property
    def timers(self) -> tuple[str, ...]:
        return tuple(self.unit(job.name, "timer") for job in self.jobs)

    def words(self, job: Job) -> tuple[str, ...]:
        return (*job.words, "--prometheus", str(self.metrics)) if self.metrics and job.name == STATUS else job.words

    def command(self, *words: str) -> tuple[str, ...]:
        config = ("--config", str(self.config)) if self.config else ()
        return (str(self.program), *words, *config, *(("--instance", self.instance) if self.instance else ()))


def units(site: Site) -> dict[str, str]:
    """The text of every unit file, by its name."""
    files = {site.failed_unit: _sealed(_failed(site))}
    for job in site.jobs:
        files[site.unit(job.name)] = _sealed(_service(site, job))
        files[site.unit(job.name, "timer")] = _sealed(_timer(job))
    return files


def is_untouched(text: str) -> bool:
    """Whether a file is as this module once made it, of whatever version."""
    seal = _SEAL.match(text)
    return seal is not None and seal[1] == _seal(text[seal.end() :])


def _sealed(text: str) -> str:
    return f"{_NOTICE.format(seal=_seal(text))}\n{text}"


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cron_name(site: Site) -> str:
    """The name below /etc/cron.d: cron ignores files with a dot in their name."""
    return f"drtool-{site.instance.replace('.', '_')}" if site.instance else "drtool"


def cron_file(site: Site) -> str:
    """A file for /etc/cron.d."""
    lines = [f"{job.cron} root {_cron_words((*site.command(*site.words(job)), '--quiet'))}" for job in site.jobs]
    return _sealed("\n".join([_CRON_HEAD.format(path=_PATH), *lines, ""]))


_CRON_HEAD = """\
# What drtool does by itself: to be copied to /etc/cron.d/drtool (owner root, mode 0644, no dot in its name).
#
# --quiet: cron mails what is printed, and a night without a mail is a night in which nothing was wrong.
# No flock around it: a second run ends by itself with status 17, and the kernel frees drtool's lock when a process
# dies. A lock of flock's own would only hide that backups take longer than a day.
# Secrets belong into files that drtool.toml names, not here: this file can be read by everybody.
SHELL=/bin/sh
PATH={path}
MAILTO=root
"""


def _cron_words(words: tuple[str, ...]) -> str:
    """Quote for the shell and for cron, which takes % for the end of a line."""
    return shlex.join(words).replace("%", r"\%")


def _exec(words: tuple[str, ...]) -> str:
    """Quote as systemd reads it: % and $ begin expansions there."""
    return " ".join(_quoted(word.replace("$", "$$")) for word in words)


def _quoted(word: str) -> str:
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(sign in " '\";" or sign == "\\" for sign in word) else text


def _timer(job: Job) -> str:
    return f"""\
[Unit]
Description={job.description}: when

[Timer]
OnCalendar={job.calendar}
# Several hosts with one store do not all begin at once.
RandomizedDelaySec={job.delay}
# A host that was down at that time makes up for it when it is up again.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _service(site: Site, job: Job) -> str:
    return f"""\
[Unit]
Description={job.description}
Wants=network-online.target
After=network-online.target
# Tells of ends that drtool could not tell of itself: killed, out of memory, not even started.
OnFailure={site.failed_unit.replace("@", "@%n")}

[Service]
Type=oneshot
ExecStart={_exec(site.command(*site.words(job)))}
# Ends it as Ctrl-C does: what it started is stopped too, and the next run goes on.
KillSignal=SIGINT
TimeoutStopSec=2min
Nice=10
IOSchedulingClass=idle
{_sandbox(site, job)}"""


def _failed(site: Site) -> str:
    return f"""\
[Unit]
Description=Notice that %i failed
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={_exec(site.command("notify", "--unit"))} %i
TimeoutStartSec=5min
{_sandbox(site, None)}"""


def _sandbox(site: Site, job: Job | None) -> str:
    runs_gitlab = job is not None and job.runs_gitlab
    capabilities = "CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH"
    if runs_gitlab:
        capabilities += " CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID"
    return f"""\
{_state(site)}
{_WHY_GITLAB if runs_gitlab else _WHY_NOT_GITLAB}
CapabilityBoundingSet={capabilities}
SystemCallFilter=@system-service
SystemCallFilter=~@resources{"" if runs_gitlab else " @privileged"}
SystemCallErrorNumber=EPERM
NoNewPrivileges=true
ProtectSystem=strict
{"".join(f"ReadWritePaths={_quoted(f'-{path}')}{chr(10)}" for path in _writable(site, job))}\
ProtectHome=read-only
PrivateTmp=true
PrivateDevices=true
PrivateMounts=true
DevicePolicy=closed
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
KeyringMode=private
SystemCallArchitectures=native
UMask=0077
"""


_WHY_GITLAB = """\
# It has to be root: GitLab's files belong to several users, and gitlab-backup itself changes to git. So there is no
# User=, no system call filter of @privileged (it holds setuid), and no MemoryDenyWriteExecute= (Ruby compiles as it
# runs). It may write where GitLab and drtool write in a backup, and nowhere else: a store in another directory, or
# another backup_path of GitLab, needs a line ReadWritePaths= of its own. `drtool install-timer` writes those."""
_WHY_NOT_GITLAB = """\
# Root for the files' sake alone: it changes to no other user, and starts nothing of GitLab's. A store in another
# directory needs a line ReadWritePaths= of its own. `drtool install-timer` writes those."""


def _state(site: Site) -> str:
    """A directory below /var/lib is systemd's to make and to leave writable."""
    below = PurePosixPath("/var/lib")
    if not site.state.is_relative_to(below):
        return ""
    return f"StateDirectory={site.state.relative_to(below)}\nStateDirectoryMode=0700\n"


def _writable(site: Site, job: Job | None) -> list[PurePosixPath]:
    """Where a job writes; in the unit each with a dash, for drtool says better than systemd that one is not there."""
    paths = [] if _state(site) else [site.state]
    if job is None:
        return paths
    if job.runs_gitlab:
        paths += [site.gitlab / name for name in _GITLAB_WRITES]
        paths += [site.backups] if site.backups else []
    paths += [site.metrics.parent] if site.metrics and job.name == STATUS else []
    return [*paths, *site.stores]


_GITLAB_WRITES = ("var/opt/gitlab", "var/log/gitlab", "opt/gitlab/embedded/service/gitlab-rails/tmp")
