"""Objects at rest: what comes back, from where on, what is listed, and what deleting takes away."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from drtool.errors import ObjectMissing, StoreError
from drtool.stores.conformance.frame import (
    Area,
    contract,
    digest,
    expect,
    forward_only,
    noise,
    raises,
)


@contract
def what_was_put_comes_back(area: Area) -> None:
    content = bytes(range(256)) * 40
    area.put("one", content)
    expect(area.read("one") == content, "other bytes came back than were put")


@contract
def an_empty_object_is_an_object(area: Area) -> None:
    info = area.put("empty", b"")
    expect(info.size == 0, f"put says the size is {info.size}")
    expect(area.read("empty") == b"", "bytes came out of an empty object")
    expect(area.names() == ["empty"], f"list shows {area.names()}")


@contract
def a_big_object_comes_back(area: Area) -> None:
    """More than one part, and no multiple of a part."""
    size = area.subject.big + 12_345
    info = area.store.put(area.key("big"), forward_only(noise(size)))
    expect(info.size == size, f"{size} bytes were put, put says {info.size}")
    seen = hashlib.sha256()
    with area.store.open(area.key("big")) as body:
        while chunk := body.read(1 << 20):
            seen.update(chunk)
    expect(seen.digest() == digest(noise(size)), "other bytes came back than were put")


@contract
def an_object_of_whole_parts_comes_back(area: Area) -> None:
    """The end of the source falls on the end of a part, of whatever power of two or five MiB its size is."""
    for size in (5 << 20, 10 << 20, 16 << 20):
        content = b"".join(noise(size))
        area.put("whole", content)
        expect(area.read("whole") == content, f"other bytes came back of an object of {size} bytes")


@contract
def put_answers_as_stat_does(area: Area) -> None:
    before = datetime.now(UTC) - timedelta(days=1)  # the server's clock may differ from ours
    put, stat = area.put("one", b"12345"), area.store.stat(area.key("one"))
    expect(put == stat, f"put says {put}, stat {stat}")
    expect((stat.key, stat.size) == (area.key("one"), 5), f"stat says {stat}")
    expect(stat.modified_at.utcoffset() == timedelta(0), f"modified_at is not UTC: {stat.modified_at!r}")
    expect(before < stat.modified_at < before + timedelta(days=2), f"modified_at is {stat.modified_at}")


@contract
def list_answers_as_stat_does(area: Area) -> None:
    area.put("one", b"12345")
    (listed,) = area.store.list(area.key("one"))
    expect((listed.key, listed.size) == (area.key("one"), 5), f"list says {listed}")
    expect(listed.modified_at.utcoffset() == timedelta(0), f"modified_at is not UTC: {listed.modified_at!r}")


@contract
def what_is_missing_is_said_to_be(area: Area) -> None:
    with raises(ObjectMissing, "stat of a missing object"):
        area.store.stat(area.key("missing"))
    with raises(ObjectMissing, "open of a missing object"), area.store.open(area.key("missing")) as body:
        body.read()
    with raises(ObjectMissing, "open of a missing object, not from its start"):
        area.read("missing", start=7)
    expect(area.names() == [], f"list shows {area.names()} where nothing is")


@contract
def a_later_put_replaces_all(area: Area) -> None:
    area.put("one", b"a long first version")
    area.put("one", b"short")
    expect(area.read("one") == b"short", f"read {area.read('one')!r}")
    expect(area.store.stat(area.key("one")).size == 5, "stat still has the old size")


# Reading


@contract
def open_starts_where_asked(area: Area) -> None:
    content = bytes(range(200))
    area.put("one", content)
    for start in (0, 1, 100, 199, 200, 201, 5_000):
        seen = area.read("one", start=start)
        expect(seen == content[start:], f"from byte {start} of 200: {len(seen)} bytes")
    area.put("empty", b"")
    expect(area.read("empty", start=3) == b"", "bytes came out of an empty object")
    with raises(StoreError, "open from a negative byte"):
        area.read("one", start=-1)


@contract
def open_starts_within_any_part(area: Area) -> None:
    content = b"".join(noise(area.subject.big))
    area.put("big", content)
    for start in (1, (5 << 20) - 1, 5 << 20, len(content) - 10):
        with area.store.open(area.key("big"), start=start) as body:
            expect(body.read(1000) == content[start : start + 1000], f"other bytes from byte {start} on")
    expect(area.read("big", start=len(content)) == b"", "bytes after the end")


@contract
def open_gives_no_more_than_asked(area: Area) -> None:
    content = bytes(range(200))
    area.put("one", content)
    for start, size in (
        (0, 1),
        (0, 199),
        (0, 200),
        (0, 999),
        (7, 1),
        (7, 100),
        (150, 50),
        (150, 51),
        (200, 1),
        (300, 9),
    ):
        seen = area.read("one", start, size)
        expect(seen == content[start : start + size], f"{size} bytes from byte {start} of 200: {len(seen)} bytes")
    area.put("empty", b"")
    expect(area.read("empty", size=3) == b"", "bytes came out of an empty object")
    for size in (0, -1):
        with raises(StoreError, f"open of {size} bytes"):
            area.read("one", size=size)
    with raises(ObjectMissing, "open of a part of a missing object"):
        area.read("missing", start=1, size=1)


@contract
def open_gives_nothing_of_another_version(area: Area) -> None:
    """Who reads an object in several parts must not get the halves of two."""
    area.put("one", b"old" * 100)
    old = area.store.stat(area.key("one")).version
    expect(old != "", "stat tells no version")
    expect(area.read("one", 3, 6, old) == b"oldold", "other bytes came back")
    area.put("one", b"new" * 100)
    for start, size in ((0, None), (0, 6), (3, 6)):
        with raises(StoreError, "open of a version that is gone"):
            area.read("one", start, size, old)


@contract
def open_may_be_left_early(area: Area) -> None:
    content = b"".join(noise(area.subject.big))
    area.put("big", content)
    for _ in range(20):  # more than any pool of connections holds
        with area.store.open(area.key("big")) as body:
            expect(body.read(10) == content[:10], "other bytes came back")
    expect(area.store.stat(area.key("big")).size == len(content), "stat says something else afterwards")


@contract
def a_reader_never_sees_a_mixture(area: Area) -> None:
    """An object replaced while it is read: the old bytes to their end, or an error."""
    size = area.subject.big
    old, new = b"o" * size, b"n" * size
    area.put("one", old)
    with contextlib.suppress(StoreError), area.store.open(area.key("one")) as body:
        seen = body.read(100)
        area.put("one", new)
        seen += body.read()
        expect(seen == old, f"read {seen.count(b'o')} old and {seen.count(b'n')} new bytes of {size}")
    expect(area.read("one") == new, "the new object is not there")


# Listing and deleting

_AWKWARD = ("A/1", "a", "a-b/1", "a-b/2/x", "a.b", "a/1.x", "a0", "a_b", "b/10", "b/2", "b/2-x", "b/2.x/y", "b10")


@contract
def list_is_in_byte_order(area: Area) -> None:
    """ "-" and "." sort before "/", digits and "_" after it: the order of a directory walk is another one."""
    names = [name for name in _AWKWARD if name not in ("a", "b/2")]  # a directory has no "a" beside "a/1.x"
    for name in reversed(names):
        area.put(name, name.encode())
    expected = sorted(names, key=str.encode)
    expect(area.names() == expected, f"list gives {area.names()}, not {expected}")


@contract
def list_takes_any_prefix(area: Area) -> None:
    names = ["set-1/a", "set-1/b", "set-10/a", "set-1.json", "set-2/a/b/c", "other"]
    for name in names:
        area.put(name, b"")
    for prefix in ("", "s", "set-", "set-1", "set-1/", "set-1/a", "set-1/a/", "set-10", "set-2/a/b", "set-3", "other"):
        expected = sorted(name for name in names if name.startswith(prefix))
        expect(area.names(prefix) == expected, f"list({prefix!r}) gives {area.names(prefix)}, not {expected}")


@contract
def list_goes_on_over_pages(area: Area) -> None:
    names = [f"{number % 3}/{number:03}" for number in range(50)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: area.put(name, b""), names))
    expect(area.names() == sorted(names), f"{len(names)} objects, list gives {area.names()}")


@contract
def delete_removes_what_it_is_told(area: Area) -> None:
    for name in ("a", "a0", "b/1", "b/2", "b/10"):
        area.put(name, b"x")
    area.store.delete(iter([area.key("a"), area.key("b/1"), area.key("never-was"), area.key("b/never/was")]))
    expect(area.names() == ["a0", "b/10", "b/2"], f"left is {area.names()}")
    with raises(ObjectMissing, "stat of a deleted object"):
        area.store.stat(area.key("a"))
    area.store.delete([area.key("a")])
    area.store.delete([])
    area.put("b/1", b"again")
    expect(area.read("b/1") == b"again", "a deleted key could not be used again")
