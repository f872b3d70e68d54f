"""What ``check`` asks about the host around GitLab: what will stand in the way of the next backups? Changes nothing.

Each answers with what was seen and what to do about it, which is empty when nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

from drtool.catalog import Catalog
from drtool.check_keys import Seen
from drtool.clock import Clock
from drtool.core.crontab import gitlabs_own
from drtool.core.model import Manifest
from drtool.core.room import size_text
from drtool.errors import CommandFailed, DrtoolError, HostUnfit
from drtool.gitlab.settings import parse_backup_settings
from drtool.hosts import Runner
from drtool.installs import probe
from drtool.installs.gitlab_rb import holds_isolation
from drtool.installs.omnibus import Omnibus
from drtool.installs.upgrades import list_unfinished, parse_unfinished
from drtool.isolating import look_at_isolation
from drtool.next_run import look_at_next_run, read_lines

_SKEW: Final = timedelta(minutes=5)
_COMPARED: Final = 5
_LEAST_GROWTH: Final = 1.1  # from one night to the next, for hosts that stood still so far


def check_clock(catalog: Catalog, clock: Clock) -> Seen:
    """Raise HostUnfit if the store holds what is from our future. ``check --deep`` compares the clocks exactly."""
    newest = max((info.modified_at for info in catalog.store.list(f"{catalog.instance}/")), default=None)
    if newest is None:
        return "nothing in the store to compare with", "`drtool check --deep` compares exactly."
    if newest > clock.now() + _SKEW:
        raise HostUnfit(
            f"the store has an object of {newest:%Y-%m-%d %H:%M} UTC, here it is {clock.now():%Y-%m-%d %H:%M} UTC",
            hint="Set the clock, and keep it right with NTP: ages and locks are wrong meanwhile.",
        )
    return "nothing in the store is from the future", ""


def forecast_room(install: Omnibus, runner: Runner, newest: Sequence[Manifest]) -> Seen:
    """Raise HostUnfit unless the next backup, grown as the last ones did, has room beside GitLab's own files.

    ``newest`` are manifests of the last sets, oldest first.
    """
    try:
        shown = probe.parse_shown(runner.run(probe.measure([("backups", install.backup_path)])))
        room = next(iter(probe.parse_rooms(shown)))
    except (CommandFailed, StopIteration) as problem:
        raise HostUnfit(
            f"the room at {install.backup_path} cannot be measured", hint="Is it there, and may you read it?"
        ) from problem
    if not newest:
        return f"{size_text(room.free)} free at {install.backup_path}; no set yet to go by", ""
    need = int(newest[-1].plain_size * _growth([manifest.plain_size for manifest in newest]))
    if room.free < need:
        raise HostUnfit(
            f"{install.backup_path} has {size_text(room.free)} free, the next backup takes about {size_text(need)}",
            hint="Make room there, or let GitLab's backup_path be on a larger disk.",
        )
    return f"{size_text(room.free)} free at {install.backup_path}, about {size_text(need)} wanted", ""


def _growth(sizes: Sequence[int]) -> float:
    steps = [after / before for before, after in pairwise(sizes) if before]
    return max([_LEAST_GROWTH, *steps[-_COMPARED:]])


def check_settings(install: Omnibus, runner: Runner) -> Seen:
    """Raise HostUnfit if GitLab writes its backups elsewhere; name its settings that would fight ours."""
    path = install.root / "var/opt/gitlab/gitlab-rails/etc/gitlab.yml"
    try:
        found = parse_backup_settings(runner.run(install.read_file(path)).decode(errors="replace"))
    except CommandFailed:
        found = None
    if found is None:
        return f"{path} cannot be read, so nobody knows", "Run as root; it is there after `gitlab-ctl reconfigure`."
    if found.path and PurePosixPath(found.path) != install.backup_path:
        raise HostUnfit(
            f"GitLab's backup_path is {found.path}, drtool looks in {install.backup_path}",
            hint=f'Set backup_path = "{found.path}" in drtool.toml.',
        )
    fighting = []
    if found.keep_time:
        fighting.append(f"backup_keep_time = {found.keep_time} (GitLab removes archives there by itself)")
    if found.uploads:
        fighting.append("backup_upload_connection (GitLab uploads its own archives, unsealed)")
    if not fighting:
        return "no setting of GitLab's fights ours", ""
    return f"gitlab.rb has {' and '.join(fighting)}", "Leave it out, if drtool takes all backups now."


def check_packages(install: Omnibus, runner: Runner) -> Seen:
    """Raise HostUnfit if dpkg did not finish GitLab's package: rpm keeps no such state, other hosts have no dpkg."""
    try:
        listed = runner.run(list_unfinished(install))
    except CommandFailed:  # so does dpkg where it knows none of GitLab's packages
        return "not told by dpkg: it is not here, or knows none of GitLab's packages", ""
    if unfinished := parse_unfinished(listed):
        raise HostUnfit(
            f"an upgrade did not end: {', '.join(unfinished)}",
            hint="Finish it with `dpkg --configure -a`: GitLab's files and its database may be of two versions.",
        )
    return "no package of GitLab's is half installed", ""


def look_for_other_backups(install: Omnibus, runner: Runner) -> Seen:
    """Name the crontabs and units that start GitLab's own backup. Raises HostUnfit if they cannot be read."""
    try:
        own = gitlabs_own(read_lines(runner, install.root))
    except CommandFailed as problem:
        raise HostUnfit("crontabs cannot be read", hint="Run as root.") from problem
    if not own:
        return "no crontab starts GitLab's own backup", ""
    where = ", ".join(dict.fromkeys(line.path for line in own))
    return (
        f"GitLab's own backup is started by {where}",
        "Both need room and GitLab's lock: remove it.",
    )


def check_isolation(install: Omnibus, runner: Runner) -> Seen:
    """Raise HostUnfit where GitLab is isolated: it sends nothing, and a backup of it would not either."""
    if holds_isolation(runner.run(install.read_file(install.config_file))) or _is_recorded(install, runner):
        raise HostUnfit(
            "this GitLab is isolated after a restore: it sends nothing",
            hint="`drtool isolation --on local --lift` ends that; a drill's host needs no backup.",
        )
    return "not isolated", ""


def _is_recorded(install: Omnibus, runner: Runner) -> bool:
    try:
        return look_at_isolation(install, runner).recorded
    except CommandFailed as problem:
        raise HostUnfit(
            "the database does not say whether GitLab is isolated", hint="Is PostgreSQL running? gitlab-ctl status"
        ) from problem


def look_for_timer(install: Omnibus, runner: Runner, instance: str, clock: Clock) -> Seen:
    """Say when the next backup begins by itself."""
    try:
        found = look_at_next_run(runner, install.root, instance, clock.now())
    except DrtoolError as problem:
        return f"unknown: {problem}", "Run as root."
    if found.at:
        return f"{found.at:%Y-%m-%d %H:%M} UTC, by {found.source}", ""
    return f"{found.state}: {found.source}", "`drtool install-timer` makes one."
