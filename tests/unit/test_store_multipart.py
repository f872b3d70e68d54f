"""Streams of any length go out in parts: how large they are, how many are in memory, and what ends an upload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtool.errors import StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.conformance import forward_only
from drtool.stores.multipart import LARGEST_PART, MIB, MOST_PARTS, PART_SIZE, SMALLEST_PART, part_sizes, upload
from drtool.stores.retry import Backoff

TIB = 1 << 40
AT_ONCE = Backoff(attempts=3, first=timedelta(0), longest=timedelta(0))


class Sink:
    """Keeps what it is sent. ``fail`` may raise for a call, named ``start``, ``part 2``, ``complete``, …"""

    def __init__(self, fail: Callable[[str], None] = lambda call: None) -> None:
        self.calls: list[str] = []
        self.parts: dict[int, bytes] = {}
        self.whole: bytes | None = None
        self.in_hand = self.most_in_hand = 0
        self._fail = fail
        self._lock = threading.Lock()

    def put_whole(self, content: bytearray) -> None:
        self._call("whole")
        self.whole = bytes(content)

    def start(self) -> None:
        self._call("start")

    def send_part(self, number: int, content: bytearray) -> None:
        with self._lock:
            self.in_hand += 1
            self.most_in_hand = max(self.most_in_hand, self.in_hand)
        try:
            self._call(f"part {number}")
            self.parts[number] = bytes(content)
        finally:
            with self._lock:
                self.in_hand -= 1

    def complete(self) -> None:
        assert self.in_hand == 0
        self._call("complete")

    def abort(self) -> None:
        assert self.in_hand == 0
        self._call("abort")

    def _call(self, call: str) -> None:
        self.calls.append(call)
        self._fail(call)


def _upload(sink: Sink, chunks: list[bytes], concurrency: int = 4) -> int:
    return upload(forward_only(chunks), sink, part_size=10, concurrency=concurrency, backoff=AT_ONCE)


@pytest.mark.parametrize("first", [SMALLEST_PART, 8 * MIB, PART_SIZE, 64 * MIB, LARGEST_PART])
@pytest.mark.parametrize(("hint", "least"), [(None, 47 * TIB), (0, 47 * TIB), (48 * TIB, 48 * TIB)])
def test_part_sizes_carry_the_largest_object_there_is(first: int, hint: int | None, least: int) -> None:
    assert sum(part_sizes(first, hint)) >= least


@given(first=st.integers(SMALLEST_PART, LARGEST_PART), hint=st.none() | st.integers(0, 48 * TIB))
def test_part_sizes_carry_what_was_hinted_and_stay_within_what_stores_take(first: int, hint: int | None) -> None:
    sizes = [*part_sizes(first, hint)]

    assert len(sizes) == MOST_PARTS
    assert sum(sizes) >= (hint or 0)
    assert min(sizes) >= first
    assert max(sizes) <= LARGEST_PART
    assert all(before <= after for before, after in pairwise(sizes))


def test_part_sizes_stay_flat_for_a_volume() -> None:
    sizes = part_sizes(PART_SIZE, 1 << 30)

    assert {next(sizes) for _ in range((1 << 30) // PART_SIZE)} == {PART_SIZE}


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_small_stream_is_one_put(size: int) -> None:
    sink = Sink()

    assert _upload(sink, [b"x"] * size) == size
    assert (sink.calls, sink.whole) == (["whole"], b"x" * size)


@pytest.mark.parametrize("size", [11, 19, 20, 21, 30, 155])
@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_larger_stream_arrives_in_order_and_is_completed_once(size: int, concurrency: int) -> None:
    content = bytes(range(size))
    sink = Sink()

    assert _upload(sink, [content[:7], content[7:]], concurrency) == size
    assert b"".join(sink.parts[number] for number in range(1, len(sink.parts) + 1)) == content
    assert (sink.calls[0], sink.calls[-1]) == ("start", "complete")
    assert "abort" not in sink.calls
    assert sink.most_in_hand <= concurrency


def test_part_is_sent_again_while_the_error_is_transient() -> None:
    failures = iter([StoreTransient("once"), StoreTransient("twice")])

    def fail(call: str) -> None:
        if call == "part 2" and (error := next(failures, None)):
            raise error

    sink = Sink(fail)

    assert _upload(sink, [b"x" * 35]) == 35
    assert sink.calls.count("part 2") == 3


@pytest.mark.parametrize("error", [StoreTransient("for ever"), StoreAccessDenied("no"), KeyError("a defect")])
def test_part_that_fails_for_good_aborts_the_upload(error: Exception) -> None:
    def fail(call: str) -> None:
        if call == "part 2":
            raise error

    sink = Sink(fail)

    with pytest.raises(type(error)) as raised:
        _upload(sink, [b"x" * 100])

    assert raised.value is error
    assert sink.calls.count("part 2") == (AT_ONCE.attempts if isinstance(error, StoreTransient) else 1)
    assert sink.calls[-1] == "abort"
    assert "complete" not in sink.calls


@pytest.mark.parametrize("call", ["start", "complete"])
def test_failed_start_or_completion_aborts_the_upload(call: str) -> None:
    def fail(seen: str) -> None:
        if seen == call:
            raise StoreError(f"{call} failed")

    sink = Sink(fail)

    with pytest.raises(StoreError, match=f"{call} failed"):
        _upload(sink, [b"x" * 100])
    assert sink.calls[-1] == "abort"


@pytest.mark.parametrize(
    "error", [OSError("the producer died"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_source_that_fails_aborts_the_upload_and_its_error_goes_through(error: BaseException) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * 55
        raise error

    sink = Sink()

    with pytest.raises(type(error)) as raised:
        upload(forward_only(source()), sink, part_size=10, backoff=AT_ONCE)

    assert raised.value is error
    assert sink.calls[-1] == "abort"
    assert "complete" not in sink.calls


def test_failing_abort_is_noted_on_the_first_error() -> None:
    def fail(call: str) -> None:
        if call in ("part 1", "abort"):
            raise StoreAccessDenied(f"{call} was refused")

    with pytest.raises(StoreAccessDenied, match="part 1 was refused") as raised:
        _upload(Sink(fail), [b"x" * 100])

    assert "abort was refused" in raised.value.__notes__[0]


def test_failed_part_ends_the_waits_of_the_others() -> None:
    """A part that would back off for an hour does not hold the error of another one back."""
    slow_failed = threading.Event()

    def fail(call: str) -> None:
        if call == "part 1":
            slow_failed.set()
            raise StoreTransient("wait an hour")
        if call == "part 2":
            assert slow_failed.wait(60)
            raise StoreAccessDenied("no")

    hour = timedelta(hours=1)
    with pytest.raises(StoreError):
        upload(forward_only([b"x" * 100]), Sink(fail), part_size=10, backoff=Backoff(5, hour, hour))


def test_no_more_is_read_than_the_parts_in_flight_hold() -> None:
    """Four parts may be in memory. With sending blocked, reading must stop at the fourth."""
    released = threading.Event()
    taken = 0

    def fail(call: str) -> None:
        if call.startswith("part"):
            assert released.wait(60)

    def source() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(20):
            taken += 10
            if taken == 50:
                assert released.is_set(), "a fifth part was read while four were in flight"
            yield b"x" * 10

    sink = Sink(fail)
    thread = threading.Timer(0.2, released.set)
    thread.start()
    try:
        assert upload(forward_only(source()), sink, part_size=10, backoff=AT_ONCE) == 200
    finally:
        released.set()
        thread.join()
    assert sink.most_in_hand == 4


def test_source_that_does_not_block_is_not_taken_for_ended() -> None:
    class NonBlocking:
        def read(self, size: int) -> None:
            return None

    sink = Sink()

    with pytest.raises(TypeError):
        upload(cast(BinaryIO, NonBlocking()), sink)
    assert sink.calls == []


def test_short_last_part_goes_out_while_an_earlier_request_still_holds_its_buffer() -> None:
    """A buffer is filled again; the error of a try that failed keeps its request, and a view of the buffer, alive."""
    kept: list[memoryview] = []

    class Keeping(Sink):
        def send_part(self, number: int, content: bytearray) -> None:
            kept.append(memoryview(content))
            super().send_part(number, content)

    sink = Keeping()
    assert _upload(sink, [b"x" * 10] * 5 + [b"end"], concurrency=1) == 53
    assert sink.parts[6] == b"end"
