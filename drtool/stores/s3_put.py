"""One object on its way into S3: the sink of one put. What boto3 answers is looked at here, boto3 itself is not."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from drtool.errors import ObjectExists, ObjectMissing, StoreError, StoreTransient
from drtool.stores import ObjectInfo
from drtool.stores.multipart import Slices
from drtool.stores.s3_answers import Refused, UploadGone

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef, MultipartUploadTypeDef

    from drtool.stores.s3 import S3Store

T = TypeVar("T")

# An upload without a new part for this long belongs to a dead writer: no live one pauses for a quarter of a day.
_DEAD_AFTER = timedelta(hours=6)
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
        lock = store.lock_arguments(lock_until)
        self._checksum: Any = {"ChecksumAlgorithm": "CRC32"} if lock else {}
        self._new_object: Any = {**self._address, "Metadata": {_MARK: self._mark}, **lock, **self._checksum}
        conditional = only_if_absent and store.capabilities.conditional_put
        self._condition: Any = {"IfNoneMatch": "*"} if conditional else {}
        self._upload_id = ""
        self._parts: dict[int, CompletedPartTypeDef] = {}

    def put_whole(self, content: bytearray) -> None:
        if not self._condition:
            self._refuse_if_present()
        try:
            self._call(lambda: self._client.put_object(Body=_body(content), **self._new_object, **self._condition))
        except (Refused, StoreTransient) as error:
            self._settle(error)

    def start(self) -> None:
        self._refuse_if_present()
        self._remove_dead_uploads()
        created = self._call(lambda: self._client.create_multipart_upload(**self._new_object))
        self._upload_id = created["UploadId"]

    def send_part(self, number: int, content: bytearray) -> None:
        with self._store.errors(self._key):
            sent = self._client.upload_part(
                **self._address,
                **self._checksum,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=_body(content),
            )
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": sent["ETag"]}
        if "ChecksumCRC32" in sent:  # AWS: what a part was sent with has to be named again at the end
            part["ChecksumCRC32"] = sent["ChecksumCRC32"]
        self._parts[number] = part

    def complete(self) -> None:
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            self._call(
                lambda: self._client.complete_multipart_upload(
                    **self._address, **self._condition, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
                )
            )
        except (Refused, UploadGone, StoreTransient) as error:
            self._settle(error)

    def abort(self) -> None:
        if self._upload_id:
            self._abort(self._upload_id)

    def confirm(self, size: int) -> ObjectInfo:
        """Look at the stored object: a server that kept fewer bytes than we sent must not pass for a success."""
        head = self._store.head(self._key)
        if self._mark_on(head) in (None, self._mark) and head["ContentLength"] != size:
            raise StoreError(f"{self._store.name}{self._key}: {size} bytes sent, {head['ContentLength']} stored")
        return ObjectInfo(self._key, size, head["LastModified"].astimezone(UTC))

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

    def _remove_dead_uploads(self) -> None:
        """Remove parts that killed writers of this very key left. Without the right to list uploads they stay."""
        try:
            page = self._call(
                lambda: self._client.list_multipart_uploads(Bucket=self._store.bucket, Prefix=self._address["Key"])
            )
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for found in page.get("Uploads", []):
                if found["Key"] == self._address["Key"] and now - self._last_sign_of(found) > _DEAD_AFTER:
                    self._abort(found["UploadId"])
        except StoreError:
            return  # tidying up is no reason to lose a backup; a lifecycle rule of the bucket does it as well

    def _last_sign_of(self, found: MultipartUploadTypeDef) -> datetime:
        parts = self._call(lambda: self._client.list_parts(**self._address, UploadId=found["UploadId"]))
        return max([found["Initiated"], *(part["LastModified"] for part in parts.get("Parts", []))])

    def _abort(self, upload_id: str) -> None:
        with contextlib.suppress(UploadGone, ObjectMissing):
            self._call(lambda: self._client.abort_multipart_upload(**self._address, UploadId=upload_id))


def _body(content: bytearray) -> bytes:
    """Tell the type checker what botocore does: it takes whatever reads and seeks."""
    return cast(bytes, Slices(content))
