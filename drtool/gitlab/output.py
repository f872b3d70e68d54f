"""What GitLab's own commands print, read into values. Their exit statuses prove little.

Observed with GitLab 18.9: create prints "is done." after a failed database; restore exits 0 with SQL errors and with
repositories it lost; checks exit 0 whatever they find. So every report lists problems, and a text that lacks the
lines of a good run has some. Colours and carriage returns, as ``docker exec -t`` adds them, are understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from drtool.gitlab.archive import ARCHIVE_SUFFIX, COMPONENTS

State = Literal["done", "skipped", "disabled", "failed", "unfinished"]

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ -- ?")
_PROMPT: Final = "Do you want to continue (yes/no)?"
_PROGRESS = re.compile(r"(?:Dumping|Restoring) (?P<title>.+?)(?: \.\.\. ?(?P<rest>.*)| failed: (?P<why>.*))", re.DOTALL)
_PACKING = re.compile(rf"Creating backup archive: (\S+){re.escape(ARCHIVE_SUFFIX)} \.\.\.")
_DONE = re.compile(r"Backup (\S+) is done\.")
_LOCKED = re.compile(r"There is a backup and restore task in progress(?: \(PID (\d+)\))?")
_GITALY = re.compile(r"gitaly-backup exit status (\d+)")
_CURRENT = re.compile(r"current GitLab version \(([^)]*)\)")
_WANTED = re.compile(r"^\s*version: (\S+)", re.MULTILINE)
_REFUSALS = ("No backups found", "Found more than one backup", "Quitting...", "rake aborted!")
# Questions of gitlab:check to which "no" is the good answer (system_check/orphans and app checks, GitLab 18.9).
_BETTER_NO = frozenset({"Database contains orphaned GroupMembers?"})
_IDS = {component.title: component.id for component in COMPONENTS}


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository as Gitaly names it; ``project`` is the path people know, like ``group/project.wiki``."""

    storage: str
    relative_path: str
    project: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.storage, self.relative_path

    def __str__(self) -> str:
        return f"{self.project or '?'} ({self.storage}/{self.relative_path})"


@dataclass(frozen=True, slots=True)
class Repositories:
    """How ``gitaly-backup`` fared. Skipped means: on create nothing there (or nothing new), on restore not restored."""

    completed: frozenset[Repository] = frozenset()
    skipped: frozenset[Repository] = frozenset()
    failed: frozenset[Repository] = frozenset()


@dataclass(frozen=True, slots=True)
class CreateReport:
    """What ``gitlab-backup create`` said. ``components`` by id, only those it spoke of."""

    backup_id: str | None
    done: bool
    components: Mapping[str, State]
    repositories: Repositories
    errors: tuple[str, ...]
    lock_held: bool = False
    lock_pid: int | None = None

    def problems(self, *, needed: Collection[str] = ("db",)) -> list[str]:
        """Say why this is no complete backup; empty if nothing speaks against it.

        ``needed`` are ids of components that must have been dumped. Skipped repositories are not judged here: an
        empty wiki is skipped, and so is a repository that vanished from the disk.
        """
        found = _lock_problems(self.lock_held, self.lock_pid)
        if not self.done and not found:
            found.append("GitLab did not say that the backup is done")
        found += _component_problems(self.components, needed, "dumped")
        found += [f"repository {repository} was not backed up" for repository in sorted(self.repositories.failed)]
        return found + list(self.errors)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What ``gitlab-backup restore`` said. ``sql_errors`` are the lines GitLab itself did not find harmless."""

    done: bool
    components: Mapping[str, State]
    repositories: Repositories
    errors: tuple[str, ...]
    gitaly_status: int | None = None
    sql_errors: tuple[str, ...] = ()
    version_mismatch: tuple[str, str] | None = None
    prompts: int = 0
    lock_held: bool = False
    lock_pid: int | None = None

    def problems(
        self, *, needed: Collection[str] = ("db",), repositories: Collection[tuple[str, str]] = ()
    ) -> list[str]:
        """Say why this restore cannot be trusted; empty if nothing speaks against it.

        ``needed`` are ids of components, ``repositories`` the (storage, relative path) pairs, which the set holds:
        each must have been restored.
        """
        found = _lock_problems(self.lock_held, self.lock_pid)
        if self.version_mismatch:
            current, wanted = self.version_mismatch
            found.append(f"GitLab refused: it is {current!r}, the backup is of {wanted!r}")
        if not self.done and not found:
            asked = f", it asked {self.prompts} questions" if self.prompts else ""
            found.append(f"GitLab did not say that the restore is done{asked}")
        found += _component_problems(self.components, needed, "restored")
        found += [f"repository {repository} could not be restored" for repository in sorted(self.repositories.failed)]
        restored = {repository.key for repository in self.repositories.completed}
        lost = {repository.key for repository in self.repositories.failed}
        for storage, path in sorted(set(repositories) - restored - lost):
            found.append(f"repository {storage}/{path} of the set was not restored")
        if self.gitaly_status:
            found.append(f"gitaly-backup ended with status {self.gitaly_status}")
        if self.sql_errors:
            found.append(f"the database was restored with errors: {self.sql_errors[0]} ({len(self.sql_errors)} lines)")
        return found + list(self.errors)


def read_create_output(lines: Iterable[str]) -> CreateReport:
    """Read standard output of ``gitlab-backup create``. Never raises: what is missing shows as a problem."""
    said = _read(lines)
    backup_id, done = None, False
    for record in said.records:
        if found := _PACKING.match(record) or _DONE.match(record):
            backup_id = found[1]
        done = done or bool(_DONE.match(record)) or record == "Backup task is done."  # the latter in 12 to 14
    return CreateReport(
        backup_id, done, said.components, said.repositories, tuple(said.errors), said.lock_held, said.lock_pid
    )


def read_restore_output(lines: Iterable[str]) -> RestoreReport:
    """Read standard output of ``gitlab-backup restore``. Never raises: what is missing shows as a problem."""
    said = _read(lines)
    text = "\n".join(said.records)
    status = next((int(found[1]) for found in map(_GITALY.match, said.records) if found), None)
    current, wanted = _CURRENT.search(text), _WANTED.search(text)
    mismatch = None
    if "GitLab version mismatch" in text:
        mismatch = (current[1] if current else "?", wanted[1] if wanted else "?")
    sql_errors = _sql_errors(said.records)
    if not sql_errors and "There were errors in restoring the schema" in text:
        sql_errors = ("GitLab speaks of errors in restoring the schema",)
    return RestoreReport(
        done="Restore task is done." in said.records,
        components=said.components,
        repositories=said.repositories,
        errors=tuple(said.errors),
        gitaly_status=status,
        sql_errors=sql_errors,
        version_mismatch=mismatch,
        prompts=said.prompts,
        lock_held=said.lock_held,
        lock_pid=said.lock_pid,
    )


def read_services(text: str) -> dict[str, str]:
    """Read ``gitlab-ctl status`` (also start, stop): service to ``run``, ``down``, ``fail``, ``timeout``, …"""
    services = {}
    for line in _clean_lines(text.splitlines()):
        if found := re.match(r"(?:(ok|kill|timeout): )?([a-z]+): ([A-Za-z0-9_.-]+):", line):
            services[found[3]] = "timeout" if found[1] in {"timeout", "kill"} else found[2]
    return services


def judge_up(services: Mapping[str, str]) -> list[str]:
    """Name the services that do not run; one problem if none was shown at all."""
    if not services:
        return ["gitlab-ctl showed no service"]
    return [f"{name} is not running ({state})" for name, state in sorted(services.items()) if state != "run"]


def judge_down(services: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Name those of ``names`` that are not known to be down. A service that was not shown is not known to be."""
    states = {name: services.get(name, "not shown") for name in names}
    return [f"{name} is not down ({state})" for name, state in states.items() if state != "down"]


def read_check(text: str) -> list[str]:
    """Read ``gitlab:check``: the questions answered badly, with their answers; and whether it never came to its end."""
    failed, answered, finished = [], 0, False
    last = ""
    for line in _clean_lines(text.splitlines()):
        if line.startswith("Checking "):
            finished = finished or line == "Checking GitLab subtasks ... Finished"
        elif line.strip() == "Try fixing it:":
            if last and last not in failed:
                failed.append(last)
        elif found := re.fullmatch(r"\s*(\S.*) \.\.\.\s+(\S.*)", line):
            answered += 1
            last = f"{found[1]} ... {found[2]}"
            bad = re.match(r"(?:no\b|fail|wrong|error|exception)", found[2], re.IGNORECASE)
            if bad and found[1] not in _BETTER_NO:
                failed.append(last)
    if not answered:
        failed.append("gitlab:check answered no question")
    if not finished:
        failed.append("gitlab:check did not finish")
    return failed


def read_doctor(text: str) -> int | None:
    """Read ``gitlab:doctor:secrets``: how many rows cannot be decrypted. None if it never came to its total."""
    totals = re.findall(r"Total: (\d+) row\(s\) affected", _ANSI.sub("", text))
    return int(totals[-1]) if totals else None


def judge_doctor(text: str) -> list[str]:
    """Say what ``gitlab:doctor:secrets`` found, or that it found nothing out."""
    total = read_doctor(text)
    if total is None:
        return ["gitlab:doctor:secrets did not come to a total"]
    return [f"{total} rows cannot be decrypted with these secrets"] if total else []


@dataclass
class _Said:
    """The lines of one run, sorted by what they are."""

    records: list[str] = field(default_factory=list)
    components: dict[str, State] = field(default_factory=dict)
    repositories: Repositories = field(default_factory=Repositories)
    errors: list[str] = field(default_factory=list)
    prompts: int = 0
    lock_held: bool = False
    lock_pid: int | None = None


def _read(lines: Iterable[str]) -> _Said:
    said = _Said()
    outcomes: dict[str, set[Repository]] = {"completed": set(), "skipped": set(), "failed": set()}
    for line in _clean_lines(lines):
        said.prompts += line.count(_PROMPT)
        rest = line.replace(_PROMPT, "").lstrip() if _PROMPT in line else line
        if rest.startswith("{") and (logged := _json(rest)) is not None:
            _read_gitaly(logged, outcomes, said.errors)
        elif stamp := _STAMP.match(rest):
            said.records.append(rest[stamp.end() :].rstrip())
        elif said.records and rest.startswith(" ") and said.records[-1].startswith(("Dumping ", "GitLab version")):
            said.records[-1] += "\n" + rest.rstrip()  # a message of several lines has its stamp on the first only
        else:
            said.records.append(rest.rstrip())
    said.repositories = Repositories(*(frozenset(outcomes[name]) for name in ("completed", "skipped", "failed")))
    current = None
    for record in said.records:
        current = _read_record(record, current, said)
    return said


def _read_record(record: str, current: str | None, said: _Said) -> str | None:
    """Take one record into account; return the component that is being worked on."""
    if found := _PROGRESS.fullmatch(record):
        title = found["title"]
        component = _IDS.get(title.removesuffix(" (Gitaly server-side)"), title)
        if title.startswith("PostgreSQL database "):  # a step within db; before 17 its outcome was on the same line
            if (found["rest"] or "").startswith("[FAILED]"):
                said.errors.append(" ".join(record.split()))
            return current
        said.components[component] = _state(found["rest"], said.components.get(component))
        if found["why"] is not None:
            said.components[component] = "failed"
            said.errors.append(" ".join(record.split()))
        return component
    if record in {"done", "[DONE]"} and current not in {None, "db"}:  # before 17 the outcome came alone
        said.components[str(current)] = "done"
    if found := _LOCKED.search(record):
        said.lock_held = True
        said.lock_pid = int(found[1]) if found[1] else None
    elif _is_error(record):
        said.errors.append(" ".join(record.split()))
    return current


def _is_error(record: str) -> bool:
    ends_badly = re.search(r"\.\.\. failed\.?$", record) or record == "[FAILED]"
    missing = record.startswith("The backup file ") and record.endswith("does not exist!")
    return bool(ends_badly) or missing or record.startswith(_REFUSALS) or "### NOTICE ###" in record


def _state(rest: str | None, before: State | None) -> State:
    match (rest or "").strip().rstrip("."):
        case "done" | "[DONE]":
            return "done" if before != "failed" else "failed"
        case "[SKIPPED]":
            return "skipped"
        case "[DISABLED]":
            return "disabled"
        case "failed" | "[FAILED]":
            return "failed"
        case _:
            return "unfinished"


def _read_gitaly(record: dict[str, Any], outcomes: dict[str, set[Repository]], errors: list[str]) -> None:
    message, path = str(record.get("msg", "")), record.get("relative_path")
    if path and record.get("command") in {"create", "restore"}:
        repository = Repository(str(record.get("storage_name", "")), str(path), str(record.get("gl_project_path", "")))
        outcome = next((name for name in outcomes if name in message.split()), None)
        if outcome:
            outcomes[outcome].add(repository)
    elif record.get("level") in {"error", "fatal"}:
        errors.append(" ".join(message.split()))


def _json(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _sql_errors(records: list[str]) -> tuple[str, ...]:
    errors: list[str] = []
    inside = False
    for record in records:
        if "BEGIN ERRORS" in record:
            inside = True
        elif "END ERRORS" in record:
            inside = False
        elif inside:
            errors.append(record)
    return tuple(errors)


def _clean_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield _ANSI.sub("", line).rstrip("\r\n")


def _lock_problems(held: bool, pid: int | None) -> list[str]:
    if not held:
        return []
    return [f"a backup or restore of GitLab's own is running{f' (process {pid})' if pid else ''}"]


def _component_problems(components: Mapping[str, State], needed: Collection[str], verb: str) -> list[str]:
    found = [
        f"{name} was not {verb}: {state}" for name, state in components.items() if state in {"failed", "unfinished"}
    ]
    lacking = [name for name in needed if components.get(name) not in {"done", "failed", "unfinished"}]
    return found + [f"{name} was not {verb}: {components.get(name, 'not spoken of')}" for name in lacking]
