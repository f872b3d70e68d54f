"""Is this a backup, was that a restore? Judged by what GitLab printed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from drtool.core.model import Finding
from drtool.core.plan import Expect
from drtool.errors import BackupFailed, Busy, CommandFailed, HostUnfit, RestoreFailed
from drtool.gitlab.application import few
from drtool.gitlab.archive import COMPONENTS, INFORMATION, order_members
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

_TALK_TO_THE_DATABASE = ("puma", "sidekiq")
_FULL = "No space left on device"  # ENOSPC in the words of tar, PostgreSQL and Ruby alike
_MEMBERS = {component.id: component.member for component in COMPONENTS}


@dataclass(frozen=True, slots=True)
class Created:
    """What a good ``gitlab-backup create SKIP=tar`` said: its top-level members, the repositories it saved.

    ``disabled`` are the components that the configuration switches off.
    """

    members: tuple[str, ...]
    repositories: frozenset[tuple[str, str]]
    findings: tuple[Finding, ...]
    disabled: tuple[str, ...] = ()


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
    if failure and (failure.stderr or not problems):  # pg_dump's own words: which table, which version
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
        raise BackupFailed(
            f"GitLab's own backup failed: {few(problems)}",
            hint="-v shows all that GitLab printed; look first whether its backup directory has room.",
        )
    disabled = tuple(name for name, state in report.components.items() if state == "disabled")
    return Created(tuple(members), repositories, _findings(report.repositories.skipped), disabled)


def _findings(skipped: Iterable[Repository]) -> tuple[Finding, ...]:
    """Say so when a project's own repository was skipped. A wiki or design that nobody began is skipped every time."""
    vanished = [r for r in skipped if not r.relative_path.endswith((".wiki.git", ".design.git"))]
    if not vanished:
        return ()
    message = f"{len(vanished)} repositories of the database are not on disk; GitLab skipped them"
    return (Finding("repositories-not-on-disk", message, len(vanished)),)


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
            _require(created.problems(), failure, BackupFailed, lines)
        case Expect.RESTORE_DONE:
            restored = read_restore_output(lines)
            _refuse_locked(restored)
            _require(restored.problems(repositories=repositories), failure, RestoreFailed, lines)
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
    problems: Sequence[str],
    failure: CommandFailed | None,
    error: type[HostUnfit | BackupFailed | RestoreFailed],
    lines: Sequence[str] = (),
) -> None:
    found = list(problems) or ([str(failure)] if failure else [])
    if not found:
        return
    if any(_FULL in said for said in (*lines, failure.stderr if failure else "")):
        raise error(f"{_FULL}: {few(found)}", hint="Make room on the host; the same command goes on from this step.")
    raise error(few(found), hint="-v shows all that GitLab printed; the same command goes on from this step.")
