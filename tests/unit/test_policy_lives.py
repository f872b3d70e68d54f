"""Retention over a hundred thousand random lives, and over ten years of nights."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.core.history import KnownSet
from drtool.core.policy import Choice, Decision, Retention, decide
from tests.histories import BEGIN, History, complaints, known_set, nights, random_history

DAY = timedelta(days=1)
NOW = BEGIN + timedelta(days=5, hours=8)


# -- properties ------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_random_lives_keep_every_promise() -> None:
    noise = random.Random(20260113)
    removed = frozen = 0
    for number in range(100_000):
        history = random_history(noise)
        decision = decide(history.sets, history.retention, history.now)
        assert complaints(history, decision) == [], f"life {number}: {history}"
        removed += len(decision.removed)
        frozen += decision.freeze is not None
    assert removed > 50_000 and frozen > 5_000  # these lives did try it


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_deciding_again_over_what_was_left_removes_nothing_more(noise: random.Random) -> None:
    history = random_history(noise)
    kept = {*decide(history.sets, history.retention, history.now).kept}

    left = [each for each in history.sets if each.set_id in kept]

    assert decide(left, history.retention, history.now).removed == ()


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_in_which_sets_are_listed_means_nothing(noise: random.Random) -> None:
    history = random_history(noise)

    assert decide(history.sets[::-1], history.retention, history.now) == decide(*_arguments(history))


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["unverified", "red", "damaged", "unknown"]))
def test_a_set_that_does_not_count_never_costs_a_verified_one(noise: random.Random, state: str) -> None:
    history = random_history(noise)
    more = known_set(BEGIN + noise.randrange(2000) * DAY, state, token="ffff")  # type: ignore[arg-type]  # as a test says

    before = {*decide(*_arguments(history)).removed}
    after = {*decide([*history.sets, more], history.retention, history.now).removed}

    assert {each.set_id for each in history.sets if each.state == "verified" and each.set_id in after} <= before


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_pin_removes_nothing_else(noise: random.Random) -> None:
    history = random_history(noise)
    if not history.sets:
        return
    chosen = noise.choice(history.sets)
    pinned = [replace(each, pin="kept") if each is chosen else each for each in history.sets]

    after = {*decide(pinned, history.retention, history.now).removed}

    assert after <= {*decide(*_arguments(history)).removed} - {chosen.set_id}


def _arguments(history: History) -> tuple[tuple[KnownSet, ...], Retention, datetime]:
    return history.sets, history.retention, history.now


# -- ten years -------------------------------------------------------------------------------------------------------


def test_ten_years_of_nights_end_in_exactly_the_promised_shape() -> None:
    """A set a night, pruned every night; one in nine fails, one is verified two days late, and none is ever missed."""
    retention = Retention(daily=14, weekly=8, monthly=12, yearly=5, minimum=5, zone=ZoneInfo("Europe/Berlin"))
    noise = random.Random(10)
    held: list[KnownSet] = []
    for number in range(3653):
        now = BEGIN + number * DAY
        state = "red" if noise.random() < 0.1 and number < 3600 else "unverified"
        held.append(known_set(now, state, size=1000 + number))  # type: ignore[arg-type]  # as a test says
        held = [replace(each, state="verified") if _is_due(each, now) else each for each in held]
        decision = decide(held, retention, now + timedelta(hours=1))
        assert decision.freeze is None
        kept = {*decision.kept}
        worth = [each for each in held if each.state == "verified"]
        held = [each for each in held if each.set_id in kept]
        left = [each for each in held if each.state == "verified"]
        assert len(left) >= min(5, len(worth))
        assert worth[-1:] == left[-1:]

    verified = [each.taken_at.astimezone(retention.zone) for each in held if each.state == "verified"][::-1]
    assert [each.state for each in held if each.state != "verified"] == ["unverified"] * 2
    assert verified == sorted(_promised(retention, BEGIN + 3650 * DAY), reverse=True)


def _is_due(each: KnownSet, now: datetime) -> bool:
    return each.state == "unverified" and now - each.taken_at >= 2 * DAY


def _promised(retention: Retention, newest: datetime) -> set[datetime]:
    """What the numbers promise, said in another way: with the calendar, from today backwards."""
    zone = retention.zone
    noise = random.Random(10)
    good = [
        (BEGIN + number * DAY).astimezone(zone)
        for number in range(3653)
        if not (noise.random() < 0.1 and number < 3600) and BEGIN + number * DAY <= newest
    ]
    promised: set[datetime] = {*good[-5:]}
    for count, period in (
        (retention.daily, "%Y-%m-%d"),
        (retention.weekly, "%G-%V"),
        (retention.monthly, "%Y-%m"),
        (retention.yearly, "%Y"),
    ):
        last = {moment.strftime(period): moment for moment in good}  # the last of a period overwrites the others
        promised |= {*[*last.values()][-count:]}
    return promised


# -- the judge of these tests ----------------------------------------------------------------------------------------


def test_the_judge_sees_what_is_wrong() -> None:
    """A checker that cannot fail is worth nothing: each promise is broken once."""
    sets = nights(6)
    sets[0] = replace(sets[0], pin="kept")
    sets[1] = replace(sets[1], locked_until=NOW + DAY)
    sets[3] = replace(sets[3], base=sets[2].set_id)
    strange, early = known_set(BEGIN - DAY, "unknown"), known_set(BEGIN + 99 * DAY)
    young = known_set(BEGIN + 4 * DAY, "unverified", token="0001")
    history = History((*sets, strange, early, young), Retention(last=3, minimum=3), NOW)
    good = decide(*_arguments(history))

    def wrong(*removed: KnownSet, freeze: str | None = None) -> str:
        ids = {each.set_id for each in removed}
        choices = [replace(each, action="remove") if each.set_id in ids else each for each in good.choices]
        return said(history, replace(good, choices=tuple(choices), freeze=freeze))

    def said(about: History, decision: Decision) -> str:
        return "; ".join(complaints(about, decision))

    assert complaints(history, good) == []
    assert "is pinned" in wrong(sets[0])
    assert "is locked" in wrong(sets[1])
    assert "lost its base" in wrong(sets[2])
    assert "newest verified" in wrong(sets[5])
    assert "fewer verified sets" in wrong(sets[2], sets[3], sets[4], sets[5])
    assert "not ours" in wrong(strange)
    assert "in the future" in wrong(early)
    assert "was young" in wrong(young)
    assert "though frozen" in wrong(sets[2], freeze="shrunk")
    assert "one choice" in said(history, replace(good, choices=good.choices[1:]))
    bare = Choice(sets[0].set_id, sets[0].taken_at, "verified", "keep", ())
    assert "without a reason" in said(history, replace(good, choices=(bare, *good.choices[1:])))
    removing = decide(nights(9), Retention(last=3), BEGIN + 20 * DAY)
    assert "too few" in said(History(tuple(nights(9)), Retention(last=3, minimum=99), BEGIN + 20 * DAY), removing)
    assert "empty policy" in said(History(tuple(nights(9)), Retention(), BEGIN + 20 * DAY), removing)
