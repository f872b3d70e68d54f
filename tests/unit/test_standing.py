"""What status concludes from what was seen: nothing that was not seen is well, and every promise can be broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.core.history import KnownSet, State
from drtool.core.model import new_set_id
from drtool.core.policy import Objectives, Retention
from drtool.core.situation import Done, LockSeen, Moved, NextRun, Situation, StoreSeen, find_lost
from drtool.core.standing import Objective, Promises, Standing, find_restorable, judge
from drtool.errors import BucketMissing, SetMissing, StoreAccessDenied
from tests.sets import NIGHT
from tests.standings import situations

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = NIGHT + 10 * DAY + 6 * HOUR
PROMISES = Promises(
    Objectives(26 * HOUR, 4 * HOUR, 100 * DAY), digest=7 * DAY, contents=7 * DAY, stores=2, locked_for=3 * DAY
)


def night(number: int, state: State = "verified", **more: object) -> KnownSet:
    taken = NIGHT + number * DAY
    known = KnownSet(new_set_id(taken, "0000"), taken, taken + HOUR / 2, state, 1000)
    return replace(known, **more)  # type: ignore[arg-type]  # as a test says


NIGHTS = tuple(night(number) for number in range(11))
KEEP_SIX = Retention(last=6, minimum=3)
WELL = Situation(
    "gitlab",
    StoreSeen("main", NIGHTS),
    (StoreSeen("copy", NIGHTS),),
    digest=Done(NOW - DAY, NIGHTS[-1].set_id),
    contents=Done(NOW - DAY, NIGHTS[-1].set_id),
    drill=Done(NOW - 90 * DAY, NIGHTS[0].set_id),
    restore=Done(NOW - 90 * DAY, NIGHTS[0].set_id, 2 * HOUR),
    next_run=NextRun("known", NOW + DAY, "drtool-backup.timer"),
    lock=LockSeen("object", NIGHTS[-1].taken_at + 3 * DAY),
)


def with_sets(*known: KnownSet) -> Situation:
    return replace(WELL, store=StoreSeen("main", known), copies=(StoreSeen("copy", known),))


def breached(standing: Standing) -> set[str]:
    return {each.name for each in standing.objectives if each.verdict == "breached"}


def codes(standing: Standing) -> set[str]:
    return {each.code for each in standing.findings}


def objective(standing: Standing, name: str) -> Objective:
    (found,) = [each for each in standing.objectives if each.name == name]
    return found


def test_an_instance_that_keeps_everything_is_well() -> None:
    standing = judge(WELL, PROMISES, NOW)
    assert standing.exit_status == 0
    assert {each.verdict for each in standing.objectives} == {"met"}
    assert standing.findings == ()
    assert standing.last_restorable and standing.last_restorable.set_id == NIGHTS[-1].set_id
    assert objective(standing, "rpo").reached == 6 * HOUR


BROKEN = [
    (replace(WELL, store=StoreSeen("main", NIGHTS[:-2])), {"rpo"}),
    (with_sets(), {"rpo", "copies", "lock"}),
    (with_sets(*(replace(each, state="unverified") for each in NIGHTS)), {"digest"}),
    (replace(WELL, digest=None), {"digest"}),
    (replace(WELL, digest=Done(NOW - 8 * DAY, "")), {"digest"}),
    (replace(WELL, digest=Done(NOW + 2 * DAY, "")), {"digest"}),
    (replace(WELL, contents=None), {"contents"}),
    (replace(WELL, drill=None), {"drill_age"}),
    (replace(WELL, drill=Done(NOW + 2 * DAY, "")), {"drill_age"}),
    (replace(WELL, drill=Done(NOW - 101 * DAY, "")), {"drill_age"}),
    (replace(WELL, restore=None), {"rto"}),
    (replace(WELL, restore=Done(NOW, "", None)), {"rto"}),
    (replace(WELL, restore=Done(NOW, "", 5 * HOUR)), {"rto"}),
    (replace(WELL, copies=()), {"copies"}),
    (replace(WELL, copies=(StoreSeen("copy", NIGHTS[:-2]),)), {"copies"}),
    (replace(WELL, copies=(StoreSeen("copy", tuple(replace(each, state="damaged") for each in NIGHTS)),)), {"copies"}),
    (replace(WELL, lock=LockSeen("none")), {"lock"}),
    (replace(WELL, lock=LockSeen("object", None)), {"lock"}),
    (replace(WELL, lock=LockSeen("object", NIGHTS[-1].taken_at + DAY)), {"lock"}),
    (replace(WELL, freeze="it shrank"), {"removal"}),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "wanted"), BROKEN)
def test_every_promise_can_be_broken_and_ends_with_22(situation: Situation, wanted: set[str]) -> None:
    standing = judge(situation, PROMISES, NOW)
    assert breached(standing) == wanted
    assert standing.exit_status == 22


NEWEST_IS_RED = replace(NIGHTS[-1], state="red", set_id="x", taken_at=NOW - HOUR)
RED = [
    (replace(WELL, store=StoreSeen("main", problem=BucketMissing("gone"))), "store", 12),
    (replace(WELL, copies=(StoreSeen("copy", problem=StoreAccessDenied("no")),)), "store", 11),
    (replace(WELL, half_restored="a restore"), "half-restored", 6),
    (replace(WELL, unseen=("a directory",)), "unseen", 6),
    (replace(WELL, store=StoreSeen("main", (*NIGHTS, night(9, "damaged", set_id="x")))), "damaged", 21),
    (replace(WELL, store=StoreSeen("main", (*NIGHTS, NEWEST_IS_RED))), "red", 21),
    (replace(WELL, store=StoreSeen("main", NIGHTS, doubts=("forged",))), "not-believed", 21),
    (replace(WELL, copies=(StoreSeen("copy", NIGHTS, doubts=("forged",)),)), "not-believed", 21),
    (replace(WELL, store=StoreSeen("main", (*NIGHTS, night(9, stored_at=NOW + DAY, set_id="x")))), "clock", 6),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "code", "status"), RED)
def test_every_other_problem_ends_with_its_own_status(situation: Situation, code: str, status: int) -> None:
    standing = judge(situation, PROMISES, NOW)
    assert breached(standing) == set()
    assert codes(standing) == {code}
    assert standing.exit_status == status


@pytest.mark.parametrize("place", [0, 1])
def test_damage_in_any_store_is_told_with_the_command_that_mends_it_from_the_other(place: int) -> None:
    damaged = (replace(NIGHTS[0], state="damaged"), *NIGHTS[1:])
    stores = [StoreSeen(name, damaged if number == place else NIGHTS) for number, name in enumerate(("main", "copy"))]

    standing = judge(replace(WELL, store=stores[0], copies=(stores[1],)), PROMISES, NOW)

    (found,) = standing.findings
    assert (found.code, standing.exit_status) == ("damaged", 21)
    source, target = ("copy", "main") if place == 0 else ("main", "copy")
    assert f"`drtool copy {NIGHTS[0].set_id} --from {source} --to {target} --mend`" in found.hint


def test_damage_everywhere_has_no_store_to_be_mended_from() -> None:
    standing = judge(with_sets(replace(NIGHTS[0], state="damaged"), *NIGHTS[1:]), PROMISES, NOW)

    assert [found.hint.partition(".")[0] for found in standing.findings] == ["No other store has it whole"] * 2


def test_without_a_policy_an_instance_without_sets_is_not_well_and_one_with_an_old_set_is() -> None:
    assert judge(Situation("gitlab", StoreSeen("main")), Promises(), NOW).exit_status == 14
    old = judge(Situation("gitlab", StoreSeen("main", NIGHTS[:1])), Promises(), NOW)
    assert old.exit_status == 0
    assert {each.verdict for each in old.objectives} == {"not promised", "met"}  # removal alone can always be seen
    assert objective(old, "rpo").reached == 10 * DAY + 6 * HOUR


@pytest.mark.parametrize("found", [NextRun("none"), NextRun("unknown", None, "crontabs cannot be read")])
def test_a_next_run_that_nobody_knows_is_told_and_breaks_no_promise(found: NextRun) -> None:
    standing = judge(replace(WELL, next_run=found), PROMISES, NOW)
    assert codes(standing) == {"no-timer"}
    assert standing.exit_status == 0


def test_a_clock_that_is_behind_is_told_and_makes_no_old_set_young() -> None:
    standing = judge(WELL, PROMISES, NOW - 5 * DAY)
    assert "clock" in codes(standing)
    assert standing.last_restorable and standing.last_restorable.taken_at <= NOW - 5 * DAY + HOUR


def test_a_set_from_the_future_counts_for_nothing() -> None:
    ahead = night(12, stored_at=NOW - HOUR)
    standing = judge(with_sets(*NIGHTS[:-2], ahead), PROMISES, NOW)
    assert "rpo" in breached(standing)
    assert codes(standing) == {"future"}


def test_a_baseline_that_does_not_count_is_amber_wherever_it_is() -> None:
    doubtful = (replace(NIGHTS[0], pin="?", no_baseline="the pin is not signed"), *NIGHTS[1:])
    for stores in ({"store": StoreSeen("main", doubtful)}, {"copies": (StoreSeen("copy", doubtful),)}):
        standing = judge(replace(WELL, **stores), PROMISES, NOW)
        assert codes(standing) == {"baseline"} and standing.exit_status == 0
        assert "not signed" in standing.findings[0].message


def test_what_no_prune_removes_leads_to_the_command_that_does() -> None:
    ahead = night(12, stored_at=NOW - HOUR)
    standing = judge(replace(WELL, store=StoreSeen("main", (*NIGHTS, ahead), doubts=("forged",))), PROMISES, NOW)
    hints = {each.code: each.hint for each in standing.findings}
    assert all("`drtool discard`" in hints[code] for code in ("future", "not-believed"))


def test_a_set_that_is_being_removed_is_none() -> None:
    store = StoreSeen("main", NIGHTS, going=frozenset(each.set_id for each in NIGHTS[-2:]))
    assert breached(judge(replace(WELL, store=store), PROMISES, NOW)) == {"rpo"}


def test_an_increment_without_its_base_is_none() -> None:
    alone = night(10, base="gone")
    assert find_restorable(StoreSeen("main", (alone,)), NOW) == []
    assert find_restorable(StoreSeen("main", (night(9), replace(alone, base=night(9).set_id))), NOW)[-1] == replace(
        alone, base=night(9).set_id
    )


def test_a_copy_that_is_one_set_behind_is_good_while_it_keeps_the_rpo() -> None:
    behind = replace(WELL, copies=(StoreSeen("copy", NIGHTS[:-1]),))
    soon = judge(behind, replace(PROMISES, objectives=replace(PROMISES.objectives, rpo=31 * HOUR)), NOW)
    assert soon.exit_status == 0
    assert (soon.copies[0].complete, soon.copies[0].behind) == (False, 1)
    assert breached(judge(behind, PROMISES, NOW)) == {"copies"}


@given(situations(), st.sampled_from([PROMISES, Promises()]))
@settings(max_examples=80, deadline=None)
def test_nothing_is_well_that_was_not_seen(situation: Situation, promises: Promises) -> None:
    standing = judge(situation, promises, NOW)
    if standing.exit_status == 0:
        assert standing.reachable and standing.last_restorable
        assert all(each.verdict in ("met", "not promised") for each in standing.objectives)
        assert all(each.severity == "amber" for each in standing.findings)
        if rpo := promises.objectives.rpo:
            newest = max(_good(situation.store.known), key=lambda each: each.taken_at)
            assert NOW - newest.taken_at <= rpo
    if any(each.verdict == "breached" for each in standing.objectives):
        assert standing.exit_status == 22


@given(situations())
@settings(max_examples=40, deadline=None)
def test_time_that_passes_makes_no_broken_rpo_good(situation: Situation) -> None:
    first, later = (judge(situation, PROMISES, NOW + wait) for wait in (20 * DAY, 30 * DAY))
    if objective(first, "rpo").verdict == "breached":  # all sets are in the past by then
        assert objective(later, "rpo").verdict == "breached"


def _good(known: Iterable[KnownSet]) -> list[KnownSet]:
    return [each for each in known if each.state in ("verified", "unverified")]


# -- sets that are gone ----------------------------------------------------------------------------------------------


def lost(here: Iterable[KnownSet], there: Iterable[KnownSet], retention: Retention = KEEP_SIX) -> list[tuple[str, ...]]:
    stores = (StoreSeen("main", tuple(here)), StoreSeen("copy", tuple(there)))
    return [(found.store, *found.set_ids) for found in find_lost(stores, retention, NOW)]


def without(number: int) -> list[KnownSet]:
    return [each for each in NIGHTS if each is not NIGHTS[number]]


def test_a_set_that_only_the_copy_has_is_gone_from_the_first_store() -> None:
    assert lost(without(8), NIGHTS) == [("main", NIGHTS[8].set_id)]
    situation = replace(
        WELL, lost=tuple(find_lost((StoreSeen("main", tuple(without(8))), WELL.copies[0]), KEEP_SIX, NOW))
    )
    standing = judge(situation, PROMISES, NOW)
    assert [finding.code for finding in standing.findings if finding.severity == "red"] == ["lost"]
    assert standing.exit_status == SetMissing.exit_status


def test_a_tombstone_in_its_empty_folder_hides_no_set_that_is_gone() -> None:
    """Whoever deletes a set may leave one there: it says nothing of who did it."""
    copy = StoreSeen("copy", NIGHTS)
    for number, told in ((8, [("main", (NIGHTS[8].set_id,))]), (1, [])):  # the policy let go of the other
        main = StoreSeen("main", tuple(without(number)), going=frozenset({NIGHTS[number].set_id}))
        assert [(found.store, found.set_ids) for found in find_lost((main, copy), KEEP_SIX, NOW)] == told


def test_a_set_between_others_is_gone_from_the_copy() -> None:
    assert lost(NIGHTS, without(8)) == [("copy", NIGHTS[8].set_id)]


def test_what_the_policy_let_go_is_not_gone() -> None:
    pruned = [each for each in NIGHTS if each.taken_at > NIGHTS[4].taken_at]
    assert lost(pruned, [replace(each, state="unverified") for each in NIGHTS]) == []


@pytest.mark.parametrize("held", [{"pin": "before the upgrade"}, {"locked_until": NOW + DAY}])
def test_what_a_pin_or_a_lock_keeps_in_one_store_alone_is_not_gone_from_the_other(held: dict[str, Any]) -> None:
    kept = [replace(NIGHTS[2], **held), *NIGHTS[5:]]
    assert lost([NIGHTS[0], *NIGHTS[5:]], kept) == []
    assert lost(kept, [NIGHTS[0], *NIGHTS[5:]]) == [], "a copy is kept by its own pins"


def test_a_copy_that_was_begun_later_or_is_behind_lacks_nothing() -> None:
    assert lost(NIGHTS, NIGHTS[7:10]) == []


def test_without_a_policy_nothing_is_let_go() -> None:
    assert lost(NIGHTS[5:], NIGHTS, Retention()) == [("main", *(each.set_id for each in NIGHTS[:5]))]


@pytest.mark.parametrize("silent", ["main", "copy"])
def test_a_store_that_does_not_answer_has_lost_nothing_that_is_known(silent: str) -> None:
    stores = [StoreSeen("main", tuple(without(8))), StoreSeen("copy", NIGHTS)]
    asked = [StoreSeen(each.name, problem=BucketMissing("gone")) if each.name == silent else each for each in stores]
    assert list(find_lost(asked, KEEP_SIX, NOW)) == []


# -- after a cut-over ------------------------------------------------------------------------------------------------


def red(situation: Situation) -> list[str]:
    return [finding.code for finding in judge(situation, PROMISES, NOW).findings if finding.severity == "red"]


def test_after_a_cut_over_status_is_red_until_a_set_taken_since_was_verified() -> None:
    moved = Moved(NIGHTS[-1].taken_at + HOUR, "new-host")
    assert red(replace(WELL, moved=moved)) == ["moved"]
    later = replace(NIGHTS[-1], taken_at=moved.at + HOUR, stored_at=moved.at + 2 * HOUR)
    unread = with_sets(*NIGHTS[:-1], replace(later, state="unverified"))
    assert "moved" in red(replace(unread, moved=moved))
    assert "moved" not in red(replace(with_sets(*NIGHTS[:-1], later), moved=moved))
    assert "moved" not in red(WELL)
