"""Is the application archive a complete backup, and what is in it? One pass over its bytes, while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from drtool.core.census import Census, Files
from drtool.core.census import Repository as Counted
from drtool.core.model import Finding
from drtool.core.versions import parse_version
from drtool.errors import HostUnfit, SetDamaged
from drtool.gitlab.archive import (
    COMPONENTS,
    INFORMATION,
    OPERATIONS,
    BackupInformation,
    GzipCheck,
    Member,
    Sink,
    contents_of,
    expected_members,
    order_members,
    parse_backup_information,
    repository_manifests,
)
from drtool.gitlab.census import CensusRows, make_census
from drtool.gitlab.chains import Repositories, RepositoriesCheck
from drtool.gitlab.components import TarCount
from drtool.gitlab.dump import DumpCheck, RowWatcher
from drtool.gitlab.repositories import Kept, Then
from drtool.gitlab.tables import judge_tables

_SHOWN = 3
_MAIN_DATABASE = "db/database.sql.gz"
_MOVED = "other refs in the bundle than were listed for it, as after a push during the backup"
_FIRST_WITH_MANIFESTS = (16, 10)  # gitaly-backup's manifest layout; before, restore looked for other files


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one pass over an application archive found: red, amber, and what it holds.

    ``problems`` name what is wrong; any of them makes the set useless for at least a part of the instance.
    ``findings`` name no project. ``remarks`` do, for whoever runs this: which repositories a finding is about.
    ``census`` is None where information or database could not be read.
    """

    problems: tuple[str, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]
    census: Census | None


@dataclass
class ApplicationJudge:
    """Watches the application archive go by, of any GitLab from 8 to 19; then says what it is worth.

    ``members`` and ``completed`` are what GitLab said it made; both may be empty, when only the archive is known.
    ``disabled`` are components that the configuration switches off. ``watchers`` see the rows of all databases.
    Damage inside a member is one problem among others; only what is wrong with the tar itself is raised.
    """

    backup_id: str
    version: str
    members: tuple[str, ...]
    completed: frozenset[tuple[str, str]]
    disabled: Collection[str] = ("registry",)
    watchers: Sequence[RowWatcher] = ()

    def __post_init__(self) -> None:
        self._information = Kept(INFORMATION)
        self._rows = CensusRows()
        self._dumps: dict[str, DumpCheck] = {}
        self._counts: dict[str, TarCount] = {}
        self._repositories = RepositoriesCheck()
        self._restorable = self.completed
        self._damage: list[str] = []
        self._judgement: Judgement | None = None

    def watch(self, member: Member) -> Sink | None:
        """Choose who looks at a member's data. For TarScanner."""
        sink = self._choose(member)
        return _Tolerant(sink, self._damage) if sink is not None else None

    def judge(self, members: Sequence[Member]) -> Judgement:
        """Judge what passed, without raising. For once all of it has."""
        information, problems = self._judge_information()
        problems = [*self._damage, *problems, *self._judge_members(members, information)]
        tables, wrong = self._judge_dumps()
        problems += wrong
        repositories = self._judge_repositories()
        problems += repositories.problems
        self._restorable = frozenset(repository_manifests(members, self.backup_id)) or self.completed
        whole = information is not None and any(":" not in name for name in tables)  # the main database's names
        census = self._census(information, tables, repositories.found) if information and whole else None
        self._judgement = Judgement(
            problems=tuple(problems),
            findings=tuple(_findings_of(information, repositories)),
            remarks=tuple(f"repository {name}: {_MOVED}" for name in repositories.moved),
            census=census,
        )
        return self._judgement

    @property
    def information(self) -> BackupInformation:
        return parse_backup_information(self._information.content)

    @property
    def repositories(self) -> frozenset[tuple[str, str]]:
        """The (storage, relative path) pairs that a restore of this backup brings back."""
        return self._restorable

    @property
    def judgement(self) -> Judgement:
        """What ``judge`` found."""
        assert self._judgement is not None, "nothing was judged yet"
        return self._judgement

    def _choose(self, member: Member) -> Sink | None:
        if member.name == INFORMATION:
            return Then(self._information, self._note_increment)
        if member.name.startswith("db/") and member.name.endswith(".sql.gz"):
            of_census = (self._rows,) if member.name == _MAIN_DATABASE else ()
            dump = self._dumps[member.name] = DumpCheck(member.name, (*of_census, *self.watchers))
            return GzipCheck(member.name, dump)
        if member.name.endswith(".tar.gz") and "/" not in member.name:
            count = self._counts[member.name] = TarCount(member.name)
            return GzipCheck(member.name, count)
        return self._repositories.watch(member)

    def _note_increment(self) -> None:
        """Let refs be kept for an increment alone; this member is the first one since there are increments."""
        with suppress(SetDamaged):
            self._repositories.joins = self.information.incremental

    def _judge_information(self) -> tuple[BackupInformation | None, list[str]]:
        try:
            information = self.information
            contents = contents_of(information)
        except SetDamaged as problem:
            return None, [str(problem)]
        problems = []
        if information.backup_id and information.backup_id != self.backup_id:
            problems.append(f"{INFORMATION} is of backup {information.backup_id}")
        if information.gitlab_version != self.version:
            problems.append(f"GitLab changed from {information.gitlab_version} to {self.version} during the backup")
        if contents == "database only":
            problems.append("it holds the database only, as a package upgrade makes it")
        elif left_out := sorted(set(information.skipped) - OPERATIONS):
            problems.append(f"it was made without {', '.join(left_out)}")
        return information, problems + _limits(information)

    def _judge_members(self, members: Sequence[Member], information: BackupInformation | None) -> list[str]:
        files = {member.name for member in members if member.kind == "file"}
        wanted = {name for name in self.members if name not in ("db", "repositories")} | {_MAIN_DATABASE}
        if information:
            wanted.update(expected_members(information, disabled=self.disabled))
        return [f"{name} is missing" for name in order_members(wanted - files)]

    def _judge_dumps(self) -> tuple[dict[str, int], list[str]]:
        """Say how many rows every table has, and what is wrong with the databases."""
        tables: dict[str, int] = {}
        problems = []
        for name, dump in self._dumps.items():
            try:
                found = dump.finish().tables
                if name == _MAIN_DATABASE:
                    problems += judge_tables(found, parse_version(self.version))
            except (SetDamaged, HostUnfit) as problem:
                problems.append(str(problem))
                continue
            before = "" if name == _MAIN_DATABASE else f"{_database(name)}:"
            tables |= {before + table: rows for table, rows in found.items()}
        return tables, problems

    def _judge_repositories(self) -> Repositories:
        try:
            with_manifests = parse_version(self.version).at_least(*_FIRST_WITH_MANIFESTS)
        except HostUnfit as problem:
            return Repositories({}, (str(problem),), ())
        return self._repositories.finish(
            self.backup_id, with_manifests=with_manifests, expected=self.completed if with_manifests else ()
        )

    def _census(
        self, information: BackupInformation, tables: Mapping[str, int], repositories: Mapping[str, Counted]
    ) -> Census:
        ids = {component.member: component.id for component in COMPONENTS}
        components = {
            ids.get(name, name.removesuffix(".tar.gz")): Files(count.files, count.size)
            for name, count in self._counts.items()
        }
        return make_census(information, self.backup_id, self._rows, tables, repositories, components)


def _limits(information: BackupInformation) -> list[str]:
    """Name what was left out of the repositories on purpose; a restore removes what the archive does not hold."""
    limits = {
        "REPOSITORIES_STORAGES": information.repositories_storages,
        "REPOSITORIES_PATHS": information.repositories_paths,
        "SKIP_REPOSITORIES_PATHS": information.skip_repositories_paths,
    }
    problems = [f"its repositories were limited by {name}={','.join(words)}" for name, words in limits.items() if words]
    if information.repositories_server_side:
        problems.append("its repositories are in Gitaly's own bucket, not in the archive")
    return problems


def _findings_of(information: BackupInformation | None, repositories: Repositories) -> Iterator[Finding]:
    if information and information.incremental:
        yield Finding("incremental", f"it is an increment of {information.full_backup_id}, with all that it builds on")
    if count := len(repositories.moved):
        yield Finding("repositories-moved", f"{count} repositories: {_MOVED}", count)


def few(problems: Sequence[str]) -> str:
    """Show the first few, and say how many more there are."""
    shown = "; ".join(problems[:_SHOWN])
    return shown if len(problems) <= _SHOWN else f"{shown}; and {len(problems) - _SHOWN} more"


def _database(member: str) -> str:
    """Name the database of ``db/ci_database.sql.gz``: ci."""
    return member.removeprefix("db/").removesuffix(".sql.gz").removesuffix("_database")


class _Tolerant:
    """Passes a member on until it turns out damaged; that is one more problem, and the rest is not looked at."""

    def __init__(self, inner: Sink, problems: list[str]) -> None:
        self._inner: Sink | None = inner
        self._problems = problems

    def write(self, data: memoryview, /) -> None:
        if self._inner is not None:
            self._try(lambda inner: inner.write(data))

    def close(self) -> None:
        if self._inner is not None:
            self._try(lambda inner: inner.close())

    def _try(self, action: Callable[[Sink], object]) -> None:
        assert self._inner is not None
        try:
            action(self._inner)
        except SetDamaged as problem:
            self._inner = None
            self._problems.append(str(problem))
