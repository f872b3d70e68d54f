"""Is this machine one onto which anything can be restored? What was seen below and beside GitLab. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from drtool.core.host import Host
from drtool.core.needs import Needs
from drtool.core.obstacles import Obstacle
from drtool.core.room import size_text
from drtool.errors import Busy

_OLDEST_TAR: Final = (1, 30)
_CLOCK_TOLERANCE: Final = timedelta(minutes=5)
_LEAST_MEMORY: Final = 4 << 30  # GitLab's documentation: 4 GB is the least it runs with
_ALMOST: Final = 0.9  # a machine that is sold with 4 GB shows a little less
_KNOWN_SYSTEMS: Final = frozenset(
    {"debian", "ubuntu", "raspbian", "rhel", "centos", "almalinux", "rocky", "ol", "amzn", "sles", "opensuse-leap"}
)
_SAME_MACHINE: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def judge_rights(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """Root alone may replace GitLab's files, stop its services and run its restore."""
    if host.system.user == 0 or not needs.as_root:
        return
    if "sudo" in host.system.programs:
        remedy = "Let drtool use sudo on this host (sudo = true), or log in as root."
    else:
        remedy = "Log in as root: there is no sudo on this host."
    yield Obstacle("not-root", f"{host.name}: not root there", remedy)


def judge_machine(host: Host, needs: Needs) -> Iterator[Obstacle]:
    """Name what is wrong with everything but GitLab itself."""
    yield from _tasks(host)
    yield from _directories(host)
    yield from _programs(host, needs)
    yield from _clock(host)
    yield from _system(host, needs)


def _tasks(host: Host) -> Iterator[Obstacle]:
    task = host.task
    if task is None:
        return
    if task.pid is None:
        yield Obstacle(
            "lock",
            f"{host.name}: the lock of GitLab's backups holds no process number, so GitLab refuses every restore",
            "If no backup or restore of GitLab's own is running there, remove tmp/backup_restore.pid in gitlab-rails.",
        )
    elif task.alive:
        yield Obstacle(
            "task",
            f"{host.name}: a backup or restore of GitLab's own is running, process {task.pid}",
            "The restore waits for it; end it on the host if that takes too long.",
            Busy,
            "warn",
        )


def _directories(host: Host) -> Iterator[Obstacle]:
    if host.mounts_inside is None:
        yield Obstacle(
            "mounts-unknown",
            f"{host.name}: what is mounted there could not be seen",
            "See that nothing is mounted below a component's directory: GitLab's restore stops at it half-way.",
            severity="warn",
        )
    elif host.mounts_inside:
        yield Obstacle(
            "mounts",
            f"{host.name}: mounted inside a directory whose content GitLab moves aside: {_few(host.mounts_inside)}",
            "Unmount it for the restore, or mount it at the component's own directory: GitLab stops at it half-way.",
        )
    if host.foreign_directories:
        yield Obstacle(
            "foreign-directories",
            f"{host.name}: somebody else's directory where GitLab moves all aside: {_few(host.foreign_directories)}",
            "Remove it (lost+found), or give it to git: GitLab stops at it half-way.",
        )


def _programs(host: Host, needs: Needs) -> Iterator[Obstacle]:
    tar = host.tar
    if tar is None:
        yield Obstacle("tar", f"{host.name}: no tar there", "Install GNU tar.")
    elif tar.kind != "gnu" or tar.release is None or tar.release < _OLDEST_TAR:
        yield Obstacle("tar", f"{host.name}: its tar is {tar.text}", "GNU tar 1.30 or newer is needed.")
    missing = sorted({"age", "curl"} - host.system.programs) if needs.unseal_on_host else []
    if missing:
        names = " and ".join(missing)
        yield Obstacle(
            "programs", f"{host.name}: no {names} there", f"Install {names}, or let the data go through this machine."
        )


def _system(host: Host, needs: Needs) -> Iterator[Obstacle]:
    system = host.system
    here, there = _machine_name(system.architecture), _machine_name(needs.architecture)
    if here and there and here != there:
        yield Obstacle(
            "architecture",
            f"{host.name}: its processor is {here}, the set was made on {there}",
            "SQL, bundles and files are the same on both; only what people built themselves may not run.",
            severity="warn",
        )
    if system.os not in _KNOWN_SYSTEMS:
        yield Obstacle(
            "system",
            f"{host.name}: drtool knows of no package of GitLab's for {system.os or 'this system'}",
            "Nothing to do if GitLab runs there.",
            severity="warn",
        )
    if system.memory is not None and system.memory < _LEAST_MEMORY * _ALMOST:
        yield Obstacle(
            "memory",
            f"{host.name}: it has {size_text(system.memory)} of memory",
            "GitLab wants 4 GiB at least, or services will be ended for want of it.",
            severity="warn",
        )


def _clock(host: Host) -> Iterator[Obstacle]:
    clock = host.clock
    if clock is None:
        yield Obstacle(
            "clock-unknown",
            f"{host.name}: what time it is there could not be seen",
            "See that NTP runs there: sign-ins, tokens and signed links depend on the time.",
            severity="warn",
        )
    elif abs(clock.ahead) - clock.uncertainty > _CLOCK_TOLERANCE:
        way = "ahead of" if clock.ahead > timedelta(0) else "behind"
        minutes = round(abs(clock.ahead) / timedelta(minutes=1))
        yield Obstacle(
            "clock",
            f"{host.name}: its clock is {minutes} minutes {way} this machine's",
            "Set both by NTP first: sign-ins, tokens and signed links depend on the time.",
        )


def _machine_name(name: str | None) -> str | None:
    return _SAME_MACHINE.get(name, name) if name else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
