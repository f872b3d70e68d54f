"""What an instance contains, counted: the value, its JSON form, and what two of them differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from drtool.core.isolation import RECORD
from drtool.errors import FormatTooNew, SetDamaged

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CENSUS_FORMAT: Final = 1
"""A reader refuses a greater number: it cannot know what it would overlook."""

_SHOWN_PER_KIND: Final = 20
# Tables that work fills and nothing empties: not those of sessions, queues and logs.
LASTING_TABLES: Final = ("ci_builds", "issues", "keys", "merge_requests", "notes", "p_ci_builds", "projects", "users")


@dataclass(frozen=True, slots=True, order=True)
class Project:
    """One project. ``path`` is the full one, ``repository`` a key of ``Census.repositories`` (there or not)."""

    path: str
    id: int
    visibility: str
    archived: bool
    repository: str

    def __str__(self) -> str:
        return f"id {self.id}, {self.visibility}{', archived' if self.archived else ''}, in {self.repository}"


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository's refs, without HEAD. ``head`` is what HEAD points to, empty where that is not known.

    ``digest`` is the SHA-256 of what ``git for-each-ref --format='%(objectname) %(refname)'`` prints.
    """

    refs: int
    digest: str
    head: str = ""

    def __str__(self) -> str:
        return f"{self.refs} refs, digest {self.digest[:8]}{f', HEAD {self.head}' if self.head else ''}"


@dataclass(frozen=True, slots=True)
class Files:
    """What a component holds: its files and links, and the sum of their sizes in bytes."""

    count: int
    size: int

    def __str__(self) -> str:
        return f"{self.count} files, {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Census:
    """What one backup holds.

    ``taken_at`` is when GitLab began it; ``newest_activity`` is the latest thing that the database knows somebody did,
    and so the point in time to which a restore leads back. ``instance_id`` is the one GitLab made up for itself.
    ``users`` counts rows, so also bots. Repositories are named ``storage/relative path.git`` (without the storage
    before GitLab 16.6), components by their ids, tables as pg_dump names them; those of another database than the
    main one begin with its name and a colon.
    """

    format: int
    gitlab_version: str
    backup_id: str
    instance_id: str
    taken_at: datetime
    newest_activity: datetime | None
    users: int
    groups: int
    projects: tuple[Project, ...]
    repositories: Mapping[str, Repository]
    components: Mapping[str, Files]
    tables: Mapping[str, int]

    @property
    def rows(self) -> int:
        return sum(self.tables.values())

    def project(self, path: str) -> Project | None:
        """Find a project by its full path."""
        return next((project for project in self.projects if project.path == path), None)

    def repositories_of(self, project: Project) -> tuple[str, ...]:
        """Name the repositories that a project has here: its own, wiki and designs. Its snippets are not among them."""
        stem = project.repository.removesuffix(".git")
        names = (f"{stem}{ending}.git" for ending in ("", ".wiki", ".design"))
        return tuple(name for name in names if name in self.repositories)


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing in which two censuses differ. ``name`` is empty where several are summed up."""

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.name, self.what) if part)


def compare(first: Census, second: Census, *, shown: int = _SHOWN_PER_KIND) -> tuple[Difference, ...]:
    """Name what the second has otherwise than the first; nothing when they hold the same.

    At most ``shown`` of a kind, sorted by name, then how many more there are. When and under which id they were taken
    makes no difference, nor does the record of an isolation.
    """
    kinds: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
        "instance": (_whole(first), _whole(second)),
        "project": ({p.path: p for p in first.projects}, {p.path: p for p in second.projects}),
        "repository": (first.repositories, second.repositories),
        "component": (first.components, second.components),
        "table": (_gitlabs(first.tables), _gitlabs(second.tables)),
    }
    found: list[Difference] = []
    for kind, (one, other) in kinds.items():
        differences = list(_differences(kind, one, other))
        found += differences[:shown]
        if len(differences) > shown:
            found.append(Difference(kind, "", f"differences: {len(differences) - shown} more"))
    return tuple(found)


def render_census(census: Census) -> bytes:
    """Write a census as JSON: the same bytes for the same census."""
    return (json.dumps(asdict(census), indent=1, sort_keys=True, default=_text_of_time) + "\n").encode()


def parse_census(text: bytes, *, source: str) -> Census:
    """Read what ``render_census`` wrote. FormatTooNew before it looks at anything else, SetDamaged for the rest."""
    from pydantic import ValidationError

    try:
        written = json.loads(text)["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise SetDamaged(f"{source}: not a census: {problem}") from problem
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise SetDamaged(f"{source}: not a census: format is {written!r}")
    if written > CENSUS_FORMAT:
        raise FormatTooNew(
            f"{source}: format {written}, this drtool reads up to {CENSUS_FORMAT}",
            hint="Install the drtool that wrote it, or a newer one.",
        )
    try:
        return _census_type().validate_json(text, strict=True)
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "not a census"
        raise SetDamaged(f"{source}: {where}: {first['msg']}") from problem


def _gitlabs(tables: Mapping[str, int]) -> Mapping[str, int]:
    """Leave out what drtool itself keeps in the database of an isolated host: it is no data of anybody's."""
    return {name: rows for name, rows in tables.items() if name != f"public.{RECORD}"}


def _whole(census: Census) -> dict[str, object]:
    return {
        "version": census.gitlab_version,
        "id": census.instance_id,
        "users": census.users,
        "groups": census.groups,
        "newest activity": census.newest_activity,
    }


def _differences(kind: str, first: Mapping[str, object], second: Mapping[str, object]) -> Iterator[Difference]:
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            yield Difference(kind, name, "is missing")
        elif name not in first:
            yield Difference(kind, name, "is new")
        elif first[name] != second[name]:
            yield Difference(kind, name, f"differs: {first[name]}; then {second[name]}")


@cache
def _census_type() -> TypeAdapter[Census]:
    from pydantic import TypeAdapter  # a tenth of a second: paid by those who read a census, not by --help

    return TypeAdapter(Census)


def _text_of_time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"a census cannot hold {value!r}")
