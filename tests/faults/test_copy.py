"""A copy is the same set on another store, or no set; after any crash the same command again finishes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from drtool.catalog import Catalog
from drtool.copy import Copied, copy
from drtool.errors import ObjectExists, SetDamaged, StoreTransient
from drtool.events import ignore
from drtool.stores import Store
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.runners import When

WHENS: tuple[When, ...] = ("before", "during", "after")


@pytest.fixture
def committed() -> Iterator[sets.Committed]:
    yield sets.commit(MemoryStore())


def _copy(committed: sets.Committed, store: Store) -> Copied:
    return copy(committed.open(), Catalog(store, sets.INSTANCE), clock=sets.StillClock(), emit=ignore)


def _content(store: Store) -> dict[str, bytes]:
    return {info.key: sets.content(store, info.key) for info in store.list("")}


def test_copy_is_the_set_byte_for_byte_and_opens_with_the_same_keys(committed: sets.Committed) -> None:
    other = MemoryStore(name="elsewhere")

    copied = _copy(committed, other)

    assert _content(other) == _content(committed.catalog.store)
    assert copied.sent == copied.volumes == len(committed.manifest.volumes)
    assert copied.bytes_sent == committed.manifest.stored_size
    assert Catalog(other, sets.INSTANCE).read_manifest(sets.SET_ID, committed.keys.verifier) == committed.manifest


def test_copying_again_sends_nothing(committed: sets.Committed) -> None:
    other = MemoryStore()
    _copy(committed, other)
    counting = FaultyStore(other)

    assert _copy(committed, counting).sent == 0
    assert not [call for call in counting.calls if call.method == "put"]


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("error", [Crash, StoreTransient])
def test_copy_that_dies_at_any_call_shows_no_set_and_is_finished_by_the_next(
    committed: sets.Committed, when: When, error: type[BaseException]
) -> None:
    for nth in itertools.count(1):
        other = MemoryStore()
        faulty = FaultyStore(other)
        faulty.fail_at(nth, when, error("it broke"))
        try:
            _copy(committed, faulty)
        except (Crash, StoreTransient):
            catalog = Catalog(other, sets.INSTANCE)
            for set_id in catalog.set_ids():  # the fault came after the commit
                assert catalog.read_manifest(set_id, committed.keys.verifier) == committed.manifest
        if not faulty.fired:
            break
        _copy(committed, other)
        assert _content(other) == _content(committed.catalog.store)
    assert nth > 2 * len(committed.manifest.volumes)


def test_damage_in_the_first_store_is_not_copied(committed: sets.Committed) -> None:
    volume = committed.manifest.volumes[1]
    key = committed.catalog.key(sets.SET_ID, volume.name)
    good = sets.content(committed.catalog.store, key)
    sets.replace(committed.catalog.store, key, good[:-1] + bytes([good[-1] ^ 1]))
    other = MemoryStore()

    with pytest.raises(SetDamaged, match=volume.name):
        _copy(committed, other)

    assert key not in _content(other)
    assert Catalog(other, sets.INSTANCE).set_ids() == []


def test_a_damaged_volume_of_an_interrupted_copy_is_sent_again(committed: sets.Committed) -> None:
    other = MemoryStore()
    volume = committed.manifest.volumes[0]
    sets.replace(other, committed.catalog.key(sets.SET_ID, volume.name), b"\0" * volume.stored_size)

    _copy(committed, other)

    assert _content(other) == _content(committed.catalog.store)


def test_another_set_of_the_same_name_is_left_alone(committed: sets.Committed) -> None:
    other = sets.commit(MemoryStore(), seed=1)
    before = _content(other.catalog.store)

    with pytest.raises(ObjectExists, match="manifest"):
        _copy(committed, other.catalog.store)

    assert _content(other.catalog.store) == before
