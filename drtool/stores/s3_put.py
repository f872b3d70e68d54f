"""One object on its way into S3: the sink of one put. What boto3 answers is looked at here, boto3 itself is not."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from drtool.errors import ObjectExists, ObjectMissing, StoreError, StoreTransient
from drtool.stores import UPLOADS_DIE_AFTER, ObjectInfo
from drtool.stores.keys import is_key
from drtool.stores.multipart import Slices
from drtool.stores.s3_answers import Refused, UploadGone

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef, MultipartUploadTypeDef

    from drtool.stores.s3 import S3Store

T = TypeVar("T")

_MARK = "drtool-put"


class Put:
    """The PartSink of one put.

    Every object carries a random mark in its metadata. When an answer was lost, or "there is something already"
    may be the answer to our own earlier try, the mark says whether the object that is there is ours.
    """

    def __init__(self, store: S3Store, key: str, *, lock_until: datetime | None, only_if_absent: bool) -> None:
        self._store, self._client, self._key = store, store.client, key
        self._address: Any = store.address(key)
        self._mark = secrets.token_hex(16)
        self._only_if_absent = only_if_absent
        # With a lock AWS insists on a checksum, also when boto3 was told to send none that is not required.
        self._lock = store.lock_arguments(lock_until)
        self._checksum: Any = {"ChecksumAlgorithm": "CRC32"} if self._lock else {}
        self._new_object: Any = {
            **self._address,
            "Metadata": {_MARK: self._mark},
            **store.kept_as,
            **self._lock,
            **self._checksum,
        }
        conditional = only_if_absent and store.capabilities.conditional_put
        self._condition: Any = {"IfNoneMatch": "*"} if conditional else {}
        self._upload_id = ""
        self._parts: dict[int, CompletedPartTypeDef] = {}

    def put_whole(self, content: bytearray) -> None:
        if not self._condition:
            self._refuse_if_present()
        try:
            self._call(lambda: self._put_whole(content))
        except (Refused, StoreTransient) as error:
            self._settle(error)

    def start(self) -> None:
        self._refuse_if_present()
        self._upload_id = self._call(
            lambda: self._said(self._client.create_multipart_upload(**self._new_object), "UploadId")
        )

    def send_part(self, number: int, content: bytearray) -> None:
        digest = self._digest(content)
        with self._store.errors(self._key):
            sent = self._client.upload_part(
                **self._address,
                **self._checksum,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=_body(content),
                **digest,
            )
        if not self._store.payload.fits(sent, digest):
            raise StoreTransient(f"{self._store.name}{self._key}: part {number} arrived with another checksum")
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": self._said(sent, "ETag")}
        if "ChecksumCRC32" in sent:  # AWS: what a part was sent with has to be named again at the end
            part["ChecksumCRC32"] = sent["ChecksumCRC32"]
        self._parts[number] = part

    def complete(self) -> None:
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            self._call(lambda: self._complete(parts))
        except (Refused, UploadGone, StoreTransient) as error:
            self._settle(error)

    def abort(self) -> None:
        if self._upload_id:
            _abort(self._store, self._key, self._upload_id)

    def confirm(self, size: int) -> ObjectInfo:
        """Look at the stored object: a server that kept fewer bytes than we sent must not pass for a success."""
        head = self._store.head(self._key)
        if self._mark_on(head) in (None, self._mark) and head["ContentLength"] != size:
            raise StoreError(f"{self._store.name}{self._key}: {size} bytes sent, {head['ContentLength']} stored")
        if self._lock and self._mark_on(head) == self._mark:
            self._confirm_lock(head)
        return ObjectInfo(self._key, size, head["LastModified"].astimezone(UTC))

    def _confirm_lock(self, head: HeadObjectOutputTypeDef) -> None:
        """Ceph 18.2 takes a lock for an upload in parts, answers 200, and keeps none, or the bucket's default."""
        mode, until = self._lock["ObjectLockMode"], self._lock["ObjectLockRetainUntilDate"]
        kept, kept_until = head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")
        strong = kept in (mode, "COMPLIANCE") and kept_until is not None
        if not strong or kept_until < until - timedelta(seconds=1):  # servers keep whole seconds
            seen = f"it is {kept} until {kept_until}" if kept else "there is none, or it may not be seen"
            raise StoreError(
                f"{self._store.name}{self._key}: asked to be locked {mode} until {until}, and {seen}",
                hint="Leave object_lock out for this server, or allow s3:GetObjectRetention.",
            )

    def _put_whole(self, content: bytearray) -> None:
        sent = self._client.put_object(
            Body=_body(content), **self._new_object, **self._condition, **self._digest(content)
        )
        self._said(sent, "ETag")

    def _complete(self, parts: Sequence[CompletedPartTypeDef]) -> None:
        done = self._client.complete_multipart_upload(
            **self._address, **self._condition, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
        )
        self._said(done, "ETag")

    def _digest(self, content: bytearray) -> Any:
        """Let the server refuse bytes that changed on their way.

        Content-MD5 where it knows no other checksum: SHA-256, in the signature, is not what every server compares.
        """
        config: Any = self._client.meta.config
        if self._checksum or config.request_checksum_calculation != "when_required":
            return self._store.payload.checksum(content)
        return {"ContentMD5": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()}

    def _said(self, answer: Mapping[str, Any], name: str) -> str:
        """Take what every true answer says; a 200 without it is a portal's or a proxy's, and nothing was stored."""
        if name not in answer:
            raise StoreTransient(f"{self._store.name}{self._key}: a 200 that is not one of S3")
        return str(answer[name])

    def _call(self, function: Callable[[], T]) -> T:
        return self._store.call(self._key, function)

    def _refuse_if_present(self) -> None:
        """Raise ObjectExists early: gigabytes need not travel first. On servers without conditions, all there is."""
        if self._only_if_absent:
            with contextlib.suppress(ObjectMissing):
                self._store.head(self._key)
                raise self._exists()

    def _settle(self, error: StoreError) -> None:
        """Return if the object that is there is ours; else raise what ``error`` then means."""
        try:
            head = self._store.head(self._key)
        except StoreError:
            # Nothing there, or nobody may look: the first error is the better account.
            raise self._exists() if isinstance(error, Refused) else error from None
        if self._mark_on(head) == self._mark:
            return
        raise self._exists() if self._only_if_absent else error

    def _mark_on(self, head: HeadObjectOutputTypeDef) -> str | None:
        # rclone 1.75 gives the names back capitalised
        return {name.lower(): value for name, value in head["Metadata"].items()}.get(_MARK)

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._store.name}{self._key} exists already")


def remove_unfinished(store: S3Store, prefix: str, is_dead: Callable[[str], bool]) -> tuple[str, ...]:
    """What ``LeavesUploads`` says."""
    removed = []
    for found, now in _unfinished(store, prefix):
        key = found["Key"].removeprefix(store.prefix)
        if is_key(key) and (is_dead(key) or now - _last_sign_of(store, key, found) > UPLOADS_DIE_AFTER):
            _abort(store, key, found["UploadId"])
            removed.append(key)
    return tuple(removed)


def _unfinished(store: S3Store, prefix: str) -> Iterator[tuple[MultipartUploadTypeDef, datetime]]:
    """Every upload below ``prefix``, and what the server's clock said when it told of it."""
    arguments: Any = {"Bucket": store.bucket, "Prefix": store.prefix + prefix}
    while True:
        page = store.call(prefix, functools.partial(store.client.list_multipart_uploads, **arguments))
        now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
        yield from ((found, now) for found in page.get("Uploads", []))
        if not page.get("IsTruncated"):
            return
        arguments |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _last_sign_of(store: S3Store, key: str, found: MultipartUploadTypeDef) -> datetime:
    """When its newest part arrived, which may have any number; of one without parts, when it was begun."""
    arguments: Any = {**store.address(key), "UploadId": found["UploadId"]}
    newest = found["Initiated"]
    while True:
        page = store.call(key, functools.partial(store.client.list_parts, **arguments))
        newest = max([newest, *(part["LastModified"] for part in page.get("Parts", []))])
        if not page.get("IsTruncated"):
            return newest
        arguments["PartNumberMarker"] = page["NextPartNumberMarker"]


def _abort(store: S3Store, key: str, upload_id: str) -> None:
    with contextlib.suppress(UploadGone, ObjectMissing):
        store.call(key, lambda: store.client.abort_multipart_upload(**store.address(key), UploadId=upload_id))


def _body(content: bytearray) -> bytes:
    """Tell the type checker what botocore does: it takes whatever reads and seeks."""
    return cast(bytes, Slices(content))
