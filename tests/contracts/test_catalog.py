"""What the catalogue promises about sets on a store."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any, BinaryIO, Literal, cast

import pytest

from drtool.catalog import MANIFEST, SIGNATURE, BackupSet, Catalog, volume_name
from drtool.choosing import resolve
from drtool.copy import copy
from drtool.core.model import Archive, Finding, IndexedMember, Manifest, new_set_id, render_manifest
from drtool.errors import (
    FormatTooNew,
    ObjectMissing,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
    StoreTransient,
)
from drtool.events import Event, Noticed, ignore
from drtool.stores import ObjectInfo, Store
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from drtool.streams import parse_recipients
from tests import sets
from tests.lives import DatedStore

RED = Finding("dump", "the dump is cut off", severity="red")
FIRST, SECOND, THIRD = sets.SET_ID, "20260113T101112Z-aaaa", sets.LATER_SET_ID


@pytest.fixture(scope="module")
def several() -> Catalog:
    """Three sets of one instance, one of another, and what does not count beside them."""
    store = MemoryStore()
    for set_id in (SECOND, THIRD, FIRST):
        sets.commit(store, set_id=set_id)
    sets.commit(store, instance="gitlab-eu", set_id="20260201T000000Z-0000")
    for stray in (
        "gitlab/sets/20260301T000000Z-0000/application-0000.tar.age",
        "gitlab/sets/20260302T000000Z-0000/manifest.json.sig",
        "gitlab/sets/20260303T000000Z-0000/deeper/manifest.json",
        "gitlab/sets/lost-found/manifest.json",
        "gitlab/sets/manifest.json",
        "gitlab/receipts/restore-1.json",
    ):
        store.put(stray, io.BytesIO(b"{}"))
    return Catalog(store, "gitlab")


def small(store: Store) -> sets.Committed:
    return sets.commit(store, archives={"application": sets.tar_of({"a": b"b"})})


def found_in(catalog: Catalog, text: str) -> str:
    """The set that is meant, long after all of these were taken."""
    return resolve(catalog, text, sets.NIGHT + timedelta(days=100), ignore)


# -- which sets there are --------------------------------------------------------------------------------------------


def test_a_set_is_there_when_its_manifest_is_and_oldest_come_first(several: Catalog) -> None:
    assert several.set_ids() == [FIRST, SECOND, THIRD]


def test_an_empty_store_has_no_sets() -> None:
    assert Catalog(MemoryStore(), "gitlab").set_ids() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("latest", THIRD),
        (FIRST, FIRST),
        (FIRST[:-1], FIRST),
        ("20260114", THIRD),
        ("20260113T10", SECOND),
    ],
)
def test_a_set_is_found_by_name_by_its_beginning_or_as_the_latest(several: Catalog, text: str, found: str) -> None:
    assert found_in(several, text) == found


@pytest.mark.parametrize("text", ["2026", "20260113"])
def test_a_beginning_that_fits_several_sets_names_them(several: Catalog, text: str) -> None:
    with pytest.raises(SetMissing, match=FIRST) as caught:
        found_in(several, text)
    assert SECOND in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "2027", "LATEST", "20260301T000000Z-0000", "0113", "*", "../gitlab-eu"])
def test_what_fits_no_set_is_missing(several: Catalog, text: str) -> None:
    with pytest.raises(SetMissing, match="no backup set") as caught:
        found_in(several, text)
    assert caught.value.hint


def test_the_latest_of_no_sets_is_missing() -> None:
    with pytest.raises(SetMissing, match="no backup set of gitlab in memory") as caught:
        found_in(Catalog(MemoryStore(), "gitlab"), "latest")
    assert "drtool backup" in caught.value.hint


def lived(*nights: int) -> Catalog:
    """A store that had each set half an hour after the time in its name; night 0 is the first."""
    catalog = Catalog(DatedStore(MemoryStore()), "gitlab")
    for night in nights:
        catalog.put_bytes(catalog.key(new_set_id(sets.NIGHT + timedelta(days=night), "0000"), MANIFEST), b"{}")
    return catalog


def test_the_latest_is_never_dated_in_the_future_and_who_is_passed_over_is_told() -> None:
    catalog = lived(0, 1, 365, 366)
    seen: list[Event] = []

    found = resolve(catalog, "latest", sets.NIGHT + timedelta(days=1), seen.append)

    first, latest, *_, newest = catalog.set_ids()
    assert found == latest
    assert [event.code for event in seen if isinstance(event, Noticed)] == ["future-set"]
    assert newest in str(seen[0]) and "1 more" in str(seen[0])
    assert resolve(catalog, newest, sets.NIGHT, ignore) == newest  # whoever names one, means it
    assert resolve(catalog, first[:-1], sets.NIGHT, ignore) == first


def test_a_set_that_the_store_had_before_its_own_time_is_never_the_latest() -> None:
    """The clock of its host was a year ahead, and a year is over: it is still not of that day."""
    catalog = lived(0, 365)
    store = cast(DatedStore, catalog.store)
    store.moved[catalog.set_ids()[-1]] = -timedelta(days=365)

    assert resolve(catalog, "latest", sets.NIGHT + timedelta(days=400), ignore) == catalog.set_ids()[0]


@pytest.mark.parametrize(("ahead", "counts"), [(timedelta(hours=1), True), (timedelta(hours=1, seconds=1), False)])
def test_clocks_may_differ_by_an_hour_before_a_set_is_of_the_future(ahead: timedelta, counts: bool) -> None:
    catalog = lived(0, 1)

    found = resolve(catalog, "latest", sets.NIGHT + timedelta(days=1) - ahead, ignore)

    assert (found == catalog.set_ids()[-1]) is counts


def test_where_all_sets_are_dated_in_the_future_none_is_the_latest_and_the_clock_is_told() -> None:
    catalog = lived(1, 2)

    with pytest.raises(SetMissing, match=f"in the future: {catalog.set_ids()[-1]} and 1 more") as caught:
        resolve(catalog, "latest", sets.NIGHT, ignore)
    assert "2026-01-13 03:15 UTC" in caught.value.hint and "name the set" in caught.value.hint


# -- committing ------------------------------------------------------------------------------------------------------


def test_volumes_come_before_the_signature_and_the_manifest_comes_last() -> None:
    store = FaultyStore(MemoryStore())
    sets.commit(store)
    puts = [call.key.rpartition("/")[2] for call in store.calls if call.method == "put"]
    assert puts[-3:] == ["index.age", SIGNATURE, MANIFEST]
    assert all(".tar" in name for name in puts[:-3])
    assert [call.method for call in store.calls[-2:]] == ["open", "open"]


def test_a_commit_is_read_back() -> None:
    committed = small(MemoryStore())
    texts = committed.catalog.read_commit(FIRST)
    assert texts[MANIFEST] == render_manifest(committed.manifest)
    committed.keys.verifier.verify(texts[MANIFEST], texts[SIGNATURE], source="")
    assert committed.open().manifest == committed.manifest


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
@pytest.mark.parametrize("how", ["cut", "changed", "stale"])
def test_a_store_that_reads_back_something_else_fails_the_commit(name: str, how: str) -> None:
    store = LyingStore(f"/{name}", how)
    with pytest.raises(StoreError, match="reads back differently") as caught:
        small(store)
    assert caught.value.hint


@pytest.mark.parametrize("error", [StoreError("told to fail"), Crash()], ids=repr)
@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("last", [1, 2], ids=["manifest", "signature"])
def test_a_commit_that_fails_before_its_manifest_is_stored_makes_no_set(
    last: int, when: Literal["before", "during"], error: BaseException
) -> None:
    counting = FaultyStore(MemoryStore())
    small(counting)
    puts = sum(call.method == "put" for call in counting.calls)
    inner = MemoryStore()
    store = FaultyStore(inner)
    store.fail_at(puts + 1 - last, when, error, method="put")
    with pytest.raises(type(error)):
        small(store)
    assert Catalog(inner, "gitlab").set_ids() == []
    with pytest.raises(SetMissing):
        Catalog(inner, "gitlab").read_manifest(FIRST, None)


def test_a_volume_of_which_the_store_holds_another_size_fails_at_once() -> None:
    with pytest.raises(StoreError, match="the store holds"):
        small(LosingBytes())


# -- reading a manifest ----------------------------------------------------------------------------------------------


def place(store: Store, manifest: Manifest, *, instance: str, set_id: str, keys: sets.Keys) -> None:
    """Put a manifest, well signed, where another one belongs."""
    text = render_manifest(manifest)
    folder = f"{instance}/sets/{set_id}"
    sets.replace(store, f"{folder}/{SIGNATURE}", keys.signer.sign(text))
    sets.replace(store, f"{folder}/{MANIFEST}", text)


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("other", ["set", "instance"])
def test_a_signed_manifest_in_anothers_place_is_damage(other: str, verified: bool) -> None:
    store = MemoryStore()
    committed = small(store)
    theirs = committed.manifest
    changed = replace(theirs, set_id=SECOND) if other == "set" else replace(theirs, instance="gitlab-eu")
    place(store, changed, instance="gitlab", set_id=FIRST, keys=committed.keys)
    with pytest.raises(SetDamaged, match="another's place"):
        committed.catalog.read_manifest(FIRST, committed.keys.verifier if verified else None)


def test_a_manifest_signed_by_a_stranger_is_refused_and_still_listed() -> None:
    store = MemoryStore()
    committed = small(store)
    place(store, committed.manifest, instance="gitlab", set_id=FIRST, keys=sets.new_keys())
    with pytest.raises(SignatureInvalid):
        committed.open()
    assert committed.catalog.read_manifest(FIRST, None) == committed.manifest


def test_a_missing_set_is_missing_and_not_damaged() -> None:
    with pytest.raises(SetMissing, match=SECOND):
        small(MemoryStore()).catalog.read_manifest(SECOND, None)


def test_a_manifest_of_a_newer_format_is_told_as_such_in_listings_too() -> None:
    store = MemoryStore()
    committed = small(store)
    sets.replace(store, committed.catalog.key(FIRST, MANIFEST), b'{"format": 2, "everything": "else"}')
    with pytest.raises(FormatTooNew):
        committed.catalog.read_manifest(FIRST, None)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_a_huge_object_in_a_small_ones_place_is_not_read_whole(name: str) -> None:
    store = Endless()
    committed = small(store)
    store.endless = f"/{name}"
    with pytest.raises(SetDamaged, match="far too large"):
        committed.open()
    assert store.read <= 66 << 20


# -- reading what is in a set ----------------------------------------------------------------------------------------


def test_a_set_reads_back_as_it_was_written() -> None:
    committed = sets.commit(MemoryStore(), seed=9)
    opened = committed.open()
    for name, plain in committed.plain.items():
        assert opened.read_archive(name).read() == plain
    assert [member.name for member in opened.read_index()["config"]] == [
        "etc/gitlab/gitlab.rb",
        "etc/gitlab/gitlab-secrets.json",
    ]


def test_the_index_tells_where_every_members_bytes_lie() -> None:
    committed = sets.commit(MemoryStore())
    opened = committed.open()
    plain = opened.read_archive("config").read()
    rb = opened.read_index()["config"][0]
    assert plain[rb.offset : rb.offset + rb.size] == b"external_url 'https://gitlab.example.com'\n"


def test_nothing_of_a_sealed_set_lies_in_clear() -> None:
    store = MemoryStore()
    committed = sets.commit(store)
    for key in committed.object_keys:
        content = sets.content(store, key)
        for told in (b"gitlab-secrets", b"@hashed", b"external_url", b"backup_information"):
            assert told not in content, key


def test_a_set_in_clear_needs_no_identity_but_its_config_does() -> None:
    committed = sets.commit(MemoryStore(), seal="none")
    opened = BackupSet(committed.catalog, committed.manifest)
    assert opened.read_archive("application").read() == committed.plain["application"]
    assert opened.read_index()
    assert committed.manifest.archive("config").seal == "age"


def test_an_archive_is_read_by_any_pattern_of_reads() -> None:
    committed = sets.commit(MemoryStore())
    stream = committed.open().read_archive("application")
    parts = [stream.read(size) for size in (1, 511, 0, 20_000)]
    assert parts[2] == b""
    assert b"".join([*parts, stream.read()]) == committed.plain["application"]


def test_every_stored_byte_of_an_archive_is_told() -> None:
    committed = sets.commit(MemoryStore())
    seen: list[int] = []
    committed.open().read_archive("application", seen.append).read()
    assert sum(seen) == len(committed.plain["application"])


def test_no_last_byte_of_a_volume_is_given_before_the_volume_is_proven() -> None:
    store = MemoryStore()
    committed = sets.commit(store, seal="none")
    name = committed.manifest.archive("application").volumes[0].name
    key = committed.catalog.key(FIRST, name)
    sets.replace(store, key, sets.content(store, key)[:-1] + b"!")
    stream = BackupSet(committed.catalog, committed.manifest).read_archive("application")
    with pytest.raises(SetDamaged):
        stream.read(1)


@pytest.mark.parametrize("text", [b"", b"not zlib", zlib.compress(b"[1]"), zlib.compress(b'{"a": [[1]]}')])
def test_an_index_that_is_none_is_damage(text: bytes) -> None:
    catalog = Catalog(MemoryStore(), "gitlab")
    stored = catalog.put_volume(FIRST, "index", io.BytesIO(text), ())
    index = Archive("index", "none", (), 0, (stored,))
    with pytest.raises(SetDamaged, match="index"):
        BackupSet(catalog, sets.manifest_of((), index)).read_index()


def test_an_index_of_many_members_survives() -> None:
    catalog = Catalog(MemoryStore(), "gitlab")
    index = {"application": [IndexedMember(f"odd \u00e9\udc80 name {n}", n, 2**40 + n) for n in range(20_000)]}
    recipients = parse_recipients([sets.keys().recipient])
    stored = catalog.put_index(FIRST, index, recipients)
    archive = Archive("index", "age", (sets.keys().recipient,), 0, (stored,))
    opened = BackupSet(catalog, sets.manifest_of((), archive), sets.keys().identities)
    assert opened.read_index() == index


# -- receipts and names ----------------------------------------------------------------------------------------------


def test_a_receipt_is_stored_with_its_signature_first() -> None:
    store = FaultyStore(MemoryStore())
    key = Catalog(store, "gitlab").put_receipt("restore-1", b'{"a": 1}', sets.keys().signer)
    assert [call.key for call in store.calls] == [f"{key}.sig", key]
    assert json.loads(sets.content(store, key)) == {"a": 1}
    sets.keys().verifier.verify(b'{"a": 1}', sets.content(store, f"{key}.sig"), source=key)


def test_a_receipt_without_a_key_stands_alone() -> None:
    store = MemoryStore()
    key = Catalog(store, "gitlab").put_receipt("restore-1", b"{}", None)
    assert [info.key for info in store.list("")] == [key]


def test_volume_names_sort_in_the_order_of_their_bytes() -> None:
    """Whoever restores with ``cat`` and a glob relies on it."""
    names = [volume_name("application", number, "age") for number in (0, 9, 10, 99, 1000, 9999, 10_000, 123_456)]
    assert names == sorted(names)
    assert names[0] == "application-0000.tar.age"
    assert volume_name("config", 3, "none") == "config-0003.tar"


def test_a_missing_object_is_told_by_its_key() -> None:
    with pytest.raises(ObjectMissing, match="application-0000"):
        Catalog(MemoryStore(), "gitlab").stat_volume(FIRST, "application-0000.tar.age")


class LyingStore(MemoryStore):
    """Takes everything, and keeps something else for keys that end in ``ending``."""

    def __init__(self, ending: str, how: str) -> None:
        super().__init__()
        self._ending, self._how = ending, how

    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        content = b"".join(iter(lambda: source.read(1000), b""))
        if key.endswith(self._ending):
            content = {"cut": content[:-1], "changed": b"?" + content[1:], "stale": b"an older one"}[self._how]
        return super().put(key, io.BytesIO(content))


class LosingBytes(MemoryStore):
    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        return super().put(key, io.BytesIO(b"".join(iter(lambda: source.read(1000), b""))[:-1]))


class Endless(MemoryStore):
    """Once told to, keys that end in ``endless`` read as zeros that do not stop."""

    endless: str | None = None
    read = 0

    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        if self.endless is None or not key.endswith(self.endless):
            return super().open(key, start=start, **asked)
        return closing(cast(BinaryIO, EndlessBody(self)))


class EndlessBody(io.RawIOBase):
    def __init__(self, store: Endless) -> None:
        self._store = store

    def read(self, size: int = -1, /) -> bytes:
        assert self._store.read < 200 << 20, "would go on for ever"
        self._store.read += size
        return bytes(size)


def test_red_set_is_kept_and_is_no_set() -> None:
    good = sets.commit(MemoryStore())
    red = replace(good.manifest, set_id=sets.LATER_SET_ID, verdict="red", findings=(RED,))
    good.catalog.commit(red, good.keys.signer)
    assert good.catalog.set_ids() == [sets.SET_ID]
    assert good.catalog.recorded() == ([sets.SET_ID], [sets.LATER_SET_ID])
    assert found_in(good.catalog, "latest") == sets.SET_ID
    assert not good.catalog.is_committed(sets.LATER_SET_ID)
    assert good.catalog.is_rejected(sets.LATER_SET_ID)
    assert good.catalog.read_manifest(sets.LATER_SET_ID, good.keys.verifier) == red


def test_red_set_is_found_by_its_whole_name_alone() -> None:
    good = sets.commit(MemoryStore())
    good.catalog.commit(
        replace(good.manifest, set_id=sets.LATER_SET_ID, verdict="red", findings=(RED,)), good.keys.signer
    )
    assert found_in(good.catalog, sets.LATER_SET_ID) == sets.LATER_SET_ID
    with pytest.raises(SetMissing):
        found_in(good.catalog, sets.LATER_SET_ID[:-2])


def test_red_manifest_under_the_name_of_a_commit_is_refused() -> None:
    good = sets.commit(MemoryStore())
    catalog, set_id = good.catalog, sets.LATER_SET_ID
    catalog.commit(replace(good.manifest, set_id=set_id, verdict="red", findings=(RED,)), good.keys.signer)
    for end in (".sig", ""):
        text = sets.content(catalog.store, catalog.key(set_id, f"rejected.json{end}"))
        sets.replace(catalog.store, catalog.key(set_id, f"manifest.json{end}"), text)
    with pytest.raises(SetDamaged, match="verdict red"):
        catalog.read_manifest(set_id, good.keys.verifier)


def test_green_manifest_is_not_taken_for_a_red_one() -> None:
    good = sets.commit(MemoryStore())
    catalog = good.catalog
    for end in (".sig", ""):
        key = catalog.key(sets.SET_ID, f"manifest.json{end}")
        sets.replace(catalog.store, catalog.key(sets.SET_ID, f"rejected.json{end}"), sets.content(catalog.store, key))
        catalog.store.delete([key])
    with pytest.raises(SetDamaged, match="wrong name"):
        catalog.read_manifest(sets.SET_ID, good.keys.verifier)


def test_red_set_is_neither_restored_nor_copied() -> None:
    good = sets.commit(MemoryStore())
    good.catalog.commit(
        replace(good.manifest, set_id=sets.LATER_SET_ID, verdict="red", findings=(RED,)), good.keys.signer
    )
    red = BackupSet(good.catalog, good.catalog.read_manifest(sets.LATER_SET_ID, good.keys.verifier))
    with pytest.raises(SetDamaged, match="the dump is cut off"):
        red.refuse_red()
    with pytest.raises(SetDamaged, match="the dump is cut off"):
        copy(red, Catalog(MemoryStore(), sets.INSTANCE), clock=sets.StillClock(), emit=ignore)
    BackupSet(good.catalog, good.manifest).refuse_red()


# -- looking for volumes ---------------------------------------------------------------------------------------------


def looked_at(store: Store) -> list[str]:
    """What ``verify --level present`` says of the one set there."""
    committed = sets.commit(store)
    opened = BackupSet(committed.catalog, committed.manifest)
    return [str(problem) for problem in opened.look_at_volumes() if problem]


def test_volumes_that_lie_as_they_should_are_seen_in_one_listing() -> None:
    store = FaultyStore(MemoryStore())
    committed = sets.commit(store)
    before = len(store.calls)
    assert [*BackupSet(committed.catalog, committed.manifest).look_at_volumes()] == [None] * len(
        committed.manifest.volumes
    )
    assert [call.method for call in store.calls[before:]] == ["list"]


class HidingHalf(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([*super().list(prefix)][::2])


class NotForListing(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise StoreAccessDenied("may not list")


class ListingOtherSizes(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (replace(info, size=info.size + 1) for info in super().list(prefix))


@pytest.mark.parametrize("kind", [HidingHalf, NotForListing, ListingOtherSizes])
def test_a_listing_raises_no_alarm_that_the_object_itself_does_not(kind: type[MemoryStore]) -> None:
    assert looked_at(kind()) == []


@pytest.mark.parametrize("kind", [MemoryStore, HidingHalf, NotForListing, ListingOtherSizes])
def test_what_is_missing_or_has_another_size_is_named_whatever_a_listing_shows(kind: type[MemoryStore]) -> None:
    store = kind()
    committed = sets.commit(store)
    first, second, *_ = (committed.catalog.key(FIRST, volume.name) for volume in committed.manifest.volumes)
    store.delete([first])
    sets.replace(store, second, b"short")
    found = [*BackupSet(committed.catalog, committed.manifest).look_at_volumes()]
    assert found[2:] == [None] * (len(found) - 2)
    assert str(found[0]).startswith(f"{first}: is missing")
    assert str(found[1]).startswith(f"{second}: 5 bytes in the store")


@pytest.mark.parametrize("error", [StoreError("broken"), StoreTransient("gone")])
def test_a_listing_that_fails_says_nothing_about_the_volumes(error: StoreError) -> None:
    inner = MemoryStore()
    committed = sets.commit(inner)
    store = FaultyStore(inner)
    store.fail_at(1, "during", error, method="list")
    with pytest.raises(type(error)):
        list(BackupSet(Catalog(store, "gitlab"), committed.manifest).look_at_volumes())
