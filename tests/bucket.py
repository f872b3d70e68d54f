"""A bucket with versions and object lock, as S3 keeps them, in this process's memory and with a clock of its own.

A delete that names no version only hides an object, and a put over one only covers it: both are allowed whatever is
locked, and neither takes a byte away. What takes bytes away is deleting a version, which needs a right that hosts have
not, and is refused while the version is locked. Locks get longer, and shorter only by whoever may bypass governance.
"""

from __future__ import annotations

import bisect
import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import BinaryIO

from drtool.clock import Clock
from drtool.errors import ObjectExists, ObjectMissing, StoreAccessDenied, StoreError, StoreFull
from drtool.stores import Capabilities, ObjectInfo
from drtool.stores.keys import check_key, check_lock, check_prefix, check_span


@dataclass(frozen=True, slots=True)
class Version:
    """What was once put under a key; without ``content`` a delete marker."""

    number: int
    content: bytes | None
    stored_at: datetime
    locked_until: datetime | None = None


class Bucket:
    """What lies at the provider. ``down`` is an outage, ``capacity`` the room for all versions, in bytes."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.down = False
        self.capacity: int | None = None
        self.revoked: set[str] = set()
        self.lock = threading.RLock()
        self._versions: dict[str, list[Version]] = {}
        self._keys: list[str] = []
        self._count = 0
        self._used = 0

    @property
    def used(self) -> int:
        return self._used

    def find(self, key: str) -> Version | None:
        """What a plain read gets; None where there is nothing, or a delete marker."""
        versions = self._versions.get(key)
        return versions[-1] if versions and versions[-1].content is not None else None

    def keys(self, prefix: str) -> list[str]:
        """All keys that a listing shows."""
        first = bisect.bisect_left(self._keys, prefix)
        last = bisect.bisect_left(self._keys, prefix + "\x7f")
        return [key for key in self._keys[first:last] if self.find(key)]

    def add(self, key: str, content: bytes | None, locked_until: datetime | None = None) -> Version:
        size = len(content or b"")
        if self.capacity is not None and self._used + size > self.capacity:
            raise StoreFull(f"{self.name}: no room for {key}")
        if key not in self._versions:
            self._versions[key] = []
            bisect.insort(self._keys, key)
        self._count += 1
        self._used += size
        version = Version(self._count, content, self.clock.now(), locked_until)
        self._versions[key].append(version)
        return version

    def change(self, key: str, version: Version) -> None:
        """Put a changed version in the place of the one with its number."""
        versions = self._versions[key]
        versions[[each.number for each in versions].index(version.number)] = version

    def versions(self, key: str) -> tuple[Version, ...]:
        """Every version, oldest first."""
        return tuple(self._versions.get(key, ()))

    def remove(self, key: str, version: Version) -> None:
        self._versions[key].remove(version)
        self._used -= len(version.content or b"")
        if not self._versions[key]:
            del self._versions[key]
            self._keys.remove(key)

    # What happens to a bucket, or is done to it by its owner

    def rot(self, key: str) -> None:
        """Flip one bit, as a disk of the provider's would: same size, same date."""
        version = self.find(key)
        assert version is not None
        assert version.content
        middle = len(version.content) // 2
        flipped = bytes([version.content[middle] ^ 1])
        content = version.content[:middle] + flipped + version.content[middle + 1 :]
        self.change(key, replace(version, content=content))

    def rewind(self, to: datetime) -> int:
        """Take away every version that came after this moment, by the owner's right to bypass governance.

        So what was covered or hidden since then shows again. Returns how many were taken away.
        """
        later = [
            (key, version) for key, versions in self._versions.items() for version in versions if version.stored_at > to
        ]
        for key, version in later:
            self.remove(key, version)
        return len(later)


class BucketStore:
    """A bucket as somebody's credentials reach it. ``versions``: they may delete versions, which no host may."""

    def __init__(self, bucket: Bucket, credentials: str, *, versions: bool = False) -> None:
        self.name = bucket.name
        self.capabilities = Capabilities(lock="object", conditional_put=True, versioning=True)
        self.bucket = bucket
        self._credentials = credentials
        self._may_delete_versions = versions

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        check_key(key)
        check_lock(self.name, self.capabilities, lock_until)
        content = b"".join(iter(lambda: source.read(1 << 20), b""))
        with self._asked():
            if lock_until is not None and lock_until <= self.bucket.clock.now():
                raise StoreError(f"{self.name}: {key}: the lock would be over already")
            if only_if_absent and self.bucket.find(key):
                raise ObjectExists(f"{self.name}: {key} exists already")
            return _info(key, self.bucket.add(key, content, lock_until))

    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> closing[BinaryIO]:
        check_span(start, size)
        found = self._find(key)
        if version not in ("", str(found.number)):
            raise StoreError(f"{self.name}: {key} was replaced")
        return closing(io.BytesIO((found.content or b"")[start : None if size is None else start + size]))

    def stat(self, key: str) -> ObjectInfo:
        return _info(key, self._find(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._asked():
            return iter([_info(key, self._find(key)) for key in self.bucket.keys(prefix)])

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self._asked():
                if self.bucket.find(key):
                    self.bucket.add(key, None)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        raise StoreError(f"{self.name}: no URL leads to {check_key(key)}")

    def locked_until(self, key: str) -> datetime | None:
        return self._find(key).locked_until

    def extend_lock(self, key: str, until: datetime) -> None:
        check_lock(self.name, self.capabilities, until)
        found = self._find(key)
        if found.locked_until is None or found.locked_until < until:
            self.set_lock(key, until)

    # What only somebody who means harm calls

    def set_lock(self, key: str, until: datetime) -> None:
        """PutObjectRetention, which a server refuses if it is shorter than what is there."""
        found = self._find(key)
        with self._asked():
            if found.locked_until and until < found.locked_until and found.locked_until > self.bucket.clock.now():
                raise StoreAccessDenied(f"{self.name}: {key}: AccessDenied: the lock would be shorter")
            self.bucket.change(key, replace(found, locked_until=until))

    def delete_version(self, key: str, number: int) -> None:
        """DeleteObjectVersion, which a server refuses without the right to it, and while the version is locked."""
        with self._asked():
            (found,) = [each for each in self.bucket.versions(key) if each.number == number]
            if not self._may_delete_versions:
                raise StoreAccessDenied(f"{self.name}: {key}: AccessDenied: s3:DeleteObjectVersion")
            if found.locked_until and found.locked_until > self.bucket.clock.now():
                raise StoreAccessDenied(f"{self.name}: {key}: AccessDenied: locked")
            self.bucket.remove(key, found)

    def _find(self, key: str) -> Version:
        check_key(key)
        with self._asked():
            found = self.bucket.find(key)
        if found is None:
            raise ObjectMissing(f"{self.name}: no object {key}")
        return found

    def _asked(self) -> threading.RLock:
        """The bucket's lock, for whoever gets an answer."""
        if self.bucket.down:
            raise StoreError(f"{self.name}: cannot be reached", hint="Look whether the provider tells of an outage.")
        if self._credentials in self.bucket.revoked:
            raise StoreAccessDenied(f"{self.name}: InvalidAccessKeyId")
        return self.bucket.lock


def _info(key: str, version: Version) -> ObjectInfo:
    return ObjectInfo(key, len(version.content or b""), version.stored_at, str(version.number))
