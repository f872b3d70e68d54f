"""What discard promises: one named set goes as a prune would take it, nothing else does, and what must stay stays."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import cast

import pytest

from drtool.catalog import MANIFEST, PIN, REJECTED, SIGNATURE, TOMBSTONE, Catalog
from drtool.core.model import render_manifest
from drtool.core.policy import Retention
from drtool.discard import Discarded, DiscardPlan, MustStay, Place, discard, plan_discard
from drtool.errors import Busy, FormatTooNew, SignatureInvalid, StoreAccessDenied
from drtool.events import ignore
from drtool.locking import locked_until
from drtool.marks import write_tombstone
from drtool.prune import pin
from drtool.report_prune import discard_plan_text, discarded_text
from drtool.stores import Capabilities, Store, WormState
from drtool.stores.faults import FaultyStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.bucket import Bucket, BucketStore
from tests.lives import RETENTION, DatedStore, clock, keys_of, live, make_red, run, set_id, verifier, write_receipt

NIGHTS = range(4)
AHEAD = 400
EVERY = (*NIGHTS, AHEAD)


@pytest.fixture
def catalog() -> Catalog:
    """Four verified nights, of which two must stay, and a set that is dated a year ahead."""
    made = live(NIGHTS)
    sets.commit(made.store, set_id=set_id(AHEAD))
    dated(made).moved[set_id(AHEAD)] = -timedelta(days=AHEAD - 3)
    return made


def dated(catalog: Catalog) -> DatedStore:
    return cast(DatedStore, catalog.store)


def place(retention: Retention = RETENTION) -> Place:
    tokens = iter(f"{number:04x}" for number in range(1000))
    return Place(retention, verifier(), sets.keys().signer, clock(3), ignore, lambda: next(tokens))


def planned(catalog: Catalog, night: int) -> DiscardPlan:
    plan = plan_discard(catalog, set_id(night), place())
    assert plan is not None
    return plan


def discarded(catalog: Catalog, night: int) -> Discarded:
    return discard(catalog, planned(catalog, night), place(), reason="nobody wants it", by="root on gitlab")


def put(catalog: Catalog, night: int, name: str, content: bytes = b"?") -> str:
    key = catalog.key(set_id(night), name)
    catalog.store.put(key, io.BytesIO(content))
    return key


# -- what goes -------------------------------------------------------------------------------------------------------


def future(catalog: Catalog) -> int:
    return AHEAD


def damaged(catalog: Catalog) -> int:
    lost = catalog.read_manifest(set_id(1), None).volumes[0].name
    catalog.store.delete([catalog.key(set_id(1), lost)])
    return 1


def red(catalog: Catalog) -> int:
    make_red(catalog, 1)
    return 1


def good(catalog: Catalog) -> int:
    return 0


def strange(catalog: Catalog) -> int:
    catalog.commit(catalog.read_manifest(set_id(1), None), sets.new_keys().signer)
    return 1


def unsigned(catalog: Catalog) -> int:
    catalog.store.delete([catalog.key(set_id(1), SIGNATURE)])
    return 1


def unreadable(catalog: Catalog) -> int:
    put(catalog, 1, MANIFEST, b"{}")
    return 1


def red_by_a_stranger(catalog: Catalog) -> int:
    make_red(catalog, 1)
    put(catalog, 1, f"{REJECTED}.sig", sets.new_keys().signer.sign(b"?"))
    return 1


def lone_noise(catalog: Catalog) -> int:
    put(catalog, 9, MANIFEST, b"{}")
    return 9


Spoil = Callable[[Catalog], int]
UNWANTED: tuple[Spoil, ...] = (
    future,
    damaged,
    red,
    good,
    strange,
    unsigned,
    unreadable,
    red_by_a_stranger,
    lone_noise,
)


@pytest.mark.parametrize("spoil", UNWANTED)
def test_the_named_set_goes_with_every_object_and_nothing_else_does(catalog: Catalog, spoil: Spoil) -> None:
    night = spoil(catalog)
    others = keys_of(catalog, *EVERY) - keys_of(catalog, night)

    done = discarded(catalog, night)

    assert done.removed and done.problem is None
    assert keys_of(catalog, *EVERY, 9) == others
    assert plan_discard(catalog, set_id(night), place()) is None


@pytest.mark.parametrize("spoil", [future, damaged, strange])
def test_a_receipt_says_who_when_and_why_before_anything_goes(catalog: Catalog, spoil: Spoil) -> None:
    night = spoil(catalog)
    counting = FaultyStore(catalog.store)

    done = discarded(Catalog(counting, sets.INSTANCE), night)

    text, signature = catalog.read_receipt(done.receipt)
    sets.keys().verifier.verify(text, signature, source="")
    said = json.loads(text)
    assert (said["purpose"], said["instance"], said["set_id"]) == ("discard", sets.INSTANCE, set_id(night))
    assert (said["by"], said["reason"]) == ("root on gitlab", "nobody wants it")
    assert datetime.fromisoformat(said["decided_at"]) == clock(3).now()
    changes = [call for call in counting.calls if call.method in ("put", "delete")]
    assert [call.key.rpartition("/")[2] for call in changes[:4]] == [
        f"{TOMBSTONE}.tried",
        done.receipt.rpartition("/")[2] + ".sig",
        done.receipt.rpartition("/")[2],
        TOMBSTONE,
    ]
    gone = {key for call in changes[4:-1] for key in call.key.split()}
    assert gone == {*said["keys"]}
    assert changes[-1].key == catalog.key(set_id(night), TOMBSTONE)


def test_every_removed_key_was_planned_and_lies_in_the_sets_own_folder(catalog: Catalog) -> None:
    """I9, said of every delete there was."""
    for spoil in UNWANTED:
        made = live(NIGHTS)
        sets.commit(made.store, set_id=set_id(AHEAD))
        dated(made).moved[set_id(AHEAD)] = -timedelta(days=AHEAD - 3)
        night = spoil(made)
        counting = FaultyStore(made.store)
        removal = discarded(Catalog(counting, sets.INSTANCE), night).plan.removal

        deleted = {key for call in counting.calls if call.method == "delete" for key in call.key.split()}
        marks = {made.key(set_id(night), name) for name in (TOMBSTONE, f"{TOMBSTONE}.tried")}
        assert deleted - marks == {*removal.volumes, *removal.records}
        assert all(key.startswith(made.key(set_id(night), "")) for key in deleted)


@pytest.mark.parametrize("spoil", [strange, unsigned, unreadable])
def test_of_a_set_that_is_not_believed_only_names_that_a_backup_gives_go(catalog: Catalog, spoil: Spoil) -> None:
    night = spoil(catalog)
    foreign = {put(catalog, night, name) for name in ("notes.txt", "application-0000", "deeper/index.age", "x.tar.age")}

    done = discarded(catalog, night)

    assert keys_of(catalog, night) == foreign == {*done.plan.left}
    assert done.plan.doubt and done.plan.state == "unknown"
    text = discard_plan_text(set_id(night), [done.plan])
    assert "notes.txt" in text and "not believed" in text and done.plan.doubt in text
    assert "notes.txt" in discarded_text([done])


def test_what_a_forged_manifest_names_is_no_reason_to_delete_it(catalog: Catalog) -> None:
    manifest = catalog.read_manifest(set_id(1), None)
    first = manifest.archives[0]
    bent = dataclasses.replace(first, volumes=(dataclasses.replace(first.volumes[0], name="notes.txt"),))
    text = render_manifest(dataclasses.replace(manifest, archives=(bent,)))
    put(catalog, 1, MANIFEST, text)
    put(catalog, 1, SIGNATURE, sets.new_keys().signer.sign(text))
    notes = put(catalog, 1, "notes.txt")

    discarded(catalog, 1)

    assert keys_of(catalog, 1) == {notes}


def test_a_set_that_a_trusted_key_signed_goes_by_its_manifest_alone(catalog: Catalog) -> None:
    foreign = put(catalog, AHEAD, "application-9999.tar.age")

    assert discarded(catalog, AHEAD).plan.left == (foreign,)
    assert keys_of(catalog, AHEAD) == {foreign}


def test_a_discard_that_had_begun_is_finished_by_the_same_command(catalog: Catalog) -> None:
    write_tombstone(catalog, set_id(AHEAD), sets.NIGHT, "?")
    for name in (MANIFEST, *(volume.name for volume in catalog.read_manifest(set_id(AHEAD), None).volumes)):
        catalog.store.delete([catalog.key(set_id(AHEAD), name)])

    assert discarded(catalog, AHEAD).removed
    assert keys_of(catalog, AHEAD) == set()


@pytest.mark.parametrize("night", [8, 9])
def test_what_has_no_record_is_no_set_and_is_not_touched(catalog: Catalog, night: int) -> None:
    put(catalog, 9, "application-0000.tar.age")

    assert plan_discard(catalog, set_id(night), place()) is None


# -- what must stay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [future, damaged, strange])
def test_a_pinned_set_stays_and_the_pin_is_told(catalog: Catalog, spoil: Spoil) -> None:
    night = spoil(catalog)
    pin(catalog, set_id(night), reason="evidence", by="root", clock=clock(3))

    with pytest.raises(MustStay, match=r"pinned .*evidence") as caught:
        planned(catalog, night)
    assert f"drtool unpin {set_id(night)}" in caught.value.hint


def test_a_pin_that_cannot_be_read_keeps_a_set_too(catalog: Catalog) -> None:
    put(catalog, AHEAD, PIN, b"\xff")

    with pytest.raises(MustStay, match="pinned"):
        planned(catalog, AHEAD)


def test_the_newest_verified_set_stays(catalog: Catalog) -> None:
    with pytest.raises(MustStay, match="newest verified") as caught:
        planned(catalog, 3)
    assert caught.value.hint


def test_the_minimum_of_verified_sets_stays(catalog: Catalog) -> None:
    for night in (0, 1):
        assert discarded(catalog, night).removed
    with pytest.raises(MustStay, match="fewer than the minimum of 2"):
        planned(catalog, 2)
    with pytest.raises(MustStay, match="fewer than the minimum of 9"):
        plan_discard(live(NIGHTS), set_id(0), place(Retention(minimum=9)))
    assert discarded(catalog, AHEAD).removed  # what does not count is not needed


def test_a_set_of_a_newer_drtool_is_signed_and_good_and_not_ours_to_judge(catalog: Catalog) -> None:
    text = b'{"format": 2}'
    put(catalog, 1, MANIFEST, text)
    put(catalog, 1, SIGNATURE, sets.keys().signer.sign(text))

    with pytest.raises(FormatTooNew):
        planned(catalog, 1)


def test_a_locked_set_stays_where_a_delete_would_only_hide_it() -> None:
    bucket = Bucket("main", clock(3))
    locking = Catalog(
        cast(Store, BucketStore(bucket, "host")), sets.INSTANCE, lock=lambda _: clock(3).now() + timedelta(days=9)
    )
    plain = live(NIGHTS)
    for info in plain.store.list(""):
        locked = info.key.endswith("/index.age") and set_id(0) in info.key
        until = locking.lock_until(set_id(0)) if locked else None
        locking.put_bytes(info.key, sets.content(plain.store, info.key), lock_until=until)
    before = bucket.keys("")

    with pytest.raises(MustStay, match=r"locked .* until 2026-01-25") as caught:
        planned(locking, 0)
    assert caught.value.hint and bucket.keys("") == before


class WormStore(MemoryStore):
    """A bucket with a retention policy."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = Capabilities(lock="bucket")

    state = WormState("locked", timedelta(days=30))

    def worm_state(self) -> WormState:
        return self.state


def test_a_bucket_that_locks_as_a_whole_says_until_when() -> None:
    store = WormStore()
    info = store.put("gitlab/a", io.BytesIO(b"a"))
    catalog = Catalog(store, sets.INSTANCE)

    assert locked_until(catalog, [info]) == info.modified_at + timedelta(days=30)
    store.state = WormState("in progress", timedelta(days=30))
    assert locked_until(catalog, [info]) is None
    assert locked_until(Catalog(MemoryStore(), sets.INSTANCE), [info]) is None


def test_a_pin_that_comes_while_it_runs_is_honoured(catalog: Catalog) -> None:
    class Meddling(FaultyStore):
        def put(self, key, source, **more):  # type: ignore[no-untyped-def]  # as a test wants it
            if key.endswith(TOMBSTONE):
                pin(catalog, set_id(AHEAD), reason="wait", by="root", clock=clock(3))
            return super().put(key, source, **more)

    before = keys_of(catalog, AHEAD)
    done = discarded(Catalog(Meddling(catalog.store), sets.INSTANCE), AHEAD)

    assert not done.removed and isinstance(done.problem, MustStay)
    assert keys_of(catalog, AHEAD) == before | {catalog.key(set_id(AHEAD), PIN)}


def test_what_changed_since_somebody_was_asked_is_not_removed(catalog: Catalog) -> None:
    plan = planned(catalog, 1)
    foreign = put(catalog, 1, "notes.txt")

    with pytest.raises(Busy, match="changed") as caught:
        discard(catalog, plan, place(), reason="?", by="root")
    assert caught.value.hint and foreign in keys_of(catalog, 1)
    assert not catalog.receipts("discard-")


# -- what the store refuses ------------------------------------------------------------------------------------------


def test_a_set_whose_every_object_the_store_keeps_stays_a_set_and_that_is_told(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: set_id(AHEAD) in key and TOMBSTONE not in key
    before = keys_of(catalog, AHEAD)

    done = discarded(catalog, AHEAD)

    assert not done.removed and done.problem and done.problem.exit_status == 11
    assert keys_of(catalog, AHEAD) == before
    assert "stays" in discarded_text([done])


def test_without_the_right_to_delete_nothing_is_written_either(catalog: Catalog) -> None:
    dated(catalog).refused = lambda key: True
    before = {info.key for info in catalog.store.list("")}

    with pytest.raises(StoreAccessDenied):
        discarded(catalog, AHEAD)
    assert {info.key for info in catalog.store.list("")} == before


def test_a_receipt_that_was_changed_is_seen(catalog: Catalog) -> None:
    text, signature = catalog.read_receipt(discarded(catalog, AHEAD).receipt)
    with pytest.raises(SignatureInvalid):
        sets.keys().verifier.verify(text.replace(b"nobody", b"everybody"), signature, source="")


def test_a_prune_goes_on_as_before_without_the_discarded_set(catalog: Catalog) -> None:
    discarded(catalog, AHEAD)
    other = sets.commit(catalog.store, set_id=set_id(4))
    write_receipt(catalog, other.manifest)

    assert run(catalog, 4).removed == (set_id(0), set_id(1), set_id(2))
