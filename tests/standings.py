"""Made-up situations of an instance, for properties of what status says about them."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st

from drtool.core.history import KnownSet, State
from drtool.core.model import new_set_id
from drtool.core.situation import Done, LockSeen, NextRun, Situation, StoreSeen
from drtool.errors import BucketMissing, StoreAccessDenied, StoreError
from tests.sets import NIGHT

_HOURS = st.integers(-48, 15 * 24).map(lambda hours: timedelta(hours=hours))
_STATES: st.SearchStrategy[State] = st.sampled_from(
    ["verified", "verified", "verified", "unverified", "damaged", "red", "unknown"]
)
_PROBLEMS = st.sampled_from([None, None, None, BucketMissing("gone"), StoreAccessDenied("no"), StoreError("?")])


@st.composite
def _sets(draw: st.DrawFn) -> tuple[KnownSet, ...]:
    ages = draw(st.lists(_HOURS, max_size=8, unique=True))
    return tuple(_known(draw, age, number) for number, age in enumerate(sorted(ages)))


def _known(draw: st.DrawFn, age: timedelta, number: int) -> KnownSet:
    taken = NIGHT + age
    stored = taken + draw(st.sampled_from([timedelta(minutes=30), timedelta(days=2), timedelta(days=-2)]))
    state = draw(_STATES)
    return KnownSet(new_set_id(taken, f"{number:04x}"), taken, stored, state, draw(st.integers(0, 10**12)))


@st.composite
def _stores(draw: st.DrawFn, name: str) -> StoreSeen:
    if problem := draw(_PROBLEMS):
        return StoreSeen(name, problem=problem)
    known = draw(_sets())
    ids = [each.set_id for each in known]
    some = st.frozensets(st.sampled_from(ids), max_size=2) if ids else st.just(frozenset())
    doubts = draw(st.sampled_from([(), (), ("a manifest is forged",)]))
    return StoreSeen(name, known, draw(some), draw(some), doubts)


_DONE = st.none() | st.builds(
    Done,
    _HOURS.map(lambda age: NIGHT + age),
    st.just("20260113T031500Z-7f3a"),
    st.none() | st.integers(0, 10**5).map(lambda seconds: timedelta(seconds=seconds)),
)
_RUNS = st.sampled_from(
    [
        NextRun("known", NIGHT + timedelta(days=11), "drtool-backup.timer"),
        NextRun("none"),
        NextRun("unknown", None, "?"),
    ]
)
_LOCKS = st.sampled_from(
    [LockSeen("none"), LockSeen("unknown"), LockSeen("object"), LockSeen("bucket", NIGHT + timedelta(days=30))]
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Anything that status could come to see, most of it bad."""
    return Situation(
        instance="gitlab",
        store=draw(_stores("main")),
        copies=tuple(draw(_stores(f"copy-{number}")) for number in range(draw(st.integers(0, 2)))),
        freeze=draw(st.sampled_from([None, None, None, "the newest set is half as large"])),
        digest=draw(_DONE),
        contents=draw(_DONE),
        drill=draw(_DONE),
        restore=draw(_DONE),
        next_run=draw(_RUNS),
        lock=draw(_LOCKS),
        half_restored=draw(st.sampled_from([None, None, "an unfinished restore"])),
        unfinished=draw(st.sampled_from([(), (), ("restore-20260113T031500Z-7f3a",)])),
    )
