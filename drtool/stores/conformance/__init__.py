"""What every store must do, as checks that run against any of them.

The tests run ``CHECKS`` against each adapter and a real server behind it; a user can run them against a bucket.
A check works below its own scratch prefix and removes what it made. It raises ContractBroken with what was seen,
or NotApplicable with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtool.errors import StoreError
from drtool.stores.conformance import frame, objects, refusals, writing
from drtool.stores.conformance.frame import (
    Check,
    ContractBroken,
    NotApplicable,
    Subject,
    forward_only,
    noise,
)

# Importing a module of checks registers them.
CHECKS: tuple[Check, ...] = tuple(
    check for check in frame.REGISTERED if check.__module__ in (objects.__name__, writing.__name__, refusals.__name__)
)

__all__ = ["CHECKS", "Check", "ContractBroken", "NotApplicable", "Subject", "forward_only", "noise", "run"]


def run(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[tuple[str, Exception | None]]:
    """Run the checks one after the other; yield each one's name, and what it raised: None is a pass."""
    for check in checks:
        try:
            check(subject)
        except (ContractBroken, NotApplicable, StoreError) as error:
            yield check.__name__, error
        else:
            yield check.__name__, None
