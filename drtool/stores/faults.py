"""A store that fails on command: what the tests of everything above the store seam are made with.

    store = FaultyStore(MemoryStore())
    store.fail_at(3, "after", Crash())      # the third call does its work, then the process "dies"

Exhaustive use: fail call n for n = 1, 2, 3, … with a fresh FaultyStore each time, until ``fired`` stays false.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from drtool.errors import StoreFull, StoreTransient
from drtool.stores import Capabilities, ObjectInfo, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Method = Literal["put", "open", "stat", "list", "delete", "signed_url"]
When = Literal["before", "during", "after"]


class Crash(BaseException):
    """The process ends here. Not an Exception, so no recovery code runs; ``finally`` does, but reaches no store."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the FaultyStore. ``key``: a list's prefix; the keys of a delete, joined by spaces."""

    method: Method
    key: str


@dataclass(frozen=True, slots=True)
class _Fault:
    nth: int
    when: When
    error: BaseException
    method: Method | None


class FaultyStore:
    """Passes every call on to ``inner``, counts it, and fails where it was told to.

    Calls are counted from 1 in the order they arrive, by any thread. Once an error that is no Exception
    (a Crash) was raised, every later call raises it too, as nothing is left of a process that died: look at
    ``inner`` afterwards, or call ``revive``.
    """

    def __init__(self, inner: Store, *, room: int | None = None) -> None:
        """``room``: puts raise StoreFull once this many bytes went through them; None has no end."""
        self.inner = inner
        self.room = room
        self._calls: list[Call] = []
        self._faults: list[_Fault] = []
        self._body_breaks: list[tuple[int, BaseException]] = []
        self._dead: BaseException | None = None
        self._fired = False
        self._lock = threading.Lock()

    # What tests say and ask

    def fail_at(
        self, nth: int, when: When = "before", error: BaseException | None = None, *, method: Method | None = None
    ) -> None:
        """Make the ``nth`` call ever (of ``method``, if given) raise ``error``, by default a StoreTransient.

        ``before`` it has any effect; ``after`` all of its effect; ``during``: a put has read some of its source
        and stored nothing, a delete has removed the first half of its keys, a list has yielded the first half,
        a body gives the first half of its bytes. ``stat`` and ``signed_url`` have no middle: like ``before``.
        ``after`` hits a list at its end and a body when its block is left.
        """
        self._faults.append(_Fault(nth, when, error or StoreTransient(f"fault at call {nth}, {when}"), method))

    def break_body(self, after: int, error: BaseException | None = None, *, times: int = 1) -> None:
        """Make each of the next ``times`` bodies that yield more than ``after`` bytes raise instead of going on."""
        self._body_breaks += [(after, error or StoreTransient(f"body cut after {after} bytes"))] * times

    def revive(self) -> None:
        """Take further calls again after a Crash, as a new process would make them."""
        self._dead = None

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call so far, failed ones included."""
        return tuple(self._calls)

    @property
    def fired(self) -> bool:
        """True once a call came that a fault was waiting for: false means the run had fewer calls, so the loop is done.

        Also true if the fault then found no moment to show, as with a list that nobody reads to its end.
        """
        return self._fired

    # The store

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        fault = self._enter("put", key)
        if fault and fault.when == "during":
            source = cast(BinaryIO, _DyingSource(self, source, fault))
        elif self.room is not None:
            source = cast(BinaryIO, _MeteredSource(self, source))
        info = self.inner.put(key, source, size_hint=size_hint, lock_until=lock_until, only_if_absent=only_if_absent)
        self._leave(fault)
        return info

    def open(
        self, key: str, *, start: int = 0, size: int | None = None, version: str = ""
    ) -> AbstractContextManager[BinaryIO]:
        return self._open(key, start, size, version, self._enter("open", key))

    @contextlib.contextmanager
    def _open(self, key: str, start: int, size: int | None, version: str, fault: _Fault | None) -> Iterator[BinaryIO]:
        with self.inner.open(key, start=start, size=size, version=version) as body:
            cut = self._body_breaks.pop(0) if self._body_breaks else None
            if fault and fault.when == "during":
                rest = max(0, self.inner.stat(key).size - start)
                cut = (rest // 2 if size is None else min(rest, size) // 2, fault.error)
            yield cast(BinaryIO, io.BufferedReader(_CutBody(self, body, *cut))) if cut else body
        self._leave(fault)

    def stat(self, key: str) -> ObjectInfo:
        fault = self._enter("stat", key)
        info = self.inner.stat(key)
        self._leave(fault)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._list(prefix, self._enter("list", prefix))

    def _list(self, prefix: str, fault: _Fault | None) -> Iterator[ObjectInfo]:
        infos = [*self.inner.list(prefix)]
        yield from infos[: len(infos) // 2]
        if fault and fault.when == "during":
            raise self._raised(fault.error)
        yield from infos[len(infos) // 2 :]
        self._leave(fault)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        fault = self._enter("delete", " ".join(wanted))
        if fault and fault.when == "during":
            self.inner.delete(wanted[: len(wanted) // 2])
            raise self._raised(fault.error)
        self.inner.delete(wanted)
        self._leave(fault)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        fault = self._enter("signed_url", key)
        url = self.inner.signed_url(key, ttl=ttl)
        self._leave(fault)
        return url

    # How faults happen

    def _enter(self, method: Method, key: str) -> _Fault | None:
        """Count the call; raise what must be raised before it; return the fault that is still to come."""
        with self._lock:
            if self._dead:
                raise self._dead
            self._calls.append(Call(method, key))
            fault = next((fault for fault in self._faults if self._hits(fault, method)), None)
            self._fired |= fault is not None
        if fault and (fault.when == "before" or (fault.when == "during" and method in ("stat", "signed_url"))):
            raise self._raised(fault.error)
        return fault

    def _hits(self, fault: _Fault, method: Method) -> bool:
        if fault.method is None:
            return fault.nth == len(self._calls)
        return fault.method == method and fault.nth == sum(call.method == method for call in self._calls)

    def _leave(self, fault: _Fault | None) -> None:
        if fault:
            raise self._raised(fault.error)

    def _raised(self, error: BaseException) -> BaseException:
        with self._lock:
            self._fired = True
            if not isinstance(error, Exception):
                self._dead = error
        return error

    def _take_room(self, size: int) -> None:
        with self._lock:
            if self.room is None:
                return
            full = size > self.room
            self.room -= 0 if full else size
        if full:
            raise self._raised(StoreFull(f"{self.name}: full"))


class _DyingSource:
    """The first bytes of a source (half of what the first read gives), then the fault."""

    def __init__(self, store: FaultyStore, source: BinaryIO, fault: _Fault) -> None:
        self._store, self._source, self._fault = store, source, fault
        self._given = False

    def read(self, size: int = -1) -> bytes:
        if self._given:
            raise self._store._raised(self._fault.error)
        self._given = True
        first = self._source.read(size)
        if not first:
            raise self._store._raised(self._fault.error)
        return first[: (len(first) + 1) // 2]


class _MeteredSource:
    def __init__(self, store: FaultyStore, source: BinaryIO) -> None:
        self._store, self._source = store, source

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._store._take_room(len(chunk))
        return chunk


class _CutBody(io.RawIOBase):
    """A body that raises instead of giving byte number ``after``. A body that ends before that ends as it should."""

    def __init__(self, store: FaultyStore, body: BinaryIO, after: int, error: BaseException) -> None:
        self._store, self._body, self._left, self._error = store, body, after, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        if self._left == 0:
            if self._body.read(1) == b"":
                return 0
            raise self._store._raised(self._error)
        chunk = self._body.read(min(len(view), self._left))
        self._left -= len(chunk)
        view[: len(chunk)] = chunk
        return len(chunk)
