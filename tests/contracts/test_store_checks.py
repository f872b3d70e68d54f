"""The checks of the store contract find what they are for: for each there is a store that only it is meant to catch."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, BinaryIO, cast

import pytest

from drtool.errors import ObjectExists, ObjectMissing, StoreError
from drtool.stores import ObjectInfo
from drtool.stores.conformance import CHECKS, ContractBroken, NotApplicable, Subject, run
from drtool.stores.memory import MemoryStore

MIB = 1 << 20


class Rereading(MemoryStore):
    """Reads its source by ``read_all``; the rest is as it should be."""

    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        return super().put(key, io.BytesIO(self.read_all(key, source, options)), **options)

    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        return b"".join(iter(lambda: source.read(MIB), b""))


class FlippingBits(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = super().read_all(key, source, options)
        return content[:-1] + bytes([content[-1] ^ 1]) if content else content


class IgnoringEmptyObjects(MemoryStore):
    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        info = super().put(key, source, **options)
        if not info.size:
            self.delete([key])
        return info


class LosingThePartialPart(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = super().read_all(key, source, options)
        return content[: len(content) // (5 * MIB) * 5 * MIB] if len(content) > 5 * MIB else content


class LosingTheLastWholePart(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = super().read_all(key, source, options)
        return content if len(content) % (5 * MIB) else content[: -5 * MIB]


class AnsweringAnotherSize(MemoryStore):
    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        return replace(super().put(key, source, **options), size=0)


class ListingLocalTimes(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (replace(info, modified_at=info.modified_at.replace(tzinfo=None)) for info in super().list(prefix))


class InventingObjects(MemoryStore):
    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        with suppress(ObjectMissing):
            return super().open(key, start=start, **asked)
        return closing(io.BytesIO())


class OverwritingInPlace(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = super().read_all(key, source, options)
        with suppress(ObjectMissing), super().open(key) as old:
            content += old.read()[len(content) :]
        return content


class IgnoringStart(MemoryStore):
    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        return super().open(key, **asked)


class IgnoringSize(MemoryStore):
    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> closing[BinaryIO]:
        return super().open(key, start=start, version=version)


class IgnoringVersion(MemoryStore):
    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> closing[BinaryIO]:
        return super().open(key, start=start, size=size)


class MisplacingParts(MemoryStore):
    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        return super().open(key, start=start - 1 if start >= 5 * MIB else start, **asked)


class LeakingConnections(MemoryStore):
    connections = 10

    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        self.connections -= 1
        if self.connections < 0:
            raise StoreError("no connection left")
        return super().open(key, start=start, **asked)


class ReadingWhatIsThereNow(MemoryStore):
    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        store = self

        class Body(io.RawIOBase):
            position = start

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                with MemoryStore.open(store, key, start=self.position) as body:
                    count = cast(io.BytesIO, body).readinto(memoryview(buffer)[:MIB])
                self.position += count
                return count

        self.stat(key)
        return closing(cast(BinaryIO, io.BufferedReader(Body(), MIB)))


class Seeking(MemoryStore):
    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        if hasattr(source, "seek"):
            source.seek(0)
        return super().put(key, source, **options)


class TakingAShortReadForTheEnd(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = b""
        while len(chunk := source.read(MIB)) == MIB:
            content += chunk
        return content + chunk


class BelievingTheHint(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = super().read_all(key, source, options)
        return content if options.get("size_hint") is None else content[: options["size_hint"]]


class ShowingUnfinishedObjects(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = b""
        try:
            while chunk := source.read(MIB):
                content += chunk
                MemoryStore.put(self, key, io.BytesIO(content))
        except BaseException:
            self.delete([key])
            raise
        self.delete([key])
        return content


class TakingADeadSourceForTheEnd(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        content = b""
        try:
            while chunk := source.read(MIB):
                content += chunk
        except OSError:
            MemoryStore.put(self, key, io.BytesIO(content))
            raise
        return content


class MakingRoomFirst(Rereading):
    def read_all(self, key: str, source: BinaryIO, options: dict[str, Any]) -> bytes:
        if not options.get("only_if_absent"):
            self.delete([key])
        return super().read_all(key, source, options)


class MixingUpKeys(MemoryStore):
    current = ""

    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        self.current = key
        time.sleep(0.02)  # long enough for another put to come between
        return super().put(self.current, source, **options)


class RefusingEveryCondition(MemoryStore):
    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        if options.get("only_if_absent"):
            raise ObjectExists(key)
        return super().put(key, source, **options)


class IgnoringTheCondition(MemoryStore):
    def put(self, key: str, source: BinaryIO, *, only_if_absent: bool = False, **options: Any) -> ObjectInfo:
        return super().put(key, source, **options)


class LookingBeforePutting(MemoryStore):
    def put(self, key: str, source: BinaryIO, *, only_if_absent: bool = False, **options: Any) -> ObjectInfo:
        if only_if_absent and [*self.list(key)]:
            raise ObjectExists(key)
        return super().put(key, source, **options)


class ListingLikeADirectory(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(sorted(super().list(prefix), key=lambda info: info.key.split("/")))


class TakingAPrefixForAFolder(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/")
        return (info for info in super().list("") if info.key == folder or info.key.startswith(f"{folder}/"))


class ListingOnePage(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([*super().list(prefix)][:20])


class DeletingWhatBeginsLikeIt(MemoryStore):
    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            super().delete([info.key for info in self.list(key)])


class TakingAnyKey(MemoryStore):
    def delete(self, keys: Iterable[str]) -> None:
        with suppress(StoreError):
            super().delete(keys)


class ForgettingTheLock(MemoryStore):
    def put(self, key: str, source: BinaryIO, *, lock_until: datetime | None = None, **options: Any) -> ObjectInfo:
        return super().put(key, source, **options)


class SigningWhatItCannot(MemoryStore):
    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        return f"http://127.0.0.1:9/{key}"


DEFECTS: dict[str, Callable[[], Subject]] = {
    "what_was_put_comes_back": lambda: Subject(FlippingBits()),
    "an_empty_object_is_an_object": lambda: Subject(IgnoringEmptyObjects()),
    "a_big_object_comes_back": lambda: Subject(LosingThePartialPart()),
    "an_object_of_whole_parts_comes_back": lambda: Subject(LosingTheLastWholePart()),
    "put_answers_as_stat_does": lambda: Subject(AnsweringAnotherSize()),
    "list_answers_as_stat_does": lambda: Subject(ListingLocalTimes()),
    "what_is_missing_is_said_to_be": lambda: Subject(InventingObjects()),
    "a_later_put_replaces_all": lambda: Subject(OverwritingInPlace()),
    "open_starts_where_asked": lambda: Subject(IgnoringStart()),
    "open_starts_within_any_part": lambda: Subject(MisplacingParts()),
    "open_gives_no_more_than_asked": lambda: Subject(IgnoringSize()),
    "open_gives_nothing_of_another_version": lambda: Subject(IgnoringVersion()),
    "open_may_be_left_early": lambda: Subject(LeakingConnections()),
    "a_reader_never_sees_a_mixture": lambda: Subject(ReadingWhatIsThereNow()),
    "put_reads_a_pipe": lambda: Subject(Seeking()),
    "put_takes_short_reads": lambda: Subject(TakingAShortReadForTheEnd()),
    "put_believes_no_size_hint": lambda: Subject(BelievingTheHint()),
    "nothing_shows_before_the_source_ended": lambda: Subject(ShowingUnfinishedObjects()),
    "a_failed_source_leaves_nothing": lambda: Subject(TakingADeadSourceForTheEnd()),
    "a_failed_source_keeps_the_old_object": lambda: Subject(MakingRoomFirst()),
    "puts_run_side_by_side": lambda: Subject(MixingUpKeys()),
    "only_if_absent_creates": lambda: Subject(RefusingEveryCondition()),
    "only_if_absent_replaces_nothing": lambda: Subject(IgnoringTheCondition()),
    "only_if_absent_refuses_what_came_meanwhile": lambda: Subject(LookingBeforePutting()),
    "only_if_absent_has_one_winner": lambda: Subject(LookingBeforePutting()),
    "list_is_in_byte_order": lambda: Subject(ListingLikeADirectory()),
    "list_takes_any_prefix": lambda: Subject(TakingAPrefixForAFolder()),
    "list_goes_on_over_pages": lambda: Subject(ListingOnePage()),
    "delete_removes_what_it_is_told": lambda: Subject(DeletingWhatBeginsLikeIt()),
    "bad_keys_are_refused": lambda: Subject(TakingAnyKey()),
    "a_lock_is_refused_where_there_is_none": lambda: Subject(ForgettingTheLock()),
    "a_signed_url_reads_the_object": lambda: Subject(SigningWhatItCannot()),
    "a_missing_bucket_is_named": lambda: Subject(MemoryStore(), elsewhere=MemoryStore()),
    "wrong_credentials_are_named": lambda: Subject(MemoryStore(), stranger=MemoryStore()),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_catches_the_store_that_breaks_it(check: Callable[[Subject], None]) -> None:
    with pytest.raises((ContractBroken, StoreError)):
        check(DEFECTS[check.__name__]())


def test_run_reports_every_check_once_and_goes_on_after_a_failure() -> None:
    outcomes = dict(run(Subject(IgnoringTheCondition())))

    assert [*outcomes] == [check.__name__ for check in CHECKS]
    assert isinstance(outcomes["only_if_absent_replaces_nothing"], ContractBroken)
    assert isinstance(outcomes["wrong_credentials_are_named"], NotApplicable)
    assert outcomes["what_was_put_comes_back"] is None


def test_check_leaves_nothing_behind_whether_it_passes_or_not() -> None:
    store = ListingLikeADirectory()

    outcomes = dict(run(Subject(store)))

    assert isinstance(outcomes["list_is_in_byte_order"], ContractBroken)
    assert [*store.list("")] == []
