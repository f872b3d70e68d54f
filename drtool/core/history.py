"""What is known of the sets there are: the values that retention decides over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from drtool.core.model import Tally

State = Literal["verified", "unverified", "damaged", "red", "unknown"]
"""``verified``: every stored byte was read and found good. ``damaged``: something was found missing or changed.

``red``: its backup was judged so. ``unknown``: its manifest cannot be read, or is by a key that is not trusted.
"""

CLOCKS_APART: Final = timedelta(hours=1)
"""How far two clocks may differ before one of them is called wrong."""


@dataclass(frozen=True, slots=True)
class KnownSet:
    """One set. Times are aware; ``taken_at`` is what its name says, ``stored_at`` what the store's clock says.

    ``size`` is what it takes in the store. ``base`` is the set that it is an increment of. ``pin`` is the text of its
    pin, None without one; a ``baseline`` is a pin that says: this set is as it should be, compare with it.
    ``no_baseline`` is why a pin that says so does not count as one. ``first_stored_at`` is when another store had this
    very set before, by a clock at least as good as this store's.
    """

    set_id: str
    taken_at: datetime
    stored_at: datetime
    state: State
    size: int
    contents: tuple[Tally, ...] = ()
    base: str | None = None
    pin: str | None = None
    baseline: bool = False
    locked_until: datetime | None = None
    no_baseline: str = ""
    first_stored_at: datetime | None = None


def is_early(known: KnownSet, now: datetime) -> bool:
    """Tell whether it is dated in the future: after now, or after the store had it by its own clock."""
    return is_ahead(known.taken_at, known.stored_at, now)


def is_ahead(taken_at: datetime, stored_at: datetime, now: datetime) -> bool:
    """The same of what is known by its times alone."""
    return taken_at > min(now, stored_at) + CLOCKS_APART
