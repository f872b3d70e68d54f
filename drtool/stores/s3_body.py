"""One object on its way out of S3."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from drtool.errors import StoreError, StoreTransient
from drtool.stores.s3_answers import PastTheEnd, Refused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from drtool.stores.s3 import S3Store

_RESUMES = 5
_PROGRESS = 1 << 20


class Body(io.RawIOBase):
    """Some bytes of one object, over as many connections as it takes.

    A body that ends early is asked for again from there, of the same object (``If-Match``); five times without
    a MiB in between, then StoreTransient.
    """

    def __init__(self, store: S3Store, key: str, start: int, size: int | None, etag: str) -> None:
        self._store, self._key, self._position = store, key, start
        self._end = None if size is None else start + size
        self._etag = etag
        self._resumed, self._resumed_at = 0, start
        self._stream: Any = self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        if self._end is not None:  # a server without ranges sends all
            view = view[: self._end - self._position]
        while self._stream is not None and view:
            try:
                with self._store.errors(self._key):
                    chunk = self._stream.read(len(view))
            except StoreTransient as error:
                self._resume(error)
                continue
            view[: len(chunk)] = chunk
            self._position += len(chunk)
            return len(chunk)
        return 0

    def close(self) -> None:
        if not self.closed and self._stream is not None:
            self._stream.close()
        super().close()

    def _connect(self) -> Any:
        """Ask for the rest. None: there is no rest."""
        start = self._position
        last = "" if self._end is None else self._end - 1
        extra: Any = {"Range": f"bytes={start}-{last}"} if start or last != "" else {}
        if self._etag:
            extra["IfMatch"] = self._etag
        try:
            answer = self._store.call(
                self._key, lambda: self._store.client.get_object(**self._store.address(self._key), **extra)
            )
        except PastTheEnd:
            return None
        except Refused as error:
            raise self._replaced() from error
        # OSS by S3, and simple servers, answer a range they do not like with 200 and the whole object.
        if start and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            answer["Body"].close()
            if answer["ContentLength"] <= start:
                return None
            raise StoreError(f"{self._store.name}{self._key}: the server ignores where to start reading")
        if self._etag not in ("", answer["ETag"]):  # a server that knows no If-Match
            answer["Body"].close()
            raise self._replaced()
        self._etag = answer["ETag"]
        return answer["Body"]

    def _replaced(self) -> StoreError:
        return StoreError(f"{self._store.name}{self._key} was replaced while it was being read")

    def _resume(self, error: StoreTransient) -> None:
        if self._position - self._resumed_at >= _PROGRESS:
            self._resumed = 0
        if self._resumed >= _RESUMES:
            raise error
        self._resumed, self._resumed_at = self._resumed + 1, self._position
        if self._stream is not None:
            self._stream.close()
        self._stream = self._connect()
