"""Count an instance from its backup alone, while that is judged: no token, no second reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from drtool.core.census import CENSUS_FORMAT, Census, Files, Project, Repository
from drtool.gitlab.archive import BackupInformation
from drtool.gitlab.dump import NULL, RowSink, read_field

_VISIBILITY: Final = {"0": "private", "10": "internal", "20": "public"}
_HASHED_STORAGE: Final = 1  # the storage_version from which a repository's path is made of the project's id
# What people and machines do leaves a row in one of these; imports and seeds may add old ones, nothing adds new ones.
ACTIVITY: Final = {
    "events": ("created_at",),
    "projects": ("created_at", "last_activity_at"),
    "users": ("created_at", "current_sign_in_at"),
}
_NAMES: Final = ("id", "path", "namespace_id", "visibility_level", "archived", "repository_storage", "storage_version")
WANTED: Final = {
    "application_settings": ("id", "uuid"),
    "namespaces": ("id", "path", "parent_id", "type"),
    "project_repositories": ("project_id", "shard_name", "disk_path"),
    "projects": _NAMES,
    "routes": ("source_type", "source_id", "path"),
}

_MILLENNIUM: Final = b"2"

Row = Mapping[str, str]


class CensusRows:
    """A RowWatcher for the main database: takes the few rows that a census needs, counts none."""

    def __init__(self) -> None:
        self.instance_id = ""
        self.groups = 0
        self.newest: datetime | None = None
        self._settings_row = -1
        self._namespaces: dict[str, tuple[str, str]] = {}
        self._projects: dict[str, Row] = {}
        self._paths: dict[str, str] = {}
        self._places: dict[str, tuple[str, str]] = {}

    def begin_table(self, table: str, columns: tuple[str, ...], /) -> RowSink | None:
        schema, dot, name = table.rpartition(".")
        if dot and schema != "public":
            return None
        sinks: list[RowSink] = []
        if moments := [columns.index(column) for column in ACTIVITY.get(name, ()) if column in columns]:
            sinks.append(_Newest(moments, self._move_on))
        if name in WANTED:
            wanted = {column: columns.index(column) for column in WANTED[name] if column in columns}
            sinks.append(_Rows(wanted, getattr(self, f"_take_{name}")))
        return _All(sinks) if sinks else None

    def projects(self) -> list[Project]:
        """Every project, with where its repository lies, sorted by path."""
        return sorted(self._project(project_id, row) for project_id, row in self._projects.items())

    def _project(self, project_id: str, row: Row) -> Project:
        level = row.get("visibility_level", "")
        path = self._paths.get(project_id) or f"{self._namespace(row.get('namespace_id', ''))}{row.get('path', '')}"
        storage, disk_path = self._places.get(project_id) or self._guessed_place(project_id, path, row)
        return Project(
            path=path,
            id=int(project_id),
            visibility=_VISIBILITY.get(level, level),
            archived=row.get("archived") == "t",
            repository=f"{storage}/{disk_path}.git",
        )

    @staticmethod
    def _guessed_place(project_id: str, path: str, row: Row) -> tuple[str, str]:
        """Before GitLab 11 no table says it: hashed from the id, or the path that people know."""
        storage = row.get("repository_storage") or "default"
        if row.get("storage_version", "").isdigit() and int(row["storage_version"]) >= _HASHED_STORAGE:
            digest = hashlib.sha256(project_id.encode()).hexdigest()
            return storage, f"@hashed/{digest[:2]}/{digest[2:4]}/{digest}"
        return storage, path

    def _namespace(self, namespace_id: str) -> str:
        """Before GitLab 9 there are no routes: names of the groups above, each with its slash."""
        names: list[str] = []
        while namespace_id in self._namespaces and len(names) < len(self._namespaces):
            name, namespace_id = self._namespaces[namespace_id]
            names.append(name)
        return "".join(f"{name}/" for name in reversed(names))

    def _move_on(self, moment: datetime) -> None:
        self.newest = max(moment, self.newest or moment)

    def _take_application_settings(self, row: Row) -> None:
        number = int(row["id"]) if row.get("id", "").isdigit() else 0
        if number >= self._settings_row:  # GitLab reads the newest one
            self._settings_row, self.instance_id = number, row.get("uuid", "")

    def _take_namespaces(self, row: Row) -> None:
        kind = row.get("type", "")
        self.groups += kind == "Group"
        if kind != "Project" and "id" in row:
            self._namespaces[row["id"]] = (row.get("path", ""), row.get("parent_id", ""))

    def _take_projects(self, row: Row) -> None:
        if row.get("id", "").isdigit():
            self._projects[row["id"]] = row

    def _take_project_repositories(self, row: Row) -> None:
        if row.get("shard_name") and row.get("disk_path"):
            self._places[row.get("project_id", "")] = (row["shard_name"], row["disk_path"])

    def _take_routes(self, row: Row) -> None:
        if row.get("source_type") == "Project":
            self._paths[row.get("source_id", "")] = row.get("path", "")


def make_census(
    information: BackupInformation,
    backup_id: str,
    rows: CensusRows,
    tables: Mapping[str, int],
    repositories: Mapping[str, Repository],
    components: Mapping[str, Files],
) -> Census:
    """Put together what one pass found."""
    projects = rows.projects()
    newest = rows.newest
    if newest is not None:
        newest = min(newest, information.created_at)  # a row from the future proves nothing
    return Census(
        format=CENSUS_FORMAT,
        gitlab_version=information.gitlab_version,
        backup_id=information.backup_id or backup_id,
        instance_id=rows.instance_id,
        taken_at=information.created_at,
        newest_activity=newest,
        users=tables.get("public.users", 0),
        groups=rows.groups,
        projects=tuple(projects),
        repositories=dict(sorted(_with_storage(repositories, projects).items())),
        components=dict(sorted(components.items())),
        tables=dict(sorted(tables.items())),
    )


def _with_storage(repositories: Mapping[str, Repository], projects: Sequence[Project]) -> dict[str, Repository]:
    """Add the storage to names of the older layouts, which leave it out, where the database tells it."""
    known = {}
    for project in projects:
        storage, _, path = project.repository.partition("/")
        for ending in (".git", ".wiki.git", ".design.git"):
            known[path.removesuffix(".git") + ending] = storage
    return {f"{known[name]}/{name}" if name in known else name: found for name, found in repositories.items()}


class _All:
    def __init__(self, sinks: Sequence[RowSink]) -> None:
        self._sinks = sinks

    def take(self, rows: Sequence[bytes], /) -> None:
        for sink in self._sinks:
            sink.take(rows)


class _Rows:
    """Hands on some columns of every row, as text; NULL is left out."""

    def __init__(self, wanted: Mapping[str, int], action: Callable[[Row], object]) -> None:
        self._wanted = tuple(wanted.items())
        self._action = action

    def take(self, rows: Sequence[bytes], /) -> None:
        for row in rows:
            fields = row.split(b"\t")
            shown = [(name, fields[place]) for name, place in self._wanted if place < len(fields)]
            self._action({name: _text(field) for name, field in shown if field != NULL})


class _Newest:
    """Looks for the latest time in some columns. Their text sorts as they do, but for the hour that a zone repeats."""

    def __init__(self, places: Sequence[int], action: Callable[[datetime], object]) -> None:
        self._places = places
        self._action = action

    def take(self, rows: Sequence[bytes], /) -> None:
        for place in self._places:
            try:
                moment = datetime.fromisoformat(_newest(rows, place).decode("ascii", "replace"))
            except ValueError:
                continue
            self._action(moment if moment.tzinfo else moment.replace(tzinfo=UTC))  # Rails writes UTC


def _newest(rows: Sequence[bytes], place: int) -> bytes:
    """Find the greatest text in a column that begins like a year of ours: neither NULL nor infinity. Empty for none."""
    try:
        newest = max(
            [row.split(b"\t", place + 1)[place] for row in rows]
        )  # of all the fastest, and mostly all it takes
        if newest.startswith(_MILLENNIUM):
            return newest
    except IndexError:  # a row without this column
        pass
    texts = (b"".join(row.split(b"\t", place + 1)[place : place + 1]) for row in rows)
    return max((text for text in texts if text.startswith(_MILLENNIUM)), default=b"")


def _text(field: bytes) -> str:
    value = read_field(field) if b"\\" in field else field
    return (value or b"").decode("utf-8", "replace")
