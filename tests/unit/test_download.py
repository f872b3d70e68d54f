"""One object in ranges, several at a time: every byte in order, one version, bounded memory, no invented end."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from drtool.errors import ObjectMissing, StoreError, StoreTransient
from drtool.stores import ObjectInfo
from drtool.stores.download import Download
from drtool.stores.faults import FaultyStore
from drtool.stores.memory import MemoryStore

RANGE = 1000
CONTENT = bytes(range(251)) * 40


class Gauged(MemoryStore):
    """Knows how many bytes were asked for; holds back who reads from ``held_from`` on until told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.held_from: int | None = None
        self.go_on = threading.Event()
        self._count = threading.Lock()

    def open(self, key: str, *, start: int = 0, **asked: Any) -> Any:
        if self.held_from is not None and start >= self.held_from:
            assert self.go_on.wait(30)
        with self._count:
            self.asked += asked.get("size") or 0
        return super().open(key, start=start, **asked)


def holding(content: bytes, store: MemoryStore | None = None) -> MemoryStore:
    store = store or MemoryStore()
    store.put("one", io.BytesIO(content))
    return store


def download(store: Any, *, at_once: int = 3) -> Download:
    return Download(store, lambda: store.stat("one"), range_size=RANGE, at_once=at_once)


@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize("size", [0, 1, RANGE - 1, RANGE, RANGE + 1, 3 * RANGE, 9 * RANGE + 123])
def test_a_download_gives_every_byte_in_order(size: int, at_once: int) -> None:
    with download(holding(CONTENT[:size]), at_once=at_once) as body:
        assert body.read() == CONTENT[:size]
        assert body.read(1) == b""


def test_a_download_is_read_by_any_pattern_of_reads() -> None:
    with download(holding(CONTENT)) as body:
        parts = [body.read(count) for count in (1, 0, 998, 5, 3000)]
        assert parts[1] == b""
        assert b"".join([*parts, body.read()]) == CONTENT


def test_a_download_gives_bytes_in_order_also_when_the_first_range_comes_last() -> None:
    class FirstIsLate(Gauged):
        def open(self, key: str, *, start: int = 0, **asked: Any) -> Any:
            if start == 0:
                assert self.go_on.wait(30)
            elif start == 2 * RANGE:
                self.go_on.set()
            return super().open(key, start=start, **asked)

    with download(holding(CONTENT, FirstIsLate())) as body:
        assert body.read() == CONTENT


def test_ranges_are_fetched_at_the_same_time() -> None:
    together = threading.Barrier(3)

    class Meeting(MemoryStore):
        def open(self, key: str, **asked: Any) -> Any:
            together.wait(30)
            return super().open(key, **asked)

    with download(holding(CONTENT[: 3 * RANGE], Meeting()), at_once=3) as body:
        assert body.read() == CONTENT[: 3 * RANGE]


def test_a_download_that_nobody_reads_fetches_no_more_than_its_window() -> None:
    store = Gauged()
    with download(holding(CONTENT, store)) as body:
        taken = 0
        while data := body.read(100):
            taken += len(data)
            assert store.asked <= taken + 4 * RANGE
    assert store.asked == taken == len(CONTENT)


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_range_that_fails_is_an_error_in_its_turn_and_stays_one(nth: int) -> None:
    store = FaultyStore(holding(CONTENT))
    store.fail_at(nth, "during", StoreTransient("broke off"), method="open")
    with download(store) as body:
        seen = b""
        for _ in range(2):
            with pytest.raises(StoreTransient, match="broke off"):
                while data := body.read(RANGE):
                    seen += data
    assert store.fired
    assert CONTENT.startswith(seen)
    assert len(seen) < len(CONTENT)


def test_what_finding_the_object_raises_is_raised_by_reading() -> None:
    with download(MemoryStore()) as body:
        for _ in range(2):
            with pytest.raises(ObjectMissing):
                body.read(1)


def test_an_object_replaced_between_two_ranges_is_an_error_and_no_mixture() -> None:
    store = Gauged()
    holding(b"o" * len(CONTENT), store)
    store.held_from = 5 * RANGE
    with download(store) as body:
        assert body.read(RANGE) == b"o" * RANGE
        holding(b"n" * len(CONTENT), store)
        store.go_on.set()
        with pytest.raises(StoreError, match="replaced"):
            body.read()


@pytest.mark.parametrize("difference", [-1, 1], ids=["shorter", "longer"])
@pytest.mark.parametrize("size", [1, RANGE // 2, RANGE])
def test_a_body_of_another_length_than_the_store_says_is_an_error(size: int, difference: int) -> None:
    store = holding(CONTENT[: size + difference])
    told = ObjectInfo("one", size, store.stat("one").modified_at)
    with (
        Download(store, lambda: told, range_size=RANGE) as body,
        pytest.raises(StoreError, match="than the store says"),
    ):
        body.read()


def test_ranges_that_end_before_the_object_was_said_to_are_an_error() -> None:
    store = holding(CONTENT[: 5 * RANGE - 1])
    told = ObjectInfo("one", 5 * RANGE, store.stat("one").modified_at)
    with Download(store, lambda: told, range_size=RANGE) as body, pytest.raises(StoreError, match="shorter"):
        body.read()


@pytest.mark.parametrize("read", [0, 10, RANGE + 1])
def test_a_download_that_is_left_early_leaves_no_thread(read: int) -> None:
    before = set(threading.enumerate())
    with download(holding(CONTENT)) as body:
        body.read(read)
    assert set(threading.enumerate()) <= before


def test_a_download_that_is_left_early_stops_in_the_middle_of_a_range() -> None:
    reading, left = threading.Event(), threading.Event()

    class Body(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            reading.set()
            assert left.wait(30)
            return bytes(1)

    class Endless(MemoryStore):
        def open(self, key: str, **asked: Any) -> Any:
            return Body()

    body = download(holding(CONTENT, Endless()))
    assert reading.wait(30)
    closing = threading.Thread(target=body.close)
    closing.start()
    while not body._gone.is_set():  # close() has begun
        pass
    left.set()
    closing.join(30)
    assert not closing.is_alive()
