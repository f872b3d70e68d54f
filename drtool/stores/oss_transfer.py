"""One object on its way into OSS, and one on its way out. What oss2 answers is looked at here, oss2 itself is not.

Both compare checksums (CRC-64/XZ, as OSS tells it of every object): of each part, of the whole, and of what is read.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import anycrc

from drtool.errors import ObjectExists, ObjectMissing, StoreError, StoreTransient
from drtool.stores import UPLOADS_DIE_AFTER, ObjectInfo
from drtool.stores.keys import is_key
from drtool.stores.multipart import Slices
from drtool.stores.oss_answers import Frozen, PastTheEnd, Refused, Retained, UploadGone, frozen_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from drtool.stores.oss import OssStore

T = TypeVar("T")

# Not crcmod, which oss2 brings: without a compiler pip installs its Python only, 5 MB/s; with one, 420 MB/s for all
# threads together. anycrc 2.1.0 does 12 GB/s.
CRC = anycrc.Model("CRC64-XZ")
_MARK = "x-oss-meta-drtool-put"
_RESUMES = 5
_PROGRESS = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


@dataclass(frozen=True, slots=True)
class _Part:
    """What oss2 wants to know of a part when an upload is completed (``oss2.models.PartInfo``)."""

    part_number: int
    etag: str


class Checked:
    """A source, and the checksum of all that was read from it: what the stored object has to fit in the end."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.crc = 0

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self.crc = CRC.calc(chunk, self.crc)
        return chunk


class Put:
    """The PartSink of one put.

    Every object carries a random mark in its metadata. When an answer was lost, or "there is something already"
    may be the answer to our own earlier try, the mark says whether the object that is there is ours.
    """

    def __init__(self, store: OssStore, key: str, stream: Checked, *, only_if_absent: bool) -> None:
        self._store, self._client, self._key, self._stream = store, store.client, key, stream
        self._name = store.prefix + key
        self._mark = secrets.token_hex(16)
        self._only_if_absent = only_if_absent
        # The type is named, or oss2 would take it from the key's ending and what this machine thinks of that.
        self._new_object = {"Content-Type": "application/octet-stream", _MARK: self._mark, **store.storage_headers}
        conditional = only_if_absent and store.conditional_put
        self._condition = {"x-oss-forbid-overwrite": "true"} if conditional else {}
        self._upload_id = ""
        self._parts: dict[int, _Part] = {}

    def put_whole(self, content: bytearray) -> None:
        if not self._condition:
            self._refuse_if_present()
        # The digest is checked before anything is replaced; the checksum below only when it was.
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        headers = {**self._new_object, **self._condition, "Content-MD5": md5}
        try:
            self._call(
                lambda: self._compare(self._client.put_object(self._name, Slices(content), headers=headers), content)
            )
        except (Refused, Retained, StoreTransient) as error:
            self._settle(error)

    def start(self) -> None:
        self._refuse_if_present()
        started = self._call(lambda: self._client.init_multipart_upload(self._name, headers=self._new_object))
        self._upload_id = started.upload_id

    def send_part(self, number: int, content: bytearray) -> None:
        with self._store.errors(self._key):
            sent = self._client.upload_part(self._name, self._upload_id, number, Slices(content))
        self._compare(sent, content)
        self._parts[number] = _Part(number, sent.etag)

    def complete(self) -> None:
        parts = [self._parts[number] for number in sorted(self._parts)]

        def once() -> int | None:
            done = self._client.complete_multipart_upload(
                self._name, self._upload_id, parts, headers=dict(self._condition)
            )
            # To its end: an answer that breaks off settles nothing, and a connection is freed.
            if b"<CompleteMultipartUploadResult" not in done.resp.read():
                raise self._not_an_answer()
            crc: int | None = done.crc
            return crc

        try:
            crc = self._call(once)
        except (Refused, Retained, UploadGone, StoreTransient) as error:
            self._settle(error)
        else:
            if crc not in (None, self._stream.crc):
                raise self._damaged()

    def abort(self) -> None:
        if self._upload_id:
            _abort(self._store, self._key, self._upload_id)

    def confirm(self, size: int) -> ObjectInfo:
        """Look at the stored object: a server that kept other bytes than we sent must not pass for a success."""
        head = self._store.head(self._key)
        if head.headers.get(_MARK) == self._mark:
            if head.content_length != size:
                raise StoreError(f"{self._store.name}{self._key}: {size} bytes sent, {head.content_length} stored")
            if head.server_crc not in (None, self._stream.crc):
                raise self._damaged()
        return ObjectInfo(self._key, size, moment(head.last_modified))

    def _call(self, function: Callable[[], T]) -> T:
        return self._store.call(self._key, function)

    def _compare(self, sent: Any, content: bytearray) -> None:
        """Have bytes sent again that did not arrive as they were, or that somebody else said yes to."""
        if not sent.etag:
            raise self._not_an_answer()
        if sent.crc not in (None, CRC.calc(content)):
            raise StoreTransient(f"{self._store.name}{self._key} at {self._store.endpoint}: bytes changed on their way")

    def _not_an_answer(self) -> StoreTransient:
        """What a 200 is that says nothing of the object: a portal's or a proxy's, or an error that came too late."""
        return StoreTransient(f"{self._store.name}{self._key} at {self._store.endpoint}: a 200 that is not one of OSS")

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self._store.name}{self._key}: the stored object has another checksum than what was sent",
            hint="The object is there and is wrong: put it again.",
        )

    def _refuse_if_present(self) -> None:
        """Raise ObjectExists early: gigabytes need not travel first. On versioned buckets, all there is."""
        if self._only_if_absent:
            with contextlib.suppress(ObjectMissing):
                self._store.head(self._key)
                raise self._exists()

    def _settle(self, error: StoreError) -> None:
        """Return if the object that is there is ours, for ``confirm`` to compare; else raise what ``error`` means."""
        try:
            head = self._store.head(self._key)
        except StoreError:
            # Nothing there, or nobody may look: the first error is the better account.
            raise self._exists() if isinstance(error, Refused) else error from None
        if head.headers.get(_MARK) == self._mark:
            return
        raise self._exists() if self._only_if_absent else error

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._store.name}{self._key} exists already")


def remove_unfinished(store: OssStore, prefix: str, is_dead: Callable[[str], bool]) -> tuple[str, ...]:
    """What ``LeavesUploads`` says."""
    removed = []
    for found, now in _unfinished(store, prefix):
        key = found.key.removeprefix(store.prefix)
        if is_key(key) and (is_dead(key) or now - _last_sign_of(store, key, found) > UPLOADS_DIE_AFTER):
            _abort(store, key, found.upload_id)
            removed.append(key)
    return tuple(removed)


def _unfinished(store: OssStore, prefix: str) -> Iterator[tuple[Any, datetime]]:
    """Every upload below ``prefix``, and what the service's clock said when it told of it."""
    key, upload_id = "", ""
    while True:
        ask = functools.partial(
            store.client.list_multipart_uploads, store.prefix + prefix, key_marker=key, upload_id_marker=upload_id
        )
        page = store.call(prefix, ask)
        now = parsedate_to_datetime(page.headers["Date"])
        yield from ((found, now) for found in page.upload_list)
        if not page.is_truncated:
            return
        key, upload_id = page.next_key_marker, page.next_upload_id_marker


def _last_sign_of(store: OssStore, key: str, found: Any) -> datetime:
    """When its newest part arrived, which may have any number; of one without parts, when it was begun."""
    newest, marker = found.initiation_date, ""
    while True:
        page = store.call(key, functools.partial(store.client.list_parts, found.key, found.upload_id, marker))
        newest = max([newest, *(part.last_modified for part in page.parts)])
        if not page.is_truncated:
            return moment(newest)
        marker = page.next_marker


def _abort(store: OssStore, key: str, upload_id: str) -> None:
    with contextlib.suppress(UploadGone, ObjectMissing):
        store.call(key, lambda: store.client.abort_multipart_upload(store.prefix + key, upload_id))


class Body(io.RawIOBase):
    """Some bytes of one object, over as many connections as it takes.

    A body that ends early is asked for again from there, of the same object (``If-Match``); five times without
    a MiB in between, then StoreTransient. The last bytes of a whole object are given only if all fit its checksum.
    """

    def __init__(self, store: OssStore, key: str, start: int, size: int | None, etag: str) -> None:
        self._store, self._key, self._position = store, key, start
        self._wanted_end = None if size is None else start + size
        self._etag, self._end = etag, 0
        self._crc, self._due_crc = 0, None
        self._resumed, self._resumed_at = 0, start
        self._stream: Any = None
        self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while self._stream is not None and self._position < self._end:
            try:
                chunk = self._read(min(len(view), self._end - self._position))
            except StoreTransient as error:
                self._resume(error)
                continue
            view[: len(chunk)] = chunk
            self._position += len(chunk)
            self._crc = CRC.calc(chunk, self._crc)
            if self._position == self._end and self._due_crc not in (None, self._crc):
                raise self._store.doubt(self._key, self._etag)
            return len(chunk)
        return 0

    def close(self) -> None:
        if not self.closed:
            self._disconnect()
        super().close()

    def _read(self, size: int) -> bytes:
        with self._store.errors(self._key):
            chunk: bytes = self._stream.read(size)
        if not chunk:
            raise StoreTransient(f"{self._store.name}{self._key} ended {self._end - self._position} bytes early")
        return chunk

    def _connect(self) -> None:
        """Ask for the rest, if there is one."""
        start, etag = self._position, self._etag
        ranged = bool(start) or self._wanted_end is not None
        # Without this OSS takes a range that it cannot serve for no range: 200, and the whole object.
        headers = {"x-oss-range-behavior": "standard"} if ranged else {}
        if etag:
            headers["If-Match"] = f'"{etag}"'
        last = None if self._wanted_end is None else self._wanted_end - 1
        name, span = self._store.prefix + self._key, (start, last) if ranged else None
        try:
            answer = self._store.call(
                self._key, lambda: self._store.client.get_object(name, byte_range=span, headers=headers)
            )
        except PastTheEnd:
            return
        except Refused as error:
            raise StoreError(f"{self._store.name}{self._key} was replaced while it was being read") from error
        except Frozen:
            raise frozen_error(f"{self._store.name}{self._key}", self._store.head(self._key).headers) from None
        self._stream = answer
        if ranged and not self._starts_there(answer):
            self._disconnect()
            if answer.status == 200 and answer.content_length <= start:
                return
            raise StoreError(f"{self._store.name}{self._key}: the server ignores where to start reading")
        if not ranged:
            if answer.content_length is None:
                raise StoreError(f"{self._store.name}{self._key}: somebody in between hides how long the object is")
            self._end, self._due_crc = answer.content_length, answer.server_crc
        self._etag = answer.etag

    def _starts_there(self, answer: Any) -> bool:
        match = _CONTENT_RANGE.match(answer.content_range or "")
        if answer.status != 206 or not match:
            return False
        first, last, size = map(int, match.groups())
        self._end = size if self._wanted_end is None else min(size, self._wanted_end)
        return first == self._position and last == self._end - 1

    def _resume(self, error: StoreTransient) -> None:
        if self._position - self._resumed_at >= _PROGRESS:
            self._resumed = 0
        if self._resumed >= _RESUMES:
            raise error
        self._resumed, self._resumed_at = self._resumed + 1, self._position
        self._disconnect()
        self._connect()

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.resp.response.close()  # a body that was not read to its end keeps its connection
            self._stream = None


def moment(seconds: int) -> datetime:
    """Turn the seconds by which oss2 tells times into our kind of time."""
    return datetime.fromtimestamp(seconds, UTC)
