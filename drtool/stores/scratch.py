"""A store seen through one scratch prefix: what is tried there touches nothing else, and is removed again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import BinaryIO

from drtool.errors import ObjectExists, StoreError
from drtool.stores import Capabilities, ObjectInfo, Store
from drtool.stores.conformance import NotApplicable


class ScratchStore:
    """Passes on what concerns keys below ``prefix``, remembers them, and refuses all other keys.

    Once ``may_list``, ``may_delete`` or ``may_replace`` is set to False, a contract that needs this gets
    NotApplicable: it is not the store's fault then that it cannot be asked.
    """

    def __init__(self, inner: Store, prefix: str) -> None:
        self.inner, self.prefix = inner, prefix
        self.may_list = self.may_delete = self.may_replace = True
        self._tried: set[str] = set()  # also a put that failed may have left something
        self._stored: set[str] = set()

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
        self._tried.add(self._inside(key))
        replaces = key in self._stored and not only_if_absent
        try:
            info = self.inner.put(
                key, source, size_hint=size_hint, lock_until=lock_until, only_if_absent=only_if_absent
            )
        except ObjectExists:
            raise
        except StoreError as error:
            if replaces and not self.may_replace:
                raise NotApplicable("objects may not be replaced here") from error
            raise
        self._stored.add(key)
        return info

    def open(
        self, key: str, *, start: int = 0, size: int | None = None, version: str = ""
    ) -> AbstractContextManager[BinaryIO]:
        return self.inner.open(self._inside(key), start=start, size=size, version=version)

    def stat(self, key: str) -> ObjectInfo:
        return self.inner.stat(self._inside(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if not self.may_list:
            raise NotApplicable("listing is not allowed here")
        return self.inner.list(self._inside(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [self._inside(key) for key in keys]
        if not self.may_delete:
            raise NotApplicable("deleting is not allowed here")
        self.inner.delete(wanted)
        self._stored.difference_update(wanted)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        return self.inner.signed_url(self._inside(key), ttl=ttl)

    def clear(self) -> tuple[str, ...]:
        """Delete what was put here, if that is allowed; return the keys that stay. May be called twice.

        What lies below the prefix and was not put by us stays, and is not returned: it is somebody else's.
        """
        ours = self._present()
        if ours and self.may_delete:
            self.delete(ours)
            ours = self._present()
        return ours

    def _present(self) -> tuple[str, ...]:
        if not self.may_list:
            return tuple(sorted(self._stored))
        return tuple(info.key for info in self.inner.list(f"{self.prefix}/") if info.key in self._tried)

    def _inside(self, key: str) -> str:
        if not key.startswith(f"{self.prefix}/"):
            raise StoreError(f"{key[:80]!r} does not lie below {self.prefix}/")
        return key
