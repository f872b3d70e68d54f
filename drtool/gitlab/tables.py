"""Which tables a GitLab database must have, whatever its version, and which of them are never empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drtool.core.versions import GitLabVersion

# Present in every release from 8 to 19. Few on purpose: tables are renamed and split from release to release, and one
# that a good database lacks would make every backup of it red.
_ALWAYS: Final = ("application_settings", "namespaces", "projects", "schema_migrations", "users")
# Since when a table is certain to be there.
_SINCE: Final = {"routes": (9, 0)}
# The migrations that ran, the settings that the first start writes, and root with its namespace.
_NEVER_EMPTY: Final = ("application_settings", "namespaces", "schema_migrations", "users")


def judge_tables(tables: Mapping[str, int], version: GitLabVersion) -> list[str]:
    """Name what the main database lacks; ``tables`` maps names with their schema to rows."""
    rows = {name.removeprefix("public."): count for name, count in tables.items()}
    wanted = [*_ALWAYS, *(name for name, since in _SINCE.items() if version.at_least(*since))]
    missing = [f"the database has no table {name}" for name in sorted(wanted) if name not in rows]
    return missing + [f"the table {name} is empty" for name in _NEVER_EMPTY if rows.get(name) == 0]
