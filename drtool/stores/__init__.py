"""Where backup sets live: one protocol, one adapter per file, one contract suite for all of them.

The comments in ``Store`` are the contract; ``stores/conformance.py`` tests them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about one object. ``size`` in bytes; ``modified_at`` aware UTC."""

    key: str
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do. Declared by the adapter from its kind and settings, never sniffed from silence."""

    lock: Literal["object", "bucket", "none"] = "none"
    conditional_put: bool = False
    signed_url: bool = False
    versioning: bool = False


class Store(Protocol):
    """Flat keys to bytes. Keys are ``/``-separated, relative, ASCII letters, digits and ``._-``; no ``..``."""

    @property
    def name(self) -> str:
        """A short address for people and error messages, without secrets: ``s3://bucket/prefix``."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        """Store everything ``source`` yields under ``key``, or nothing.

        ``source`` is read once, forward only, with ``read(n)``; it may be a pipe. The object becomes visible
        only after ``read`` returned ``b""``: when ``read`` raises, the exception goes through unchanged and
        nothing is left under ``key`` (an older object stays as it was). Returns after the bytes are durable as
        far as the store promises it. ``only_if_absent`` raises ObjectExists and leaves what is there untouched.
        ``lock_until`` on a store whose capabilities say ``none`` raises StoreError before the first byte.
        """
        ...

    def open(self, key: str, *, start: int = 0) -> AbstractContextManager[BinaryIO]:
        """Read an object from byte ``start`` on. ObjectMissing if it is not there.

        A body that breaks off early raises StoreTransient (or is resumed silently); it never looks like an end.
        """
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Raise ObjectMissing if it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, ascending in byte order. Unfinished uploads never show."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these keys. A missing key is no error."""
        ...

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        """A URL that reads this object without credentials for ``ttl``. StoreError where the store cannot."""
        ...
