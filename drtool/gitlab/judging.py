"""Is this a backup, was that a restore? Judged by what GitLab printed, and by what it wrote, as it passes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from drtool.core.model import Finding
from drtool.core.plan import Expect
from drtool.core.versions import parse_version
from drtool.errors import BackupFailed, Busy, CommandFailed, HostUnfit, RestoreFailed, SetDamaged
from drtool.gitlab.archive import (
    COMPONENTS,
    INFORMATION,
    BackupInformation,
    GzipCheck,
    Member,
    Sink,
    order_members,
    parse_backup_information,
    repository_manifests,
)
from drtool.gitlab.dump import DumpCheck
from drtool.gitlab.output import (
    CreateReport,
    Repository,
    RestoreReport,
    judge_doctor,
    judge_down,
    judge_up,
    read_check,
    read_create_output,
    read_restore_output,
    read_services,
)
from drtool.gitlab.repositories import BundleCheck

_SHOWN = 3
_TALK_TO_THE_DATABASE = ("puma", "sidekiq")
_MEMBERS = {component.id: component.member for component in COMPONENTS}
_FIRST_WITH_MANIFESTS = (16, 10)  # gitaly-backup's manifest layout; before, restore looked for other files


@dataclass(frozen=True, slots=True)
class Created:
    """What a good ``gitlab-backup create SKIP=tar`` said: its top-level members, the repositories it saved."""

    members: tuple[str, ...]
    repositories: frozenset[tuple[str, str]]
    findings: tuple[Finding, ...]


def judge_create(
    lines: Sequence[str], failure: CommandFailed | None, backup_id: str, *, staged: Collection[str]
) -> Created:
    """Read GitLab's output of a create run; ``staged`` are the names that then lie in its backup directory.

    Raises Busy, or BackupFailed naming the first few problems.
    """
    report = read_create_output(lines)
    _refuse_locked(report)
    problems = report.problems()
    if report.backup_id not in (None, backup_id):
        problems.append(f"GitLab named the backup {report.backup_id}, not {backup_id}")
    if failure and not problems:
        problems.append(str(failure))
    done = {name for name, state in report.components.items() if state == "done"}
    repositories = frozenset(repository.key for repository in report.repositories.completed)
    if "repositories" in done and not repositories:
        if "repositories" in staged:  # GitLab before 15 names them in other words, which are not understood yet
            problems.append("it wrote repositories and named none of them")
        done.remove("repositories")  # there is nothing to put into it, so GitLab 18.9 makes no such directory
    members = order_members([INFORMATION, *(_MEMBERS[name] for name in done if name in _MEMBERS)])
    problems += [f"{name} was reported and is not there" for name in members if name not in staged]
    if problems:
        raise BackupFailed(f"GitLab's own backup failed: {_few(problems)}", hint="-v shows all that GitLab printed.")
    return Created(tuple(members), repositories, _findings(report.repositories.skipped))


def _findings(skipped: Iterable[Repository]) -> tuple[Finding, ...]:
    """Say so when a project's own repository was skipped. A wiki or design that nobody began is skipped every time."""
    vanished = [r for r in skipped if not r.relative_path.endswith((".wiki.git", ".design.git"))]
    if not vanished:
        return ()
    message = f"{len(vanished)} repositories of the database are not on disk; GitLab skipped them"
    return (Finding("repositories-not-on-disk", message, len(vanished)),)


@dataclass
class ApplicationJudge:
    """Watches the application archive go by; ``finish`` says whether it is a complete backup."""

    backup_id: str
    version: str
    members: tuple[str, ...]
    completed: frozenset[tuple[str, str]]
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._information = _Kept()
        self._dumps: dict[str, DumpCheck] = {}
        self._repositories: frozenset[tuple[str, str]] = self.completed

    def watch(self, member: Member) -> Sink | None:
        """Choose who looks at a member's data. For TarScanner."""
        if member.name == INFORMATION:
            return self._information
        if member.name.startswith("db/") and member.name.endswith(".sql.gz"):
            dump = self._dumps[member.name] = DumpCheck(member.name)
            return GzipCheck(member.name, dump)
        if member.name.endswith(".tar.gz") and "/" not in member.name:
            return GzipCheck(member.name)
        if member.name.startswith("repositories/") and member.name.endswith(".bundle"):
            return BundleCheck(member.name)
        return None

    def finish(self, members: Sequence[Member]) -> None:
        """Judge what passed. Raises BackupFailed naming what is wrong; damage inside a member was raised before."""
        problems = [*self._judge_information(), *self._judge_members(members), *self._judge_dumps()]
        problems += self._judge_repositories(members)
        if problems:
            raise BackupFailed(
                f"what GitLab wrote is not a complete backup: {_few(problems)}",
                hint="Nothing was committed. -v shows what GitLab printed.",
            )

    @property
    def information(self) -> BackupInformation:
        return parse_backup_information(bytes(self._information.content))

    @property
    def repositories(self) -> frozenset[tuple[str, str]]:
        """The (storage, relative path) pairs that a restore of this backup brings back."""
        return self._repositories

    def _judge_information(self) -> list[str]:
        try:
            information = self.information
        except SetDamaged as problem:
            return [str(problem)]
        problems = []
        if information.backup_id and information.backup_id != self.backup_id:
            problems.append(f"{INFORMATION} is of backup {information.backup_id}")
        if information.gitlab_version != self.version:
            problems.append(f"GitLab changed from {information.gitlab_version} to {self.version} during the backup")
        if information.incremental:
            problems.append(f"it is an increment of {information.full_backup_id}, whose restore loses repositories")
        return problems

    def _judge_members(self, members: Sequence[Member]) -> list[str]:
        files = {member.name for member in members if member.kind == "file"}
        wanted = {name for name in self.members if name not in ("db", "repositories")} | {"db/database.sql.gz"}
        return [f"{name} is missing" for name in order_members(wanted - files)]

    def _judge_dumps(self) -> list[str]:
        problems = []
        for dump in self._dumps.values():
            try:
                dump.finish()
            except SetDamaged as problem:
                problems.append(str(problem))
        return problems

    def _judge_repositories(self, members: Sequence[Member]) -> list[str]:
        try:
            if not parse_version(self.version).at_least(*_FIRST_WITH_MANIFESTS):
                return []
        except HostUnfit as problem:
            return [str(problem)]
        self._repositories = frozenset(repository_manifests(members, self.backup_id))
        lost = sorted(self.completed - self._repositories)
        return [f"repository {storage}/{path} has no manifest of this backup" for storage, path in lost]


class Unmet(HostUnfit):
    """An output does not yet show what a plan waits for."""


def judge(
    expect: Expect,
    lines: Sequence[str],
    failure: CommandFailed | None,
    repositories: Collection[tuple[str, str]] = (),
) -> None:
    """Raise unless a command's output shows what the plan expects; ``failure`` is how the command ended, if badly.

    ``repositories`` are those that a restore must bring back. Busy means that GitLab did nothing: it was locked out.
    """
    text = "\n".join(lines)
    match expect:
        case Expect.SUCCESS:
            _require([], failure, Unmet)
        case Expect.BACKUP_DONE:
            created = read_create_output(lines)
            _refuse_locked(created)
            _require(created.problems(), failure, BackupFailed)
        case Expect.RESTORE_DONE:
            restored = read_restore_output(lines)
            _refuse_locked(restored)
            _require(restored.problems(repositories=repositories), failure, RestoreFailed)
        case Expect.PUMA_AND_SIDEKIQ_DOWN:  # gitlab-ctl's status says how many are down, not whether it worked
            _require(judge_down(read_services(text), _TALK_TO_THE_DATABASE), None, HostUnfit)
        case Expect.ALL_SERVICES_UP:
            _require(judge_up(read_services(text)), None, Unmet)
        case Expect.CHECK_CLEAN:
            _require(read_check(text), failure, RestoreFailed)
        case Expect.SECRETS_FIT:
            _require(judge_doctor(text), failure, RestoreFailed)
        case Expect.NO_TASK_RUNNING:
            raise ValueError("whether a task runs is not told by an output")
        case _:
            assert_never(expect)


def _refuse_locked(report: CreateReport | RestoreReport) -> None:
    if report.lock_held:
        raise Busy(
            f"a backup or restore of GitLab's own is running (process {report.lock_pid or 'unknown'})",
            hint="Wait for it to end, then run this again.",
        )


def _require(
    problems: Sequence[str], failure: CommandFailed | None, error: type[HostUnfit | BackupFailed | RestoreFailed]
) -> None:
    found = list(problems) or ([str(failure)] if failure else [])
    if found:
        raise error(_few(found), hint="-v shows all that GitLab printed; the same command goes on from this step.")


def _few(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_SHOWN])
    return shown if len(problems) <= _SHOWN else f"{shown}; and {len(problems) - _SHOWN} more"


class _Kept:
    """A small member, held whole."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: memoryview, /) -> object:
        self.content += data
        return None

    def close(self) -> None:
        pass
