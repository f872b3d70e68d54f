"""What a host with GitLab shows. Looks, and changes nothing."""

from __future__ import annotations

from drtool.core.command import Command
from drtool.core.marker import MARKER, Marker, parse_marker
from drtool.errors import CommandFailed, HostUnfit
from drtool.gitlab.archive import COMPONENTS, INFORMATION, BackupInformation, parse_backup_information
from drtool.hosts import Runner
from drtool.installs.omnibus import Entry, Omnibus
from drtool.installs.upgrades import look_for_upgrades, parse_upgrades

LOOSE_MEMBERS = (INFORMATION, *(component.member for component in COMPONENTS))
"""What a backup made with SKIP=tar leaves side by side in GitLab's backup directory."""


def look_at_version(install: Omnibus, runner: Runner) -> str:
    """The text of the VERSION file. Raises HostUnfit when there is no GitLab."""
    try:
        return runner.run(install.read_file(install.version_file)).decode().strip()
    except CommandFailed as problem:
        raise HostUnfit(
            f"no GitLab on {runner.name}: {install.version_file} cannot be read",
            hint="Run drtool as root where GitLab is; for a restore, install what `drtool show` names first.",
        ) from problem


def config_members(install: Omnibus, runner: Runner) -> tuple[str, ...]:
    """What the config archive holds on this host, relative to the root. Raises HostUnfit if a secret is missing."""
    matching = (name for pattern in install.config_patterns for name in _existing(install, runner, pattern))
    found = tuple(dict.fromkeys(name for name in matching if name not in install.config_excluded))
    for name in install.config_required:
        if name not in found:
            raise HostUnfit(
                f"{install.root / name} is not there: a backup without it cannot be restored",
                hint="Run `gitlab-ctl reconfigure`, or correct `prefix` in drtool.toml.",
            )
    return found


def backup_directory(install: Omnibus, runner: Runner) -> tuple[Entry, ...]:
    """What lies in GitLab's backup directory. Raises HostUnfit."""
    try:
        return install.parse_directory(runner.run(install.list_directory(install.backup_path)))
    except CommandFailed as problem:
        raise HostUnfit(
            f"{install.backup_path} on {runner.name} cannot be read",
            hint="Run as root; if GitLab's backup_path was changed, set backup_path in drtool.toml too.",
        ) from problem


def unfinished_restore(install: Omnibus, runner: Runner) -> Marker | None:
    """The restore that was begun on this host and did not end, if there is one. Raises HostUnfit."""
    if not any(entry.name == MARKER for entry in backup_directory(install, runner)):
        return None
    return parse_marker(runner.run(install.read_file(install.backup_path / MARKER)))


def refuse_half_restored(install: Omnibus, runner: Runner) -> None:
    """Raise HostUnfit where a restore did not end: what is there now is nobody's GitLab yet."""
    if marker := unfinished_restore(install, runner):
        raise HostUnfit(
            f"{runner.name} holds {marker}",
            hint=f"Finish it where it was run, by the same command, or undo it: --undo {marker.run_id}",
        )


def staged_information(install: Omnibus, runner: Runner) -> BackupInformation | None:
    """What the loose members there are of; None without a ``backup_information.yml``, which GitLab writes last."""
    if not any(entry.name == INFORMATION for entry in backup_directory(install, runner)):
        return None
    return parse_backup_information(runner.run(install.read_file(install.backup_path / INFORMATION)))


def hostname(runner: Runner) -> str:
    """What the host calls itself."""
    return runner.run(Command(("uname", "-n"))).decode().strip()


def count_projects(install: Omnibus, runner: Runner) -> int | None:
    """How many there are; None when the database does not answer, which is not the same as none."""
    try:
        if runner.run(install.find_projects_table()).strip() == b"0":
            return 0  # GitLab was installed and never migrated, or an earlier restore broke off
        text = runner.run(install.count_projects()).decode().strip()
    except CommandFailed:
        return None
    return int(text) if text.isdigit() else None


def at_work(runner: Runner, install: Omnibus) -> str:
    """What a backup or restore must not overlap with, in words; empty when the host is quiet. Raises HostUnfit.

    Either GitLab's own task has its files in hand, or somebody replaces GitLab: then its files, its VERSION and its
    database need not fit together.
    """
    if pid := running_task(runner, install):
        return f"GitLab's own backup or restore task is at work (process {pid})"
    return "; ".join(parse_upgrades(runner.run(look_for_upgrades(install)), install))


def running_task(runner: Runner, install: Omnibus) -> int | None:
    """The process of GitLab's own backup or restore task, by its lock file; None if nobody is at it.

    GitLab 16.0 and later rewrite the file of a dead process; content that is not a number blocks them for ever
    (observed with 18.9), so that raises HostUnfit.
    """
    try:
        content = runner.run(install.read_file(install.pid_file)).strip()
    except CommandFailed as problem:
        if "No such file or directory" in problem.stderr:
            return None
        raise
    if not content:
        return None
    if not content.isdigit():
        raise HostUnfit(
            f"{install.pid_file}: holds no process number, GitLab refuses every backup and restore because of it",
            hint=f"If no backup or restore is running on the host, remove {install.pid_file}.",
        )
    try:
        runner.run(Command(("test", "-d", f"/proc/{int(content)}")))
    except CommandFailed as problem:
        if problem.status == 1:
            return None
        raise
    return int(content)


def _existing(install: Omnibus, runner: Runner, pattern: str) -> list[str]:
    """The names below the root that a pattern of ``config_patterns`` means: one directory, and a glob in it."""
    directory, _, wanted = pattern.rpartition("/")
    try:
        entries = install.parse_directory(runner.run(install.list_directory(install.root / directory)))
    except CommandFailed as problem:
        if "No such file or directory" in problem.stderr:
            return []
        raise  # taken for "nothing there" it would leave files out of the backup, and say nothing
    return sorted(f"{directory}/{entry.name}" for entry in entries if _matches(entry.name, wanted))


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or (wanted.endswith("*") and name.startswith(wanted[:-1]))
