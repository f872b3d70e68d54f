"""What retention keeps, and why, by example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from drtool.core.history import KnownSet
from drtool.core.model import Tally
from drtool.core.policy import Decision, Retention, decide, why_needed
from tests.histories import BEGIN, History, complaints, known_set, nights

DAY = timedelta(days=1)
DAILY = Retention(daily=3, minimum=1, patience=timedelta(0))


def at_end(sets: Iterable[KnownSet]) -> datetime:
    return max(each.taken_at for each in sets) + timedelta(hours=8)


def settle(sets: list[KnownSet], retention: Retention, now: datetime | None = None) -> Decision:
    history = History(tuple(sets), retention, now or at_end(sets))
    decision = decide(history.sets, retention, history.now)
    assert complaints(history, decision) == []
    return decision


def reasons(decision: Decision, each: KnownSet) -> tuple[str, ...]:
    return next(choice.reasons for choice in decision.choices if choice.set_id == each.set_id)


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_no_sets_need_no_decision() -> None:
    assert decide([], DAILY, BEGIN) == Decision((), None, ())


def test_an_empty_policy_keeps_everything() -> None:
    sets = [*nights(40), known_set(BEGIN - 900 * DAY, "red"), known_set(BEGIN - 901 * DAY, "unverified")]

    decision = settle(sets, Retention())

    assert decision.removed == ()
    assert reasons(decision, sets[0]) == ("the policy names nothing to keep, so all is kept",)


def test_the_newest_days_stay_and_each_says_which_it_is() -> None:
    sets = nights(6)

    decision = settle(sets, DAILY)

    assert decision.kept == tuple(each.set_id for each in sets[3:])
    assert reasons(decision, sets[5]) == ("newest verified", "day 2024-01-06")
    assert reasons(decision, sets[3]) == ("day 2024-01-04",)
    assert reasons(decision, sets[0]) == ("no rule keeps it",)


def test_the_last_verified_set_of_a_day_stands_for_it() -> None:
    morning, noon, evening = (known_set(BEGIN + timedelta(hours=hours)) for hours in (0, 6, 12))
    night = known_set(BEGIN + timedelta(hours=20), "unverified")
    later = nights(4)[1:]

    decision = settle([morning, noon, evening, night, *later], replace(DAILY, daily=4))

    assert set(decision.removed) == {morning.set_id, noon.set_id}
    assert reasons(decision, evening) == ("day 2024-01-01",)
    assert reasons(decision, night) == ("if it is verified: day 2024-01-01",)


def test_several_rules_may_keep_one_set() -> None:
    sets = nights(40)
    retention = Retention(last=2, daily=2, weekly=2, monthly=2, yearly=2, minimum=2, within=DAY)

    decision = settle(sets, retention)

    assert reasons(decision, sets[-1]) == (
        "newest verified", "last 1", "day 2024-02-09", "week 2024-W06", "month 2024-02", "year 2024", "within 24 hours",
    )  # fmt: skip
    assert reasons(decision, sets[-2])[0] == "minimum, 2 of 2 verified"
    assert reasons(decision, sets[30]) == ("month 2024-01",)


def test_periods_without_a_set_are_not_counted() -> None:
    sets = [known_set(BEGIN + days * DAY) for days in (0, 100, 300, 301)]

    assert settle(sets, DAILY).removed == (sets[0].set_id,)


def test_backups_that_stop_let_nothing_grow_old() -> None:
    sets = nights(5)
    retention = Retention(within=10 * DAY, minimum=1)

    assert settle(sets, retention, now=at_end(sets) + 4000 * DAY).removed == ()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_day_is_one_day_when_clocks_change(zone: str) -> None:
    """A set every six hours for a year: one of each local day, and no day twice or left out."""
    begin = datetime(2025, 1, 1, 1, tzinfo=UTC)
    sets = [known_set(begin + number * timedelta(hours=6)) for number in range(4 * 365)]

    decision = settle(sets, Retention(daily=400, minimum=1, zone=ZoneInfo(zone)))

    kept = {*decision.kept}
    days = [each.taken_at.astimezone(ZoneInfo(zone)).date() for each in sets if each.set_id in kept]
    assert len(days) == len({*days}) and days[-1] - days[0] == (len(days) - 1) * DAY
    assert len(days) >= 365


def test_an_hour_that_comes_twice_is_two_hours() -> None:
    first = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)  # 02:30 in Berlin, and an hour later it is 02:30 again
    sets = [known_set(first + number * timedelta(minutes=30)) for number in range(4)]

    decision = settle(sets, Retention(hourly=9, minimum=1, zone=ZoneInfo("Europe/Berlin")))

    assert decision.removed == (sets[1].set_id,)
    assert reasons(decision, sets[0]) == ("hour 2025-10-26 02h+0200",)
    assert reasons(decision, sets[2]) == ("hour 2025-10-26 02h+0100",)


def test_the_zone_decides_where_a_day_begins() -> None:
    late = known_set(datetime(2025, 6, 1, 20, tzinfo=UTC))
    early = known_set(datetime(2025, 6, 1, 23, tzinfo=UTC))  # the second of June in Berlin

    assert settle([late, early], replace(DAILY, daily=2)).removed == (late.set_id,)
    assert settle([late, early], replace(DAILY, daily=2, zone=ZoneInfo("Europe/Berlin"))).removed == ()


# -- what does not count ---------------------------------------------------------------------------------------------


def test_sets_that_were_not_verified_take_no_place() -> None:
    good, hopeful = nights(3), [known_set(BEGIN + days * DAY, "unverified") for days in range(3, 20)]

    decision = settle([*good, *hopeful], replace(DAILY, sets_a_day=99))

    assert decision.removed == ()
    assert all("day" in reasons(decision, each)[-1] for each in good)


def test_sets_never_verified_go_when_they_are_old_and_would_not_be_kept_anyway() -> None:
    old = known_set(BEGIN - 30 * DAY, "unverified")
    sets = [old, *nights(5)]

    decision = settle(sets, replace(DAILY, patience=10 * DAY))

    assert reasons(decision, old) == ("never verified, 34 days older than the newest verified",)
    assert settle(sets, replace(DAILY, patience=60 * DAY)).removed == tuple(each.set_id for each in sets[1:3])
    assert old.set_id in settle(sets, replace(DAILY, yearly=2)).kept


@pytest.mark.parametrize("state", ["red", "damaged"])
def test_red_and_damaged_sets_stay_for_a_look_and_then_go(state: str) -> None:
    wrong = known_set(BEGIN, state)  # type: ignore[arg-type]  # as a test says
    sets = [wrong, *nights(20)[1:]]

    assert wrong.set_id in settle(sets, replace(DAILY, patience=30 * DAY)).kept
    assert reasons(settle(sets, DAILY), wrong) == (f"{state}, 19 days older than the newest verified",)


def test_what_is_not_known_to_be_ours_is_never_removed() -> None:
    strange = known_set(BEGIN - 999 * DAY, "unknown")

    assert strange.set_id in settle([strange, *nights(9)], DAILY).kept


def test_too_few_verified_sets_remove_nothing_not_even_red_ones() -> None:
    sets = [known_set(BEGIN - 99 * DAY, "red"), known_set(BEGIN - 98 * DAY, "unverified"), *nights(2)]

    decision = settle(sets, Retention(last=1, minimum=3))

    assert decision.removed == ()
    assert reasons(decision, sets[0]) == ("2 sets are verified, fewer than the minimum of 3",)


def test_the_minimum_stays_whatever_the_numbers_say() -> None:
    sets = nights(9)

    decision = settle(sets, Retention(last=1, minimum=4))

    assert decision.kept == tuple(each.set_id for each in sets[-4:])
    assert decision.guards == decision.kept[::-1]


def test_pinned_and_locked_sets_stay_and_say_why() -> None:
    first, second, third, *rest = nights(9)
    first = replace(first, pin="before 18.0 (root)")
    second = replace(second, locked_until=at_end(rest) + DAY)
    third = replace(third, locked_until=at_end(rest) - DAY)

    decision = settle([first, second, third, *rest], DAILY)

    assert reasons(decision, first) == ("pinned: before 18.0 (root)",)
    assert reasons(decision, second) == ("locked until 2024-01-10",)
    assert third.set_id in decision.removed


# -- wrong clocks and bad intentions ---------------------------------------------------------------------------------


def test_sets_from_the_future_stay_and_take_no_place() -> None:
    good = nights(3)
    poison = [replace(known_set(BEGIN + days * DAY), stored_at=good[-1].stored_at) for days in range(400, 420)]

    decision = settle([*good, *poison], replace(DAILY, sets_a_day=99), now=at_end(good))

    assert decision.removed == ()
    assert reasons(decision, poison[0]) == ("dated in the future: a clock was wrong",)
    assert decision.guards == (good[-1].set_id,)


def test_the_store_clock_unmasks_a_future_that_the_host_believes_in() -> None:
    good = nights(3)
    poison = [replace(known_set(BEGIN + days * DAY), stored_at=good[-1].stored_at) for days in range(400, 420)]

    decision = settle([*good, *poison], replace(DAILY, sets_a_day=99), now=BEGIN + 500 * DAY)

    assert decision.removed == ()


def test_a_clock_set_back_removes_nothing() -> None:
    assert settle(nights(9), DAILY, now=BEGIN - 3000 * DAY).removed == ()


@pytest.mark.parametrize("hours", [1, 24, 24 * 3650])
def test_a_clock_set_forward_changes_nothing(hours: int) -> None:
    sets = [*nights(30), known_set(BEGIN + 20 * DAY, "unverified", token="0001")]
    retention = Retention(daily=5, within=8 * DAY, patience=20 * DAY)

    assert settle(sets, retention) == settle(sets, retention, now=at_end(sets) + timedelta(hours=hours))


def test_a_sudden_shrink_of_the_newest_sets_freezes() -> None:
    good = nights(9)
    small = known_set(BEGIN + 9 * DAY, "unverified", size=499)

    decision = settle([*good, small], DAILY)

    assert decision.freeze == f"{small.set_id} takes 499 bytes, less than half of the usual 1000"
    assert decision.removed == ()
    assert reasons(decision, good[0]) == ("frozen", "else to go: no rule keeps it")
    assert settle([*good, replace(small, size=500)], DAILY).removed


def test_a_shrink_is_seen_two_nights_later_too() -> None:
    sizes = [1000] * 9 + [400, 1000, 1000]
    sets = [known_set(BEGIN + number * DAY, size=size) for number, size in enumerate(sizes)]

    assert settle(sets, DAILY).freeze
    assert not settle([*sets, known_set(BEGIN + 12 * DAY)], DAILY).freeze


def test_fewer_contents_freeze_even_when_the_size_stays() -> None:
    good = nights(9, contents=(Tally("projects", 100, 0), Tally("rarities", 4, 0)))
    emptied = known_set(BEGIN + 9 * DAY, contents=(Tally("projects", 40, 0),))

    decision = settle([*good, emptied], DAILY)

    assert decision.freeze == f"{emptied.set_id} holds 40 projects, less than half of the usual 100"
    assert settle([*good, replace(emptied, contents=(Tally("projects", 50, 0),))], DAILY).freeze is None
    assert settle([*good, replace(emptied, contents=())], DAILY).freeze is None


def test_a_baseline_ends_the_freeze_of_a_shrink() -> None:
    sets = [*nights(9), known_set(BEGIN + 9 * DAY, size=100), known_set(BEGIN + 10 * DAY, size=110)]
    accepted = [*sets[:9], replace(sets[9], pin="artifacts cleaned up", baseline=True), sets[10]]

    assert settle(sets, DAILY).freeze
    assert settle(accepted, DAILY).freeze is None
    assert settle([*accepted, known_set(BEGIN + 11 * DAY, size=10)], DAILY).freeze


def test_increments_are_no_shrink() -> None:
    sets = nights(5)
    increment = known_set(BEGIN + 5 * DAY, size=10, base=sets[-1].set_id)

    assert settle([*sets, increment], DAILY).freeze is None


def test_too_many_new_sets_freeze_by_the_clock_of_the_store() -> None:
    good = nights(20)
    end = good[-1].stored_at
    burst = [
        replace(known_set(BEGIN - number * DAY, token="aaaa"), stored_at=end + timedelta(minutes=number))
        for number in range(1, 8)
    ]

    assert "more than 6 sets were stored within a day" in str(settle([*good, *burst], DAILY).freeze)
    assert settle([*good, *burst[:5]], DAILY).freeze is None
    assert settle([*good, *burst], replace(DAILY, sets_a_day=8)).freeze is None


def test_a_burst_is_remembered_for_a_week_or_until_a_baseline() -> None:
    burst = [known_set(BEGIN + timedelta(minutes=number)) for number in range(10)]

    def later(days: int) -> list[KnownSet]:
        return [known_set(BEGIN + timedelta(hours=1) + number * DAY) for number in range(1, days)]

    assert settle([*burst, *later(6)], DAILY).freeze
    assert settle([*burst, *later(9)], DAILY).freeze is None
    accepted = [*burst[:-1], replace(burst[-1], pin="a copy was made", baseline=True)]
    assert settle([*accepted, *later(6)], DAILY).freeze is None


# -- increments ------------------------------------------------------------------------------------------------------


def test_a_base_stays_as_long_as_what_stands_on_it() -> None:
    base, *between, middle, top = nights(9)
    middle, top = replace(middle, base=base.set_id), replace(top, base=middle.set_id)

    decision = settle([base, *between, middle, top], Retention(last=1, minimum=1))

    assert decision.kept == (base.set_id, middle.set_id, top.set_id)
    assert reasons(decision, base) == (f"base of {middle.set_id}",)


@pytest.mark.parametrize("state", ["unverified", "damaged", "red"])
def test_an_increment_on_an_unproven_base_counts_for_nothing(state: str) -> None:
    base = known_set(BEGIN - DAY, state)  # type: ignore[arg-type]  # as a test says
    good, top = nights(2)
    top = replace(top, base=base.set_id)

    decision = settle([base, good, top], Retention(last=1, minimum=1, patience=timedelta(0)))

    assert decision.guards == (good.set_id,)
    assert decision.removed == ()


def test_increments_in_a_circle_are_kept_and_count_for_nothing() -> None:
    one, two, *rest = nights(9)
    one, two = replace(one, base=two.set_id), replace(two, base=one.set_id)

    decision = settle([one, two, *rest], replace(DAILY, yearly=9))

    assert {one.set_id, two.set_id} & {*decision.guards} == set()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_the_base_of_an_increment_is_needed_also_when_somebody_asks_for_its_removal() -> None:
    base, *others = nights(6)
    top = replace(others[1], base=base.set_id)
    sets = [base, others[0], top, *others[2:]]

    assert why_needed(base.set_id, sets, DAILY, at_end(sets)) == f"it is the base of {top.set_id}"
    assert why_needed(others[0].set_id, sets, DAILY, at_end(sets)) is None
    assert why_needed("20000101T000000Z-0000", sets, DAILY, at_end(sets)) is None


@pytest.mark.parametrize(("minimum", "all_are"), [(1, False), (3, False), (5, False), (6, True), (7, True)])
def test_verified_sets_are_needed_as_long_as_there_are_no_more_than_the_minimum(minimum: int, all_are: bool) -> None:
    sets, retention = nights(6), replace(DAILY, minimum=minimum)
    asked = [why_needed(each.set_id, sets, retention, at_end(sets)) for each in sets]

    assert asked[-1] == "it is the newest verified set"
    assert all(asked) if all_are else not any(asked[:-1])


def test_what_counts_for_nothing_is_not_needed() -> None:
    sets = [
        *nights(3),
        known_set(BEGIN - DAY, "damaged"),
        known_set(BEGIN - 2 * DAY, "red"),
        known_set(BEGIN + 9 * DAY),
    ]
    retention = replace(DAILY, minimum=3)

    now = sets[2].taken_at + timedelta(hours=8)
    assert [bool(why_needed(each.set_id, sets, retention, now)) for each in sets] == [True] * 3 + [False] * 3


def test_a_set_named_twice_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="twice"):
        decide([*nights(2), *nights(1)], DAILY, BEGIN)


@pytest.mark.parametrize("wrong", [{"last": -1}, {"minimum": 0}, {"patience": -DAY}, {"within": -DAY}])
def test_retention_refuses_what_means_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"never|negative"):
        Retention(**wrong)  # type: ignore[arg-type]  # as a test says
