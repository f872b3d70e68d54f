"""Objects on their way: what a put reads, when its object appears, and what it must never replace."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from drtool.errors import ObjectExists, StoreError
from drtool.stores.conformance.frame import (
    Area,
    ContractBroken,
    NotApplicable,
    contract,
    digest,
    expect,
    forward_only,
    noise,
    raises,
)


@contract
def put_reads_a_pipe(area: Area) -> None:
    """A pipe has no length and no way back; its file object has ``seek`` and ``tell`` that fail."""
    size = area.subject.big
    read_end, write_end = os.pipe()

    def feed() -> None:
        # A put that fails closes the pipe; why it failed is told where it was called.
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb") as pipe:
            for chunk in noise(size):
                pipe.write(chunk)

    feeder = threading.Thread(target=feed)
    try:
        with os.fdopen(read_end, "rb") as pipe:
            feeder.start()
            info = area.store.put(area.key("piped"), pipe)
    except OSError as error:
        raise ContractBroken(f"put of a pipe raised {error!r}") from error
    finally:
        feeder.join()
    expect(info.size == size, f"{size} bytes went into the pipe, put says {info.size}")
    with area.store.open(area.key("piped")) as body:
        expect(digest(iter(lambda: body.read(1 << 20), b"")) == digest(noise(size)), "other bytes came back")


@contract
def put_takes_short_reads(area: Area) -> None:
    chunks = [b"x" * (1 + number % 7) for number in range(1000)]
    area.store.put(area.key("one"), forward_only(chunks))
    expect(area.read("one") == b"".join(chunks), "other bytes came back")


@contract
def put_believes_no_size_hint(area: Area) -> None:
    for hint in (0, 1, 10_000, 1 << 44):
        area.store.put(area.key("one"), forward_only([b"hello"]), size_hint=hint)
        expect(area.read("one") == b"hello", f"size_hint={hint}: read {area.read('one')!r}")
    size = area.subject.big
    info = area.store.put(area.key("big"), forward_only(noise(size)), size_hint=10)
    expect(info.size == size == area.store.stat(area.key("big")).size, f"size_hint=10: put says {info.size}")


@contract
def nothing_shows_before_the_source_ended(area: Area) -> None:
    for size in (1000, area.subject.big):
        early: list[str] = []

        def watched(size: int = size, early: list[str] = early) -> Iterator[bytes]:
            yield from noise(size)
            early += area.names()

        area.store.put(area.key("one"), forward_only(watched()))
        expect(early == [], f"{size} bytes: {early} showed before the source said it is done")
        expect(area.names() == ["one"], f"list shows {area.names()} after the put")
        area.store.delete([area.key("one")])


@contract
def a_failed_source_leaves_nothing(area: Area) -> None:
    for size in (0, 1000, area.subject.big):
        for error in (OSError("the producer died"), StoreError("of another store"), Interrupt()):
            put_failing(area, size, error)
            expect(area.names() == [], f"{area.names()} is there after a source failed with {error!r} at byte {size}")


@contract
def a_failed_source_keeps_the_old_object(area: Area) -> None:
    area.put("one", b"old")
    for size in (0, 1000, area.subject.big):
        put_failing(area, size, OSError("the producer died"))
        expect(area.read("one") == b"old", f"the old object is gone after a source failed at byte {size}")


@contract
def puts_run_side_by_side(area: Area) -> None:
    contents = {f"{number}/one": b"".join(noise(100_000 + number)) for number in range(12)}
    with ThreadPoolExecutor(6) as threads:
        infos = [*threads.map(lambda name: area.put(name, contents[name]), contents)]
    expect([info.size for info in infos] == [*map(len, contents.values())], f"put says {infos}")
    for name, content in contents.items():
        expect(area.read(name) == content, f"other bytes came back of {name}")


# Only if absent


@contract
def only_if_absent_creates(area: Area) -> None:
    area.put("one", b"first", only_if_absent=True)
    expect(area.read("one") == b"first", f"read {area.read('one')!r}")
    info = area.store.put(area.key("big"), forward_only(noise(area.subject.big)), only_if_absent=True)
    expect(info.size == area.subject.big, f"put of a big object says {info}")


@contract
def only_if_absent_replaces_nothing(area: Area) -> None:
    area.put("one", b"first")
    for size in (0, 10, area.subject.big):
        with raises(ObjectExists, f"put of {size} bytes onto an object"):
            area.store.put(area.key("one"), forward_only(noise(size)), only_if_absent=True)
        expect(area.read("one") == b"first", f"{size} bytes replaced an object that must stay")
    area.store.delete([area.key("one")])
    area.put("one", b"second", only_if_absent=True)
    expect(area.read("one") == b"second", "a deleted object is still in the way")


@contract
def only_if_absent_refuses_what_came_meanwhile(area: Area) -> None:
    """The object appears while the source is read: looking before the put is not enough."""
    if not area.store.capabilities.conditional_put:
        raise NotApplicable("the store has no conditional put")
    for size in (1000, area.subject.big):

        def overtaken(size: int = size) -> Iterator[bytes]:
            yield from noise(size)
            area.put("one", b"faster")

        with raises(ObjectExists, f"put of {size} bytes that was overtaken"):
            area.store.put(area.key("one"), forward_only(overtaken()), only_if_absent=True)
        expect(area.read("one") == b"faster", f"{size} bytes replaced an object that must stay")
        area.store.delete([area.key("one")])


@contract
def only_if_absent_has_one_winner(area: Area) -> None:
    if not area.store.capabilities.conditional_put:
        raise NotApplicable("the store has no conditional put")
    racers = 6
    for lap in range(3):
        start = threading.Barrier(racers)

        def race(number: int, name: str = f"lap-{lap}", start: threading.Barrier = start) -> bytes | None:
            def source() -> Iterator[bytes]:
                start.wait(60)
                yield b"racer %d" % number

            try:
                area.store.put(area.key(name), forward_only(source()), only_if_absent=True)
            except ObjectExists:
                return None
            return b"racer %d" % number

        with ThreadPoolExecutor(racers) as threads:
            won = [content for content in threads.map(race, range(racers)) if content]
        expect(len(won) == 1, f"{len(won)} of {racers} writers were told that they came first")
        expect(area.read(f"lap-{lap}") == won[0], f"{won[0]!r} won, {area.read(f'lap-{lap}')!r} is stored")


def put_failing(area: Area, size: int, error: BaseException) -> None:
    """Put a source that raises ``error`` after ``size`` bytes."""

    def failing() -> Iterator[bytes]:
        yield from noise(size)
        raise error

    try:
        area.store.put(area.key("one"), forward_only(failing()))
    except BaseException as seen:
        if seen is error:
            return
        raise ContractBroken(f"the source raised {error!r}, put raised {seen!r}") from seen
    raise ContractBroken(f"put succeeded although its source raised {error!r} after {size} bytes")


class Interrupt(BaseException):
    """Like KeyboardInterrupt: no Exception, so a store must not need ``except Exception`` to tidy up."""
