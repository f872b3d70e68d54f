"""``python3 -m drtool.demo.fresh``: print the SQL of a GitLab after its first start: tables, an administrator, no work.

Standard library only: hosts of the integration tests are made with it.
"""

from __future__ import annotations

import sys

from drtool.demo import seed_sql
from drtool.demo.migrations import migrations
from drtool.demo.seed_sql import Table

_ADMINISTRATOR = (1, "root", "Administrator", "root@example.com", True)


def script() -> str:
    """Write the script for an empty database."""
    return seed_sql.script(
        [
            Table("schema_migrations", "version", ((version,) for version in migrations())),
            Table("ar_internal_metadata", "key value created_at updated_at", [_environment()]),
            Table("application_settings", "id uuid", [(1, "00000000-0000-4000-8000-00000000feed")]),
            Table("users", "id username name email admin", [_ADMINISTRATOR]),
            Table("namespaces", "id name path owner_id", [(1, "Administrator", "root", 1)]),
        ]
    )


def _environment() -> tuple[str, str, str, str]:
    return "environment", "production", "2026-01-05 08:00:00", "2026-01-05 08:00:00"


if __name__ == "__main__":
    sys.stdout.write(script())
