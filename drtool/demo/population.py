"""Who and what lives in the seeded instance, as values: no file, no clock, the same every time.

Rows, repositories and files are each made from these values, so that they agree with one another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

USER_COUNT = 48
_GROUPS = (
    ("Platform", "platform", None),
    ("Backend", "backend", "platform"),
    ("Storage", "storage", "platform/backend"),
    ("Frontend", "frontend", "platform"),
    ("Research", "research", None),
    ("Bildgebung", "bildgebung", "research"),
    ("Operations", "operations", None),
)
_NAMES = (
    "Ledger", "Lighthouse", "Harbour", "Almanac", "Compass", "Sextant", "Foghorn", "Capstan",
    "Rigging", "Keel", "Ballast", "Chartroom", "Galley", "Windlass", "Anchor", "Bowsprit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    id: int
    username: str
    name: str

    @property
    def email(self) -> str:
        return f"{self.username}@example.com"


@dataclass(frozen=True, slots=True)
class Group:
    id: int
    name: str
    path: str
    full_path: str
    parent_id: int | None
    traversal_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Project:
    """``namespace_id`` names a group, or the namespace of a user (they share one row of numbers)."""

    id: int
    name: str
    path: str
    full_path: str
    namespace_id: int

    @property
    def is_empty(self) -> bool:
        """True for a repository nobody ever pushed to."""
        return self.id == 3

    @property
    def has_hooks(self) -> bool:
        return self.id == 1

    @property
    def has_designs(self) -> bool:
        return self.id == 1

    @property
    def has_wiki(self) -> bool:
        return self.id in (1, 2) or self.id % 5 == 0

    @property
    def archived(self) -> bool:
        return self.id % 11 == 0

    @property
    def disk_path(self) -> str:
        """Where the repository is below its storage, without ``.git``."""
        return hashed_path("@hashed", self.id)


@dataclass(frozen=True, slots=True)
class Snippet:
    id: int
    title: str
    author_id: int
    project_id: int | None

    @property
    def disk_path(self) -> str:
        return hashed_path("@snippets", self.id)


@dataclass(frozen=True)
class Population:
    """Everything that has an id of its own. ``project_count`` may be any number from 1."""

    project_count: int

    @cached_property
    def users(self) -> tuple[User, ...]:
        people = (User(number, f"user{number}", f"Üser {number} Ñandú") for number in range(2, USER_COUNT + 1))
        return (User(1, "root", "Administrator"), *people)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Parents come before their children; their ids follow those of the users' namespaces."""
        known: dict[str | None, Group] = {}
        for number, (name, path, parent_path) in enumerate(_GROUPS, start=USER_COUNT + 1):
            parent = known.get(parent_path)
            group = Group(
                id=number,
                name=name,
                path=path,
                full_path=f"{parent_path}/{path}" if parent_path else path,
                parent_id=parent.id if parent else None,
                traversal_ids=(*(parent.traversal_ids if parent else ()), number),
            )
            known[group.full_path] = group
        return tuple(known.values())

    @cached_property
    def projects(self) -> tuple[Project, ...]:
        return tuple(self._project(number) for number in range(1, self.project_count + 1))

    @cached_property
    def snippets(self) -> tuple[Snippet, ...]:
        return (
            Snippet(1, "how to tie a bowline", 1, None),
            Snippet(2, "tide table", 2, None),
            Snippet(3, "notes beside the code", 2, 1),
        )

    def _project(self, number: int) -> Project:
        lap, place = divmod(number - 1, len(_NAMES))
        name = _NAMES[place] + (f" {lap + 1}" if lap else "")
        path = name.lower().replace(" ", "-")
        if number % 8 == 0:
            owner = self.users[number % USER_COUNT]
            return Project(number, name, path, f"{owner.username}/{path}", owner.id)
        group = self.groups[number % len(self.groups)]
        return Project(number, name, path, f"{group.full_path}/{path}", group.id)


def hashed_path(prefix: str, number: int) -> str:
    """Spread over directories by the SHA-256 of an id, as GitLab's hashed storage does."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{prefix}/{digest[:2]}/{digest[2:4]}/{digest}"


def made_bytes(label: str, size: int) -> bytes:
    """Make bytes that look random and are the same for the same label: nonces, salts, pictures, bulk."""
    return hashlib.shake_256(label.encode()).digest(size)
