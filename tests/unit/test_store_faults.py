"""The faulty store fails exactly where it is told to: what is tested with it stands on this."""

from __future__ import annotations

import io
from itertools import count

import pytest

from drtool.errors import StoreFull, StoreTransient
from drtool.stores.faults import Call, Crash, FaultyStore, When
from drtool.stores.memory import MemoryStore


@pytest.fixture
def inner() -> MemoryStore:
    store = MemoryStore()
    for key in ("a", "b", "c", "d"):
        store.put(key, io.BytesIO(key.encode() * 100))
    return store


def _keys(store: MemoryStore) -> list[str]:
    return [info.key for info in store.list("")]


def _read(store: FaultyStore, key: str) -> bytes:
    with store.open(key) as body:
        return body.read()


@pytest.mark.parametrize(("when", "there"), [("before", False), ("during", False), ("after", True)])
def test_put_fails_before_during_and_after_its_effect(inner: MemoryStore, when: When, there: bool) -> None:
    store = FaultyStore(inner)
    store.fail_at(1, when)
    source = io.BytesIO(b"new" * 1000)

    with pytest.raises(StoreTransient, match=f"call 1, {when}"):
        store.put("new", source)

    assert ("new" in _keys(inner)) == there
    assert (source.tell() > 0) == (when != "before")
    assert store.fired


@pytest.mark.parametrize(("when", "left"), [("before", ["a", "b", "c", "d"]), ("during", ["c", "d"]), ("after", [])])
def test_delete_fails_before_during_and_after_its_effect(inner: MemoryStore, when: When, left: list[str]) -> None:
    store = FaultyStore(inner)
    store.fail_at(1, when)

    with pytest.raises(StoreTransient):
        store.delete(["a", "b", "c", "d"])

    assert _keys(inner) == left


@pytest.mark.parametrize(("when", "seen"), [("before", 0), ("during", 2), ("after", 4)])
def test_list_fails_before_during_and_after_its_end(inner: MemoryStore, when: When, seen: int) -> None:
    store = FaultyStore(inner)
    store.fail_at(1, when)
    keys = []

    with pytest.raises(StoreTransient):
        for info in store.list(""):
            keys.append(info.key)  # noqa: PERF401  what was seen before the error is the point

    assert len(keys) == seen


@pytest.mark.parametrize(("when", "seen"), [("before", b""), ("during", b"a" * 50), ("after", b"a" * 100)])
def test_open_fails_before_during_and_after_its_body(inner: MemoryStore, when: When, seen: bytes) -> None:
    store = FaultyStore(inner)
    store.fail_at(1, when)
    got = b""

    with pytest.raises(StoreTransient), store.open("a") as body:
        while byte := body.read(1):
            got += byte

    assert got == seen


def test_calls_are_counted_by_method_when_one_is_named(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    store.fail_at(2, method="stat")

    store.stat("a")
    _read(store, "a")
    with pytest.raises(StoreTransient):
        store.stat("b")

    assert store.calls == (Call("stat", "a"), Call("open", "a"), Call("stat", "b"))
    assert store.stat("b").key == "b"


def test_nothing_reaches_the_store_after_a_crash(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    store.fail_at(1, "after", Crash())

    with pytest.raises(Crash):
        try:
            store.put("new", io.BytesIO(b"x"))
        finally:
            with pytest.raises(Crash):
                store.delete(["a"])  # what a finally block would do: a dead process has none

    assert _keys(inner) == ["a", "b", "c", "d", "new"]
    store.revive()
    assert store.stat("new").size == 1


def test_loop_over_every_call_ends_when_a_run_is_clean(inner: MemoryStore) -> None:
    def run(store: FaultyStore) -> None:
        store.put("new", io.BytesIO(b"x"))
        next(store.list(""))  # never read to its end, where an "after" would show
        store.delete(["new"])

    failed = []
    for nth in count(1):
        store = FaultyStore(inner)
        store.fail_at(nth, "after")
        try:
            run(store)
        except StoreTransient:
            failed.append(nth)
        if not store.fired:
            break

    assert failed == [1, 3]
    assert nth == 4


def test_bodies_break_after_so_many_bytes_as_often_as_told(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    store.break_body(40, times=2)

    for _ in range(2):
        with pytest.raises(StoreTransient, match="after 40 bytes"):
            _read(store, "a")
    assert _read(store, "a") == b"a" * 100


def test_body_that_is_no_longer_than_the_break_ends_well(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    store.break_body(100)

    assert _read(store, "a") == b"a" * 100


def test_store_is_full_after_its_room_and_keeps_nothing_of_the_rest(inner: MemoryStore) -> None:
    store = FaultyStore(inner, room=150)
    store.put("one", io.BytesIO(b"x" * 100))

    with pytest.raises(StoreFull):
        store.put("two", io.BytesIO(b"x" * 100))
    store.put("three", io.BytesIO(b"x" * 50))

    assert _keys(inner) == ["a", "b", "c", "d", "one", "three"]


def test_memory_is_full_at_its_capacity_and_deleting_makes_room() -> None:
    store = MemoryStore(capacity=100)
    store.put("one", io.BytesIO(b"x" * 80))

    with pytest.raises(StoreFull):
        store.put("two", io.BytesIO(b"x" * 30))
    store.put("one", io.BytesIO(b"y" * 100))
    store.delete(["one"])
    store.put("two", io.BytesIO(b"x" * 30))

    assert _keys(store) == ["two"]
