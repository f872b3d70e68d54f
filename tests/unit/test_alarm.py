"""A copy that is filled late: what came elsewhere night by night is no burst, and no thief hides behind that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from drtool.core.history import KnownSet
from drtool.core.policy import Retention, decide
from tests.histories import BEGIN, known_set

DAY = timedelta(days=1)
DAILY = Retention(daily=3, minimum=1, patience=timedelta(0))


def freeze(sets: Sequence[KnownSet]) -> str | None:
    return decide(sets, DAILY, max(each.stored_at for each in sets) + timedelta(hours=8)).freeze


def filled(days: Iterable[int], *, at: datetime) -> list[KnownSet]:
    """Sets that another store got on these days, and that came here one after the other within an hour."""
    there = [known_set(BEGIN + day * DAY, token=f"{place:04x}") for place, day in enumerate(days)]
    return [
        replace(each, first_stored_at=each.stored_at, stored_at=at + timedelta(minutes=place))
        for place, each in enumerate(there)
    ]


def test_a_copy_that_is_filled_in_a_day_with_what_came_night_by_night_is_no_burst() -> None:
    night_by_night = filled(range(20), at=BEGIN + 20 * DAY)

    assert freeze(night_by_night) is None
    assert freeze([replace(each, first_stored_at=None) for each in night_by_night])


def test_a_burst_of_the_other_store_is_one_here_for_a_week_from_when_it_came() -> None:
    """A thief may wait until the other store has forgotten it."""
    burst = filled([0] * 7, at=BEGIN + 8 * DAY)

    assert freeze([*burst, *later_than(8, 6)])
    assert freeze([*burst, *later_than(8, 9)]) is None


def test_some_that_the_other_store_never_had_are_a_burst_among_those_that_it_had() -> None:
    known, fakes = filled(range(20), at=BEGIN + 20 * DAY), filled(range(7), at=BEGIN + 20 * DAY)
    fakes = [replace(each, set_id=f"{each.set_id[:-4]}fa{place:02}") for place, each in enumerate(fakes)]

    assert freeze([*known, *(replace(each, first_stored_at=None) for each in fakes)])


def test_a_burst_here_is_one_whatever_later_times_another_store_tells() -> None:
    burst = [known_set(BEGIN + timedelta(minutes=number)) for number in range(10)]
    brought_back = [replace(each, first_stored_at=BEGIN + number * DAY) for number, each in enumerate(burst)]

    assert freeze(brought_back)


def later_than(day: int, days: int) -> list[KnownSet]:
    return [known_set(BEGIN + timedelta(hours=1) + (day + number) * DAY) for number in range(1, days)]
