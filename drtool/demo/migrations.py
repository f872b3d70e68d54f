"""The versions that Rails notes in ``schema_migrations``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

_COUNT = 276


def migrations() -> Iterator[str]:
    """Yield versions as Rails has them, the last one of January 2026."""
    start = datetime(2023, 1, 2, 13, 11, tzinfo=UTC)
    for number in range(_COUNT):
        yield (start + timedelta(days=4 * number, minutes=131 * number)).strftime("%Y%m%d%H%M00")
