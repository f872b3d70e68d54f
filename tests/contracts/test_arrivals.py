"""A copy that is filled late is pruned like any other, and only another store that can be believed makes it so."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.app import load
from drtool.catalog import MANIFEST, BackupSet, Catalog
from drtool.copy import copy
from drtool.core.model import time_of
from drtool.core.policy import Retention
from drtool.errors import BucketMissing
from drtool.events import ignore
from drtool.prune_plan import plan_prune
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.lives import live, set_id, verifier
from tests.two_stores import lay_out

NIGHTS = range(4)
TWO_A_DAY = Retention(daily=2, minimum=2, sets_a_day=2)


@pytest.fixture
def first() -> Catalog:
    """A store that got a set a night."""
    return live(NIGHTS)


@pytest.fixture
def filled(first: Catalog) -> Catalog:
    """A copy of it, all of it made just now."""
    made = Catalog(MemoryStore(), sets.INSTANCE)
    for night in NIGHTS:
        manifest = first.read_manifest(set_id(night), verifier())
        copy(BackupSet(first, manifest), made, clock=sets.StillClock(), emit=ignore)
    return made


def freeze(catalog: Catalog, *others: Callable[[], Catalog]) -> str | None:
    clock = sets.StillClock(datetime.now(UTC))
    plan = plan_prune(catalog, TWO_A_DAY, verifier=verifier(), clock=clock, emit=ignore, others=others)
    return plan.decision.freeze


def test_a_copy_that_was_filled_in_a_day_is_not_frozen_by_what_the_first_store_got_night_by_night(
    first: Catalog, filled: Catalog
) -> None:
    assert freeze(filled, lambda: first) is None
    assert "more than 2 sets were stored within a day" in str(freeze(filled))


def test_the_first_store_is_not_frozen_by_what_comes_back_from_a_copy(first: Catalog, filled: Catalog) -> None:
    assert freeze(first, lambda: filled) is None


def test_a_store_that_does_not_answer_or_is_empty_proves_nothing(filled: Catalog) -> None:
    def gone() -> Catalog:
        raise BucketMissing("gone")

    assert freeze(filled, gone)
    assert freeze(filled, lambda: Catalog(MemoryStore(), sets.INSTANCE))


@pytest.mark.parametrize("keys", [sets.keys(), sets.new_keys()], ids=["ours", "a thief's"])
def test_another_set_of_the_same_name_proves_nothing(first: Catalog, filled: Catalog, keys: sets.Keys) -> None:
    for night in NIGHTS:
        sets.commit(first.store, set_id=set_id(night), seed=night + 1, keys_=keys)

    assert freeze(filled, lambda: first)


def test_a_thief_who_fills_both_stores_in_a_day_is_seen_in_both(filled: Catalog) -> None:
    both = Catalog(MemoryStore(), sets.INSTANCE)
    for night in NIGHTS:
        manifest = filled.read_manifest(set_id(night), verifier())
        copy(BackupSet(filled, manifest), both, clock=sets.StillClock(), emit=ignore)

    assert freeze(filled, lambda: both) and freeze(both, lambda: filled)


# -- whose clock counts ----------------------------------------------------------------------------------------------

CONFIG = """\
[[instance]]
name = "gitlab"
store = "{first}"
[[instance.copies]]
store = "{second}"
[store.directory]
kind = "local"
path = "a"
[store.share]
kind = "local"
path = "b"
[store.bucket]
kind = "s3"
bucket = "backups"
[store.vault]
kind = "s3"
bucket = "vault"
"""


@pytest.mark.parametrize(
    ("store", "other", "counts"),
    [
        ("bucket", "vault", True),
        ("bucket", "directory", False),
        ("directory", "bucket", True),
        ("share", "directory", True),
    ],
)
def test_a_directory_whose_files_a_thief_can_date_says_nothing_about_a_bucket(
    tmp_path: Path, store: str, other: str, *, counts: bool
) -> None:
    for first, second in ((store, other), (other, store)):
        (tmp_path / "drtool.toml").write_text(CONFIG.format(first=first, second=second))

        assert len(load(tmp_path / "drtool.toml", None, ignore).witnesses(store)) == counts


def test_the_programs_prune_and_status_agree_on_a_copy_that_was_filled_today(tmp_path: Path) -> None:
    two = lay_out(tmp_path)
    (tmp_path / "policy.toml").write_text("[retention]\ndaily = 2\nminimum = 2\nsets_a_day = 2\n")
    two.configure('policy = "policy.toml"')
    taken = [two.take(days_ago=days, seed=days).manifest.set_id for days in (5, 4, 3, 2)]
    for each in taken:
        assert two.drtool("copy", each, "--to", "copy").status == 0
        when = time_of(each).timestamp()
        os.utime(two.path("main", each, MANIFEST), (when, when))

    def freezes() -> list[bool]:
        pruned = two.drtool("prune", "--dry-run", "--json").last["stores"]
        (standing,) = two.drtool("status", "--json").last["instances"]
        (removal,) = [each for each in standing["objectives"] if each["name"] == "removal"]
        found = [bool(each["plan"]["decision"]["freeze"]) for each in pruned]
        assert (removal["verdict"] == "breached") == any(found)
        return found

    assert freezes() == [False, False]
    for each in taken:
        os.utime(two.path("main", each, MANIFEST))
    assert freezes() == [True, True]
