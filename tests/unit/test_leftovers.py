from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from drtool.core.leftovers import Continue, Decision, Interrupted, Refuse, StartAnew, decide

OURS = "20260113T031500Z-7f3a"
OTHER = "20260112T031500Z-0b1c"
FOREIGN = "1795219681_2026_11_21_18.9.0-pre"
BEGUN = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)
PATIENCE = timedelta(hours=6)
READY = Interrupted(OURS, BEGUN, terms="terms", created=True, committed=False)
TICK = timedelta(microseconds=1)


def decided(
    interrupted: Interrupted | None = READY,
    *,
    staged: str | None = OURS,
    terms: str = "terms",
    after: timedelta = timedelta(hours=1),
) -> Decision:
    return decide(interrupted, staged=staged, terms=terms, now=BEGUN + after, patience=PATIENCE)


def test_an_interrupted_backup_whose_members_are_complete_is_continued() -> None:
    assert decided() == Continue(OURS)


@pytest.mark.parametrize("interrupted", [READY, None, replace(READY, created=False), replace(READY, committed=True)])
def test_without_complete_members_a_new_backup_is_begun_and_nothing_removed(interrupted: Interrupted | None) -> None:
    assert decided(interrupted, staged=None) == StartAnew(clean=False)


@pytest.mark.parametrize("interrupted", [READY, None, replace(READY, created=False), replace(READY, set_id=FOREIGN)])
@pytest.mark.parametrize("foreign", [FOREIGN, "", "drtool-safety-20260113T031500Z-7f3a", OURS + "\n", OURS.upper()])
def test_members_of_a_foreign_backup_are_never_touched(interrupted: Interrupted | None, foreign: str) -> None:
    assert decided(interrupted, staged=foreign) == Refuse(foreign)


@pytest.mark.parametrize(
    "reason",
    [
        "no journal",
        "not created",
        "committed",
        "another set",
        "other terms",
    ],
)
def test_our_own_members_that_cannot_be_continued_are_cleaned_away(reason: str) -> None:
    interrupted = {
        "no journal": None,
        "not created": replace(READY, created=False),
        "committed": replace(READY, committed=True),
        "another set": replace(READY, set_id=OTHER),
        "other terms": replace(READY, terms="other terms"),
    }[reason]
    assert decided(interrupted) == StartAnew(clean=True)


@pytest.mark.parametrize(
    ("after", "continued"),
    [
        (-timedelta(days=400), False),
        (-timedelta(hours=1), False),
        (-TICK, False),
        (timedelta(0), True),
        (TICK, True),
        (PATIENCE - TICK, True),
        (PATIENCE, False),
        (PATIENCE + TICK, False),
        (timedelta(days=400), False),
    ],
    ids=str,
)
def test_only_members_younger_than_the_patience_pass_for_tonights(after: timedelta, continued: bool) -> None:
    """A clock that jumped backwards makes an age negative: then nobody knows how old they are."""
    assert decided(after=after) == (Continue(OURS) if continued else StartAnew(clean=True))


def test_a_set_is_continued_only_if_everything_about_it_fits() -> None:
    ages = (-TICK, timedelta(hours=1), PATIENCE)
    for created, committed, set_id, staged, terms, after in product(
        (True, False), (True, False), (OURS, OTHER), (None, OURS, OTHER, FOREIGN), ("terms", "others"), ages
    ):
        interrupted = Interrupted(set_id, BEGUN, "terms", created, committed)
        decision = decided(interrupted, staged=staged, terms=terms, after=after)
        fits = created and not committed and set_id == staged and terms == "terms" and after == timedelta(hours=1)
        assert (decision == Continue(set_id)) == fits
        assert (decision == Refuse(FOREIGN)) == (staged == FOREIGN)
        assert (decision == StartAnew(clean=False)) == (staged is None)
