"""What the checks are made of: the subject, the scratch area of each check, and well-known bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from drtool.errors import StoreError
from drtool.stores import ObjectInfo, Store


class ContractBroken(AssertionError):
    """The store did something else than its contract says. ``str()`` tells what was seen."""


class NotApplicable(Exception):
    """This store cannot be asked that: it lacks the capability, or the subject the means."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked. Nothing but what the checks make may change below ``prefix`` meanwhile.

    ``elsewhere``: the same kind of store, its bucket or directory missing. ``stranger``: the same bucket, with
    credentials that are wrong. ``big``: bytes of an object that needs several parts. ``ca_bundle`` for signed URLs.
    """

    store: Store
    elsewhere: Store | None = None
    stranger: Store | None = None
    prefix: str = "conformance"
    big: int = 12 << 20
    ca_bundle: Path | None = None


Check = Callable[[Subject], None]
REGISTERED: list[Check] = []


@dataclass(frozen=True, slots=True)
class Area:
    """One check's own part of the subject."""

    subject: Subject
    prefix: str

    @property
    def store(self) -> Store:
        return self.subject.store

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def put(self, name: str, content: bytes, *, only_if_absent: bool = False) -> ObjectInfo:
        return self.store.put(self.key(name), forward_only([content]), only_if_absent=only_if_absent)

    def read(self, name: str, start: int = 0, size: int | None = None, version: str = "") -> bytes:
        with self.store.open(self.key(name), start=start, size=size, version=version) as body:
            return body.read()

    def names(self, prefix: str = "") -> list[str]:
        return [info.key.removeprefix(f"{self.prefix}/") for info in self.store.list(self.key(prefix))]


def contract(function: Callable[[Area], None]) -> Check:
    """Register a check that gets a scratch area, which is emptied behind it."""

    def check(subject: Subject) -> None:
        area = Area(subject, f"{subject.prefix}/{function.__name__}")
        try:
            function(area)
        except BaseException:
            with contextlib.suppress(StoreError):  # what went wrong first is the finding
                _empty(area)
            raise
        _empty(area)

    functools.update_wrapper(check, function)
    REGISTERED.append(check)
    return check


def _empty(area: Area) -> None:
    area.store.delete([info.key for info in area.store.list(area.prefix + "/")])


def forward_only(chunks: Iterable[bytes]) -> BinaryIO:
    """Return a source that has ``read(n)`` and nothing else."""
    return cast(BinaryIO, _ForwardOnly(iter(chunks)))


class _ForwardOnly:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        if self._ended:
            raise ContractBroken("the source was read again after its end")
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                self._ended = True
                return b""
        size = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


def untouchable() -> BinaryIO:
    def never() -> bytes:
        raise ContractBroken("the source was read before the put was refused")

    return forward_only(iter(never, b""))


def noise(size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes that do not repeat, always the same ones."""
    block = hashlib.shake_256(b"noise").digest(1 << 16)
    for number in range(-(-size // len(block))):
        chunk = number.to_bytes(8, "big") + block[8:]
        yield chunk[: size - number * len(block)]


def digest(chunks: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise ContractBroken(otherwise)


@contextlib.contextmanager
def raises(expected: type[StoreError], what: str) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    except StoreError as error:
        raise ContractBroken(f"{what} raised {error!r}, not {expected.__name__}") from error
    raise ContractBroken(f"{what} succeeded; {expected.__name__} was due")
