"""What prune promises: only what was decided, only keys that a manifest of ours names, and every refusal is told."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from datetime import timedelta

import pytest

from drtool.catalog import MANIFEST, PIN, PIN_SIGNATURE, SIGNATURE, TOMBSTONE, Catalog
from drtool.choosing import resolve
from drtool.copy import copy
from drtool.core.policy import Retention
from drtool.errors import ConfigError, ObjectExists, SetDamaged, SetMissing, StoreAccessDenied
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.listing import list_rows
from drtool.marks import Pin, write_pin, write_tombstone
from drtool.prune import list_pins, pin, unpin
from drtool.removing import RemovalRefused
from drtool.report_prune import pin_text, pins_text, pruned_text, unpin_text
from drtool.signing import Verifier
from drtool.stores.faults import FaultyStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.lives import DatedStore, clock, keys_of, live, make_red, run, set_id, verifier, write_receipt

NIGHTS = range(4)


@pytest.fixture
def catalog() -> Catalog:
    """Four verified nights, of which RETENTION keeps the last two."""
    return live(NIGHTS)


def dated(catalog: Catalog) -> DatedStore:
    assert isinstance(catalog.store, DatedStore)
    return catalog.store


def put(catalog: Catalog, night: int, name: str, content: bytes = b"?") -> str:
    key = catalog.key(set_id(night), name)
    catalog.store.put(key, io.BytesIO(content))
    return key


# -- what goes -------------------------------------------------------------------------------------------------------


def test_prune_removes_what_was_decided_and_every_object_of_it(catalog: Catalog) -> None:
    kept = keys_of(catalog, 2, 3)

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(0), set_id(1)) == pruned.plan.decision.removed
    assert pruned.problems == () and pruned.freed > 0
    assert catalog.set_ids() == [set_id(2), set_id(3)]
    assert keys_of(catalog, *NIGHTS) == kept
    assert len(catalog.receipts("")) == 4  # evidence stays


def test_pruning_again_removes_nothing(catalog: Catalog) -> None:
    run(catalog, 3)
    counting = FaultyStore(catalog.store)

    assert run(Catalog(counting, sets.INSTANCE), 3).removed == ()
    assert not [call for call in counting.calls if call.method in ("put", "delete")]


def test_dry_run_changes_nothing_and_plans_the_same(catalog: Catalog) -> None:
    counting = FaultyStore(catalog.store)

    tried = run(Catalog(counting, sets.INSTANCE), 3, dry_run=True)

    assert not [call for call in counting.calls if call.method in ("put", "delete")]
    assert tried.removed == () and tried.dry_run
    assert tried.plan == run(catalog, 3).plan


def test_the_tombstone_comes_first_and_the_manifest_goes_after_the_volumes(catalog: Catalog) -> None:
    counting = FaultyStore(catalog.store)

    pruned = run(Catalog(counting, sets.INSTANCE), 3)

    removal = pruned.plan.removals[0]
    of_set = [call for call in counting.calls if call.method in ("put", "delete") and set_id(0) in call.key]
    tombstone = catalog.key(set_id(0), TOMBSTONE)
    assert [(call.method, call.key) for call in of_set] == [
        ("delete", f"{tombstone}.tried"),
        ("put", tombstone),
        ("delete", " ".join(removal.volumes)),
        ("delete", catalog.key(set_id(0), MANIFEST)),
        ("delete", catalog.key(set_id(0), SIGNATURE)),
        ("delete", tombstone),
    ]


def test_red_sets_go_by_their_own_manifest(catalog: Catalog) -> None:
    make_red(catalog, 0)

    pruned = run(catalog, 3)

    assert set_id(0) in pruned.removed
    assert keys_of(catalog, 0) == set()
    assert pruned.plan.decision.choices[0].reasons == ("red, 3 days older than the newest verified",)


def test_only_verified_sets_count(catalog: Catalog) -> None:
    other = live(NIGHTS, verified=[0, 1])

    pruned = run(other, 3)

    assert pruned.removed == ()
    assert [choice.state for choice in pruned.plan.decision.choices] == ["verified"] * 2 + ["unverified"] * 2


def test_an_empty_policy_removes_nothing(catalog: Catalog) -> None:
    assert run(catalog, 3, Retention()).removed == ()


# -- what stays ------------------------------------------------------------------------------------------------------


def test_foreign_objects_stay_and_are_told(catalog: Catalog) -> None:
    foreign = {
        put(catalog, 0, "notes.txt"),
        put(catalog, 0, "deeper/manifest.json"),
        put(catalog, 3, "application-0000"),
    }
    elsewhere = {put(catalog, 9, "application-0000.tar.age"), *keys_of(catalog, 9)}
    other = sets.commit(catalog.store, instance="gitlab-eu", set_id=set_id(0)).object_keys

    pruned = run(catalog, 3)

    assert {*pruned.plan.foreign} == foreign
    assert foreign - keys_of(catalog, 3) == keys_of(catalog, 0)
    assert pruned.plan.unfinished == (set_id(9),)
    assert elsewhere == keys_of(catalog, 9)
    assert {*other} <= {info.key for info in catalog.store.list("gitlab-eu/")}
    assert "notes.txt" in pruned_text(pruned) and set_id(9) in pruned_text(pruned)


def test_a_manifest_that_is_not_signed_by_ours_is_no_reason_to_delete(catalog: Catalog) -> None:
    stranger = sets.new_keys()
    folder = keys_of(catalog, 0)
    manifest = catalog.read_manifest(set_id(0), None)
    catalog.commit(dataclasses.replace(manifest, tool="somebody"), stranger.signer)

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(1),)
    assert pruned.plan.decision.choices[0].reasons == ("not known to be ours",)
    assert "the signature does not fit" in pruned.plan.doubts[0] and pruned.plan.doubts[0] in pruned_text(pruned)
    assert keys_of(catalog, 0) == folder


def test_a_manifest_that_names_its_own_records_as_volumes_is_not_believed(catalog: Catalog) -> None:
    manifest = catalog.read_manifest(set_id(0), None)
    first = manifest.archives[0]
    bent = dataclasses.replace(first, volumes=(dataclasses.replace(first.volumes[0], name=PIN), *first.volumes[1:]))
    catalog.commit(dataclasses.replace(manifest, archives=(bent,)), sets.keys().signer)

    assert set_id(0) not in run(catalog, 3).removed


def test_a_set_that_lost_a_volume_does_not_count(catalog: Catalog) -> None:
    lost = catalog.read_manifest(set_id(3), None).volumes[0].name
    catalog.store.delete([catalog.key(set_id(3), lost)])

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(0),)
    assert [choice.state for choice in pruned.plan.decision.choices][-1] == "damaged"


def test_locked_sets_stay_as_long_as_the_policy_says(catalog: Catalog) -> None:
    assert run(catalog, 3, locked_for=timedelta(days=9)).removed == ()
    assert run(catalog, 3, locked_for=timedelta(days=2)).removed == (set_id(0), set_id(1))


def test_a_frozen_prune_removes_nothing_and_says_why(catalog: Catalog) -> None:
    for night in (4, 5):
        shrunk = sets.commit(catalog.store, set_id=set_id(night), archives={"application": sets.tar_of({"a": b"b"})})
        write_receipt(catalog, shrunk.manifest)

    pruned = run(catalog, 5)

    assert pruned.removed == () and pruned.plan.removals == ()
    assert "frozen" in pruned_text(pruned) and set_id(5) in pruned_text(pruned)
    pin(
        catalog,
        set_id(4),
        reason="projects archived",
        by="root",
        clock=clock(5),
        signer=sets.keys().signer,
        baseline=True,
    )
    assert run(catalog, 5).removed == tuple(set_id(night) for night in NIGHTS)


# -- what the store refuses ------------------------------------------------------------------------------------------


def test_a_locked_object_is_a_problem_and_the_others_still_go(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: set_id(0) in key and "tar" in key
    before = keys_of(catalog, 0)

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(1),)
    assert [type(problem) for problem in pruned.problems] == [RemovalRefused]
    assert "locked" in str(pruned.problems[0]) and pruned.problems[0].hint
    assert keys_of(catalog, 0) - {catalog.key(set_id(0), TOMBSTONE)} < before
    assert catalog.set_ids() == [set_id(2), set_id(3)]  # a set without its index is none
    dated(catalog).refused = lambda key: False
    assert run(catalog, 3).removed == (set_id(0),)
    assert keys_of(catalog, 0) == set()


def test_a_set_whose_every_object_is_locked_stays_a_set(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: set_id(0) in key and TOMBSTONE not in key
    before = keys_of(catalog, 0)

    for _ in range(2):  # it is tried again, and not worse for it
        pruned = run(catalog, 3)

        assert "stays" in str(pruned.problems[0])
        assert set_id(0) in catalog.set_ids()
        assert keys_of(catalog, 0) == before
    assert "1 more was to go" in pruned_text(pruned)


def test_without_the_right_to_delete_no_set_is_touched(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: True
    before = keys_of(catalog, *NIGHTS)

    pruned = run(catalog, 3)

    assert [type(problem) for problem in pruned.problems] == [StoreAccessDenied]
    assert pruned.removed == ()
    assert keys_of(catalog, *NIGHTS) == before


def test_a_bucket_that_locks_the_tombstone_itself_is_no_problem(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: key.endswith(TOMBSTONE)

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(0), set_id(1)) and pruned.problems == ()
    again = run(catalog, 3)
    assert again.removed == () and again.problems == ()
    dated(catalog).refused = lambda key: False
    run(catalog, 3)
    assert keys_of(catalog, 0, 1) == set()


# -- tombstones ------------------------------------------------------------------------------------------------------


def test_a_set_with_a_tombstone_is_no_set(catalog: Catalog) -> None:
    write_tombstone(catalog, set_id(3), sets.NIGHT, "no rule keeps it")

    assert resolve(catalog, "latest", clock(3).now(), ignore) == set_id(2)
    listed = list_rows(catalog, verifier(), clock(3).now())
    assert [row.set_id for row in listed if row.being_removed] == [set_id(3)]
    for name in (set_id(3), set_id(3)[:-1]):
        with pytest.raises(SetMissing):
            resolve(catalog, name, clock(3).now(), ignore)
    with pytest.raises(SetMissing, match="being removed"):
        resolve(catalog, set_id(3), clock(3).now(), ignore)


def test_a_tombstone_alone_removes_nothing(catalog: Catalog) -> None:
    """Who may write to the store, and not delete, must not make us delete for him."""
    before = keys_of(catalog, *NIGHTS)
    for night in NIGHTS:
        write_tombstone(catalog, set_id(night), sets.NIGHT, "by somebody")

    pruned = run(catalog, 3, Retention(daily=9, minimum=2))

    assert pruned.removed == ()
    assert pruned.plan.withdrawn == tuple(set_id(night) for night in NIGHTS)
    assert keys_of(catalog, *NIGHTS) == before


def test_a_tombstone_that_cannot_be_taken_back_is_told(catalog: Catalog) -> None:
    write_tombstone(catalog, set_id(3), sets.NIGHT, "by somebody")
    dated(catalog).refused = lambda key: key == catalog.key(set_id(3), TOMBSTONE)

    pruned = run(catalog, 3)

    assert "in no list because of a tombstone" in str(pruned.problems[0])
    assert len(pruned.problems) == 2 and isinstance(pruned.problems[1], SetMissing)  # the newest must be in the list
    assert pruned.removed == ()


def test_a_copy_into_a_set_that_is_being_removed_is_refused(catalog: Catalog) -> None:
    other = live(NIGHTS)
    write_tombstone(other, set_id(3), sets.NIGHT, "no rule keeps it")
    opened = sets.Committed(catalog, catalog.read_manifest(set_id(3), None), {}, sets.keys()).open()

    with pytest.raises(ObjectExists, match="being removed"):
        copy(opened, other, clock=clock(3), emit=ignore)


# -- what changes while it runs --------------------------------------------------------------------------------------


class Meddling(FaultyStore):
    """Does something right before the first tombstone is written."""

    def __init__(self, catalog: Catalog, meddle: str) -> None:
        super().__init__(catalog.store)
        self.catalog, self.meddle = catalog, meddle

    def put(self, key, source, **more):  # type: ignore[no-untyped-def]  # as a test wants it
        if key.endswith(TOMBSTONE) and self.meddle:
            what, self.meddle = self.meddle, ""
            if what == "pin":
                pin(self.catalog, set_id(0), reason="wait", by="root", clock=clock(3))
            else:
                self.catalog.store.delete([self.catalog.key(set_id(3), what)])
        return super().put(key, source, **more)


def test_a_pin_that_comes_while_a_prune_runs_is_honoured(catalog: Catalog) -> None:
    before = keys_of(catalog, 0)

    pruned = run(Catalog(Meddling(catalog, "pin"), sets.INSTANCE), 3)

    assert pruned.removed == (set_id(1),)
    assert keys_of(catalog, 0) == before | {catalog.key(set_id(0), PIN)}
    assert set_id(0) in catalog.set_ids()


@pytest.mark.parametrize(("lost", "problem"), [(MANIFEST, SetMissing), ("index.age", SetDamaged)])
def test_nothing_more_goes_when_the_newest_verified_set_is_not_whole_any_more(
    catalog: Catalog, lost: str, problem: type[Exception]
) -> None:
    pruned = run(Catalog(Meddling(catalog, lost), sets.INSTANCE), 3)

    assert pruned.removed == (set_id(0),)  # it had begun
    assert [type(found) for found in pruned.problems] == [problem]
    assert set_id(1) in catalog.set_ids()


# -- pins ------------------------------------------------------------------------------------------------------------


def test_a_pinned_set_stays_until_it_is_unpinned(catalog: Catalog) -> None:
    made = pin(catalog, set_id(0), reason="before 18.0", by="root@gitlab", clock=clock(3))

    pruned = run(catalog, 3)

    assert pruned.removed == (set_id(1),)
    assert pruned.plan.decision.choices[0].reasons == ("pinned: before 18.0 (root@gitlab)",)
    assert list_pins(catalog, verifier()) == [made]
    assert unpin(catalog, set_id(0), verifier()) == made
    assert unpin(catalog, set_id(0), verifier()) is None
    assert list_pins(catalog, verifier()) == []
    assert run(catalog, 3).removed == (set_id(0),)


def test_a_pin_that_cannot_be_read_pins_all_the_same(catalog: Catalog) -> None:
    put(catalog, 0, PIN, b"\xff{")

    assert run(catalog, 3).removed == (set_id(1),)
    assert [(found.set_id, found.baseline) for found in list_pins(catalog, verifier())] == [(set_id(0), False)]


def shrunken() -> Catalog:
    """Four good nights and two that hold next to nothing: the prune is frozen."""
    catalog = live(NIGHTS)
    for night in (4, 5):
        shrunk = sets.commit(catalog.store, set_id=set_id(night), archives={"application": sets.tar_of({"a": b"b"})})
        write_receipt(catalog, shrunk.manifest)
    return catalog


def as_baseline(night: int) -> Pin:
    return Pin(set_id(night), "all is as it should be", "root", clock(5).now(), baseline=True)


def sign_a_baseline(catalog: Catalog) -> None:
    write_pin(catalog, as_baseline(4), sets.keys().signer)


def forge_without_signature(catalog: Catalog) -> None:
    write_pin(catalog, as_baseline(4), None)


def forge_with_a_strangers_key(catalog: Catalog) -> None:
    write_pin(catalog, as_baseline(4), sets.new_keys().signer)


def forge_by_changing_the_words(catalog: Catalog) -> None:
    write_pin(catalog, dataclasses.replace(as_baseline(4), baseline=False), sets.keys().signer)
    key = catalog.key(set_id(4), PIN)
    sets.replace(catalog.store, key, sets.content(catalog.store, key).replace(b"false", b"true"))


def forge_from_another_set(catalog: Catalog) -> None:
    write_pin(catalog, as_baseline(3), sets.keys().signer)
    for name in (PIN, PIN_SIGNATURE):
        put(catalog, 4, name, sets.content(catalog.store, catalog.key(set_id(3), name)))
    unpin(catalog, set_id(3), verifier())


def forge_from_another_instance(catalog: Catalog) -> None:
    other = sets.commit(MemoryStore(), instance="gitlab-eu", set_id=set_id(4)).catalog
    write_pin(other, as_baseline(4), sets.keys().signer)
    for name in (PIN, PIN_SIGNATURE):
        put(catalog, 4, name, sets.content(other.store, other.key(set_id(4), name)))


def forge_by_storing_the_set_again(catalog: Catalog) -> None:
    """Its date in the store is what a flood of sets is counted from."""
    write_pin(catalog, as_baseline(4), sets.keys().signer)
    dated(catalog).moved[set_id(4)] = timedelta(days=3)


@pytest.mark.parametrize(
    "forge",
    [
        forge_without_signature,
        forge_with_a_strangers_key,
        forge_by_changing_the_words,
        forge_from_another_set,
        forge_from_another_instance,
        forge_by_storing_the_set_again,
    ],
)
def test_a_baseline_that_no_trusted_key_signed_pins_and_thaws_nothing_and_is_named(
    forge: Callable[[Catalog], None],
) -> None:
    catalog = shrunken()
    forge(catalog)

    pruned = run(catalog, 5)
    (found,) = list_pins(catalog, verifier())

    assert pruned.removed == () and pruned.plan.decision.freeze
    assert any(choice.reasons[0].startswith("pinned") for choice in pruned.plan.decision.choices)
    assert not found.baseline and set_id(4) in found.doubt
    assert pruned.plan.no_baselines == (found.doubt,)
    assert found.doubt in pruned_text(pruned) and found.doubt in pins_text([found])


def test_a_baseline_counts_by_the_signature_of_a_trusted_key_alone() -> None:
    catalog = shrunken()
    sign_a_baseline(catalog)

    pruned = run(catalog, 5)

    assert pruned.removed == tuple(set_id(night) for night in NIGHTS)
    assert pruned.plan.no_baselines == pruned.plan.foreign == ()
    assert "baseline" in pins_text(list_pins(catalog, verifier()))
    no_longer = Verifier((sets.new_keys().public_key,), LocalRunner())
    assert [found.baseline for found in list_pins(catalog, no_longer)] == [False]


def test_a_baseline_without_a_key_to_sign_with_is_refused_before_anything_is_written(catalog: Catalog) -> None:
    before = keys_of(catalog, 0)

    with pytest.raises(ConfigError, match="signing_key") as caught:
        pin(catalog, set_id(0), reason="?", by="root", clock=clock(3), baseline=True)
    assert caught.value.hint
    assert keys_of(catalog, 0) == before


def test_a_pin_s_signature_goes_with_its_pin_and_with_its_set(catalog: Catalog) -> None:
    before = keys_of(catalog, 0)
    pin(catalog, set_id(0), reason="wait", by="root", clock=clock(3), signer=sets.keys().signer)
    assert keys_of(catalog, 0) - before == {catalog.key(set_id(0), PIN), catalog.key(set_id(0), PIN_SIGNATURE)}
    unpin(catalog, set_id(0), verifier())
    assert keys_of(catalog, 0) == before

    put(catalog, 0, PIN_SIGNATURE)  # as a crash leaves it
    pruned = run(catalog, 3)
    assert pruned.plan.foreign == () and keys_of(catalog, 0) == set()


def test_what_is_no_set_or_none_for_long_cannot_be_pinned(catalog: Catalog) -> None:
    with pytest.raises(SetMissing):
        pin(catalog, set_id(9), reason="?", by="root", clock=clock(3))
    assert keys_of(catalog, 9) == set()
    write_tombstone(catalog, set_id(0), sets.NIGHT, "no rule keeps it")
    with pytest.raises(SetMissing, match="being removed"):
        pin(catalog, set_id(0), reason="?", by="root", clock=clock(3))
    assert list_pins(catalog, verifier()) == []


def test_red_sets_can_be_pinned_as_evidence(catalog: Catalog) -> None:
    make_red(catalog, 0)
    pin(catalog, set_id(0), reason="evidence", by="root", clock=clock(3))

    assert run(catalog, 3).removed == (set_id(1),)


def test_texts_say_what_was_done_and_why(catalog: Catalog) -> None:
    made = pin(catalog, set_id(0), reason="before 18.0", by="root", clock=clock(3))
    tried, done = pruned_text(run(catalog, 3, dry_run=True)), pruned_text(run(catalog, 3))

    locked = dataclasses.replace(run(catalog, 3), locked=(set_id(2), set_id(3)))
    assert f"2 sets locked for longer: {set_id(2)}, {set_id(3)}" in pruned_text(locked) and "longer" not in done
    assert "Would remove 1 set, " in tried and "1 set removed" in done
    assert "no rule keeps it" in done and "pinned: before 18.0 (root)" in done and "newest verified" in done
    assert "before 18.0" in pins_text([made]) and set_id(0) in pin_text(made)
    assert "was not pinned" in unpin_text(set_id(0), None) and "before 18.0" in unpin_text(set_id(0), made)
    assert pins_text([]) == "No set is pinned."
    assert "No backup" in pruned_text(run(Catalog(MemoryStore(), "other"), 3))


def test_every_removed_key_was_planned(catalog: Catalog) -> None:
    """I9, said of every delete there was."""
    counting = FaultyStore(catalog.store)

    plan = run(Catalog(counting, sets.INSTANCE), 3).plan

    planned = {key for removal in plan.removals for key in (*removal.volumes, *removal.records)}
    marks = {
        catalog.key(removal.set_id, name) for removal in plan.removals for name in (TOMBSTONE, f"{TOMBSTONE}.tried")
    }
    deleted = {key for call in counting.calls if call.method == "delete" for key in call.key.split()}
    assert deleted == planned | {mark for mark in marks if mark in deleted}
