"""A set that is there already and not whole: what is missing is sent again, and to mend it, what was changed too."""

from __future__ import annotations

import io
import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from drtool.catalog import MANIFEST, SIGNATURE, Catalog
from drtool.copy import Copied, copy
from drtool.errors import ObjectExists, SetDamaged, StoreAccessDenied, StoreTransient
from drtool.events import ignore
from drtool.locking import lock_rule
from drtool.report import copied_text
from drtool.stores import Store
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from drtool.verify import verify
from tests import sets
from tests.oss_server import OssServer
from tests.oss_server.state import Bucket

if TYPE_CHECKING:
    from tests.servers import S3Server

Harm = Callable[[Store, str], None]


def delete(store: Store, key: str) -> None:
    store.delete([key])


def cut(store: Store, key: str) -> None:
    sets.replace(store, key, sets.content(store, key)[:-1])


def flip(store: Store, key: str) -> None:
    content = sets.content(store, key)
    sets.replace(store, key, content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture
def committed() -> sets.Committed:
    return sets.commit(MemoryStore(name="first"))


@pytest.fixture
def other(committed: sets.Committed) -> MemoryStore:
    store = MemoryStore(name="elsewhere")
    make(committed, store)
    return store


def make(committed: sets.Committed, store: Store, *, mend: bool = False) -> Copied:
    return copy(committed.open(), Catalog(store, sets.INSTANCE), clock=sets.StillClock(), emit=ignore, mend=mend)


def content(store: Store) -> dict[str, bytes]:
    return {info.key: sets.content(store, info.key) for info in store.list("")}


def is_whole(committed: sets.Committed, store: Store) -> bool:
    opened = sets.Committed(Catalog(store, sets.INSTANCE), committed.manifest, {}, committed.keys).open()
    found = verify(opened, "digest", signed=True, clock=sets.StillClock(), emit=ignore)
    return not found.problems and content(store) == content(committed.catalog.store)


@pytest.mark.parametrize("harm", [delete, cut, flip])
def test_a_mended_set_verifies_and_what_was_wrong_is_said(
    committed: sets.Committed, other: MemoryStore, harm: Harm
) -> None:
    volume = committed.manifest.volumes[1]
    harm(other, committed.catalog.key(sets.SET_ID, volume.name))

    mended = make(committed, other, mend=True)

    assert is_whole(committed, other)
    assert (mended.was_there, mended.looked_at, mended.sent) == (True, "bytes", 1)
    assert mended.bytes_sent == volume.stored_size
    assert [volume.name in each for each in mended.wrong] == [True]
    assert f"mended in elsewhere: 1 volumes, {volume.stored_size / 1024:.1f} KiB sent" in copied_text(mended)
    assert mended.wrong[0] in copied_text(mended)


@pytest.mark.parametrize("harm", [delete, cut])
def test_what_a_look_at_sizes_shows_is_sent_again_unasked(
    committed: sets.Committed, other: MemoryStore, harm: Harm
) -> None:
    volumes = committed.manifest.volumes
    for volume in (volumes[0], volumes[-1]):
        harm(other, committed.catalog.key(sets.SET_ID, volume.name))

    mended = make(committed, other)

    assert is_whole(committed, other)
    assert (mended.sent, len(mended.wrong), mended.looked_at) == (2, 2, "sizes")


def test_nothing_is_claimed_of_bytes_that_were_not_read(committed: sets.Committed, other: MemoryStore) -> None:
    flip(other, committed.catalog.key(sets.SET_ID, committed.manifest.volumes[0].name))

    looked = make(committed, other)

    assert (looked.sent, looked.wrong, looked.looked_at) == (0, (), "sizes")
    assert "--mend reads them too" in copied_text(looked)
    assert not is_whole(committed, other)


def test_an_intact_set_is_read_and_nothing_is_sent(committed: sets.Committed, other: MemoryStore) -> None:
    counting = FaultyStore(other)

    mended = make(committed, counting, mend=True)

    assert not [call for call in counting.calls if call.method in ("put", "delete")]
    assert (mended.sent, mended.wrong) == (0, ())
    assert "all of it read; nothing had to be sent" in copied_text(mended)


def test_a_missing_signature_comes_back(committed: sets.Committed, other: MemoryStore) -> None:
    delete(other, committed.catalog.key(sets.SET_ID, SIGNATURE))

    mended = make(committed, other)

    assert is_whole(committed, other)
    assert [SIGNATURE in each for each in mended.wrong] == [True]


def test_a_changed_signature_is_replaced_only_to_mend(committed: sets.Committed, other: MemoryStore) -> None:
    """Unasked, nobody may have checked the one that would come: --unsigned."""
    flip(other, committed.catalog.key(sets.SET_ID, SIGNATURE))
    before = content(other)

    with pytest.raises(ObjectExists, match=SIGNATURE):
        make(committed, other)
    assert content(other) == before

    assert len(make(committed, other, mend=True).wrong) == 1
    assert is_whole(committed, other)


def test_a_set_with_another_manifest_is_not_mended(committed: sets.Committed) -> None:
    other = sets.commit(MemoryStore(), seed=1).catalog.store
    before = content(other)

    with pytest.raises(ObjectExists, match="another set's"):
        make(committed, other, mend=True)

    assert content(other) == before


def test_damage_of_the_source_replaces_nothing(committed: sets.Committed, other: MemoryStore) -> None:
    volume = committed.manifest.volumes[1]
    key = committed.catalog.key(sets.SET_ID, volume.name)
    flip(committed.catalog.store, key)
    cut(other, key)
    before = content(other)

    with pytest.raises(SetDamaged, match=volume.name):
        make(committed, other, mend=True)

    assert content(other) == before


@pytest.mark.parametrize("error", [Crash, StoreTransient])
def test_mending_that_dies_at_any_call_is_finished_by_the_next(
    committed: sets.Committed, error: type[BaseException]
) -> None:
    for nth in itertools.count(1):
        other = MemoryStore()
        make(committed, other)
        delete(other, committed.catalog.key(sets.SET_ID, committed.manifest.volumes[0].name))
        flip(other, committed.catalog.key(sets.SET_ID, committed.manifest.volumes[1].name))
        faulty = FaultyStore(other)
        faulty.fail_at(nth, "during", error("it broke"))
        try:
            make(committed, faulty, mend=True)
        except (Crash, StoreTransient):
            assert Catalog(other, sets.INSTANCE).set_ids() == [sets.SET_ID]
        if not faulty.fired:
            break
        make(committed, other, mend=True)
        assert is_whole(committed, other)
    assert nth > len(committed.manifest.volumes)


# -- locks -----------------------------------------------------------------------------------------------------------


class Now(sets.StillClock):
    def __init__(self) -> None:
        super().__init__(datetime.now(UTC))


@pytest.mark.engine("seaweedfs")
def test_over_a_locked_volume_a_new_version_is_put_and_locked_as_long_as_the_set_is(s3_http: S3Server) -> None:
    bucket = f"mended-{uuid.uuid4().hex[:12]}"
    s3_http.store().client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = s3_http.store(bucket=bucket, object_lock="governance", versioned=True)
    committed = sets.commit(MemoryStore(), set_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-7f3a")
    set_id, catalog = committed.manifest.set_id, Catalog(store, sets.INSTANCE, lock=lock_rule(timedelta(days=2), Now()))
    copy(committed.open(), catalog, clock=Now(), emit=ignore)
    longer = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    store.extend_lock(catalog.key(set_id, MANIFEST), longer)  # as prune does for what stays
    keys = [catalog.key(set_id, volume.name) for volume in committed.manifest.volumes[:2]]
    delete(store, keys[0])
    store.put(keys[1], io.BytesIO(b"not what was there"))

    mended = copy(committed.open(), catalog, clock=Now(), emit=ignore, mend=True)

    assert (mended.sent, len(mended.wrong)) == (2, 2)
    assert content(store) == content(committed.catalog.store)
    assert [store.locked_until(key) for key in keys] == [longer, longer]


def test_a_volume_that_a_bucket_does_not_let_be_replaced_is_told_as_such(
    oss_http: OssServer, committed: sets.Committed
) -> None:
    oss_http.reset()
    oss_http.service.buckets["kept"] = Bucket("kept", oss_http.service.clock.now())
    store = oss_http.store("kept", worm=True)
    make(committed, store)
    flip(store, committed.catalog.key(sets.SET_ID, committed.manifest.volumes[1].name))
    store.client.complete_bucket_worm(store.client.init_bucket_worm(30).worm_id)

    with pytest.raises(StoreAccessDenied, match="cannot be replaced") as refused:
        make(committed, store, mend=True)

    assert committed.manifest.volumes[1].name in str(refused.value)
    assert f"drtool copy {sets.SET_ID} --to NAME" in refused.value.hint
    oss_http.reset()
