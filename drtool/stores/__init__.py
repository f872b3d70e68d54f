"""Where backup sets live: one protocol, one adapter per file, one contract suite for all of them.

The comments in ``Store`` are the contract; ``stores/conformance.py`` tests them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about one object. ``size`` in bytes; ``modified_at`` aware UTC.

    ``version`` comes from ``stat`` and is for ``open``: other bytes under the same key have another one.
    """

    key: str
    size: int
    modified_at: datetime
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do. Declared by the adapter from its kind and settings, never sniffed from silence."""

    lock: Literal["object", "bucket", "none"] = "none"
    conditional_put: bool = False
    signed_url: bool = False
    versioning: bool = False


UPLOADS_DIE_AFTER = timedelta(hours=6)
"""An upload that got no part for so long has no live writer: none pauses for a quarter of a day."""


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

    def open(
        self, key: str, *, start: int = 0, size: int | None = None, version: str = ""
    ) -> AbstractContextManager[BinaryIO]:
        """Read an object from byte ``start`` on, ``size`` bytes at most. ObjectMissing if it is not there.

        A body that breaks off early raises StoreTransient (or is resumed silently); it never looks like an end.
        With a ``version`` that ``stat`` told: StoreError if something else lies under the key by now.
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


@runtime_checkable
class LeavesUploads(Protocol):
    """A store in which a killed put leaves parts behind, which nobody sees and somebody pays for."""

    def remove_unfinished(self, prefix: str, *, is_dead: Callable[[str], bool]) -> tuple[str, ...]:
        """Abort the unfinished uploads of keys below ``prefix`` that have no live writer; return their keys.

        Dead at once is what ``is_dead`` says of a key: only who knows that no other process, here or elsewhere, can be
        writing it may say so. Any other upload is dead when nothing of it arrived for ``UPLOADS_DIE_AFTER``, by the
        store's own clock; one that was alive all the same fails loudly at its next part, and becomes no object. What
        no put of ours could have begun is left alone. Raises StoreAccessDenied without the right to list uploads.
        """
        ...


@runtime_checkable
class LocksObjects(Store, Protocol):
    """A store that can tell and change until when a single object is locked. Only if ``capabilities`` say "object"."""

    def locked_until(self, key: str) -> datetime | None:
        """Until when nobody may delete or change what lies under the key now. None: it is not locked."""
        ...

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock what lies under the key now until then, in the store's own mode. A longer lock stays as it is."""
        ...


@dataclass(frozen=True, slots=True)
class WormState:
    """A bucket's retention policy. One in progress protects for a day and then lapses: only ``locked`` counts.

    ``lapses_at`` is when a policy in progress stops protecting; ``retention`` is how long after its last change an
    object can neither be replaced nor deleted, by anybody.
    """

    state: Literal["none", "in progress", "locked"]
    retention: timedelta = timedelta(0)
    lapses_at: datetime | None = None


@runtime_checkable
class LocksBucket(Protocol):
    """A store whose service locks whole buckets (OSS)."""

    def worm_state(self) -> WormState:
        """What the bucket says now. Raises StoreAccessDenied without the right to ask."""
        ...


@runtime_checkable
class CopiesWithin(Protocol):
    """A store whose service copies objects by itself, so that their bytes need not pass through this host."""

    def copy_from(self, source: Store, key: str) -> bool:
        """Let the service copy ``key`` of ``source`` to the same key here; False if it is not one that it can reach.

        Asked once. After True, and after an error, look at what is there: what the service says of it proves nothing.
        """
        ...
