"""A store in this process's memory: for tests and the demo, and the plainest statement of the contract."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from drtool.errors import ObjectExists, ObjectMissing, StoreError, StoreFull
from drtool.stores import Capabilities, ObjectInfo
from drtool.stores.keys import check_key, check_lock, check_prefix, check_span


class MemoryStore:
    """A dictionary of bytes behind a lock. ``capacity`` is the room in bytes for all objects; None has no end."""

    def __init__(self, *, name: str = "memory", capacity: int | None = None) -> None:
        self.name = name
        self.capabilities = Capabilities(conditional_put=True)
        self.capacity = capacity
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._versions = itertools.count(1)
        self._lock = threading.Lock()

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,  # noqa: ARG002  the contract offers it; memory needs no plan
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        check_key(key)
        check_lock(self.name, self.capabilities, lock_until)
        content = b"".join(iter(lambda: source.read(1 << 20), b""))
        with self._lock:
            if only_if_absent and key in self._objects:
                raise ObjectExists(f"{self.name}: {key} exists already")
            self._check_room(key, len(content))
            info = ObjectInfo(key, len(content), datetime.now(UTC), version=str(next(self._versions)))
            self._objects[key] = (info, content)
        return info

    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> closing[BinaryIO]:
        check_span(start, size)
        info, content = self._find(key)
        if version not in ("", info.version):
            raise StoreError(f"{self.name}: {key} was replaced")
        return closing(io.BytesIO(content[start : None if size is None else start + size]))

    def stat(self, key: str) -> ObjectInfo:
        return self._find(key)[0]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            infos = [info for info, _ in self._objects.values() if info.key.startswith(prefix)]
        return iter(sorted(infos, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self._lock:
                self._objects.pop(key, None)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:  # noqa: ARG002  nobody outside can reach this memory
        raise StoreError(f"{self.name}: no URL leads to {check_key(key)}")

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        check_key(key)
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise ObjectMissing(f"{self.name}: no object {key}")
        return found

    def _check_room(self, key: str, size: int) -> None:
        if self.capacity is None:
            return
        used = sum(info.size for info, _ in self._objects.values() if info.key != key)
        if used + size > self.capacity:
            raise StoreFull(f"{self.name}: no room for {key}: {size} bytes, {self.capacity - used} left")
