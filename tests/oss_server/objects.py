"""Calls on one object: put, get, head, copy, delete, thaw, tag."""

from __future__ import annotations

import re
from datetime import timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, unquote

from tests.oss_server.answers import Answer, Refusal, Request, check_md5, http_date, iso, parse, xml_answer
from tests.oss_server.state import (
    CRC,
    FROZEN,
    Bucket,
    Clock,
    Version,
    etag_of,
    kept_headers,
    storage_class_of,
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_COPIED_RANGE = re.compile(r"bytes=(\d+)-(\d+)\Z")


class Objects:
    def __init__(self, buckets: dict[str, Bucket], clock: Clock) -> None:
        self._buckets, self._clock = buckets, clock

    def put(self, bucket: Bucket, request: Request) -> Answer:
        check_md5(request)
        version = Version(
            request.body,
            etag_of(request.body),
            CRC.calc(request.body),
            "Normal",
            kept_headers(request.headers),
            storage_class_of(request, bucket),
            self._clock.now(),
            dict(parse_qsl(request.headers.get("x-oss-tagging", ""))),
        )
        bucket.check_overwrite(request.key, request, self._clock.now())
        bucket.add(request.key, version)
        return Answer(200, written_headers(bucket, version))

    def copy(self, bucket: Bucket, request: Request) -> Answer:
        source = self.copy_source(request)
        replaced = request.headers.get("x-oss-metadata-directive", "COPY").upper() == "REPLACE"
        headers = kept_headers(request.headers) if replaced else dict(source.headers)
        version = Version(
            source.content,
            source.etag,
            None,  # a copy's checksum is not always told
            "Normal",
            headers,
            storage_class_of(request, bucket),
            self._clock.now(),
            dict(source.tags),
        )
        bucket.check_overwrite(request.key, request, self._clock.now())
        bucket.add(request.key, version)
        answer = xml_answer(
            "CopyObjectResult", [("ETag", f'"{version.etag}"'), ("LastModified", iso(version.modified_at))]
        )
        answer.headers |= _version_header(bucket, version)
        return answer

    def copy_source(self, request: Request) -> Version:
        name, _, version_id = request.headers["x-oss-copy-source"].partition("?versionId=")
        bucket, _, key = unquote(name).removeprefix("/").partition("/")
        if bucket not in self._buckets:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.", BucketName=bucket)
        source = self._buckets[bucket].find(key, version_id)
        self._refuse_frozen(source)
        return source

    def copied_bytes(self, request: Request) -> bytes:
        """The bytes that an UploadPartCopy names."""
        content = self.copy_source(request).content
        asked = request.headers.get("x-oss-copy-source-range")
        if asked is None:
            return content
        match = _COPIED_RANGE.match(asked)
        if not match or not int(match[1]) <= int(match[2]) < len(content):
            raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied.")
        return content[int(match[1]) : int(match[2]) + 1]

    def get(self, bucket: Bucket, request: Request) -> Answer:
        version = self._visible(bucket, request)
        self._check_conditions(version, request)
        self._refuse_frozen(version)
        headers = self._headers(bucket, version)
        for name, value in request.query.items():
            if name.startswith("response-"):
                headers[name.removeprefix("response-")] = value
        span = _span(request, len(version.content))
        if span is None:
            return Answer(200, headers, version.content)
        start, end = span
        # The checksum stays that of the whole object: OSS does so, and clients that compare it here are wrong.
        headers["content-range"] = f"bytes {start}-{end - 1}/{len(version.content)}"
        return Answer(206, headers, version.content[start:end])

    def head(self, bucket: Bucket, request: Request) -> Answer:
        version = self._visible(bucket, request)
        self._check_conditions(version, request)
        return Answer(200, self._headers(bucket, version) | {"content-length": str(len(version.content))})

    def meta(self, bucket: Bucket, request: Request) -> Answer:
        version = self._visible(bucket, request)
        wanted = ("etag", "last-modified", "x-oss-hash-crc64ecma", "x-oss-version-id")
        headers = {name: value for name, value in self._headers(bucket, version).items() if name in wanted}
        return Answer(200, headers | {"content-length": str(len(version.content))})

    def delete(self, bucket: Bucket, request: Request) -> Answer:
        version_id = request.query.get("versionId", "")
        marker = bucket.remove(request.key, version_id, self._clock.now())
        headers = {"x-oss-version-id": version_id} if version_id else {}
        if marker:
            headers = {"x-oss-delete-marker": "true", "x-oss-version-id": marker.version_id}
        return Answer(204, headers)

    def restore(self, bucket: Bucket, request: Request) -> Answer:
        version = self._visible(bucket, request)
        now = self._clock.now()
        if version.storage_class not in FROZEN:
            raise Refusal(400, "OperationNotSupported", "The operation is not supported for this resource.")
        if version.thawing(now):
            raise Refusal(409, "RestoreAlreadyInProgress", "The restore operation is in progress.")
        days = int(parse(request, "RestoreRequest").findtext("Days", "1")) if request.body else 1
        if not 1 <= days <= (7 if version.storage_class == "Archive" else 365):
            raise Refusal(400, "InvalidArgument", "Days is out of range.", ArgumentName="Days")
        thawed = version.readable(now)
        if not thawed:
            version.thawed_at = now + FROZEN[version.storage_class]
        version.freezes_at = (version.thawed_at or now) + timedelta(days=days)
        return Answer(200 if thawed else 202)

    def put_tagging(self, bucket: Bucket, request: Request) -> Answer:
        version = self._visible(bucket, request)
        tree = parse(request, "Tagging")
        version.tags = {tag.findtext("Key", ""): tag.findtext("Value", "") for tag in tree.iterfind("TagSet/Tag")}
        return Answer()

    def get_tagging(self, bucket: Bucket, request: Request) -> Answer:
        tags = self._visible(bucket, request).tags.items()
        return xml_answer("Tagging", [("TagSet", [("Tag", [("Key", name), ("Value", value)]) for name, value in tags])])

    def delete_tagging(self, bucket: Bucket, request: Request) -> Answer:
        self._visible(bucket, request).tags = {}
        return Answer(204)

    def _visible(self, bucket: Bucket, request: Request) -> Version:
        version = bucket.find(request.key, request.query.get("versionId", ""))
        if version.marker:
            raise Refusal(405, "MethodNotAllowed", "The specified version is a delete marker.")
        return version

    def _headers(self, bucket: Bucket, version: Version) -> dict[str, str]:
        headers = {
            "content-type": "application/octet-stream",
            **version.headers,
            "etag": f'"{version.etag}"',
            "last-modified": http_date(version.modified_at),
            "accept-ranges": "bytes",
            "x-oss-object-type": version.kind,
            "x-oss-storage-class": version.storage_class,
            **_version_header(bucket, version),
        }
        if version.crc is not None:
            headers["x-oss-hash-crc64ecma"] = str(version.crc)
        if version.tags:
            headers["x-oss-tagging-count"] = str(len(version.tags))
        now = self._clock.now()
        if version.thawing(now):
            headers["x-oss-restore"] = 'ongoing-request="true"'
        elif version.freezes_at is not None and version.readable(now):
            headers["x-oss-restore"] = f'ongoing-request="false", expiry-date="{http_date(version.freezes_at)}"'
        return headers

    def _refuse_frozen(self, version: Version) -> None:
        if not version.readable(self._clock.now()):
            message = "The operation is not valid for the object's state."
            raise Refusal(403, "InvalidObjectState", message, ec="0016-00000401")

    def _check_conditions(self, version: Version, request: Request) -> None:
        def names(header: str) -> set[str]:
            return {item.strip().strip('"') for item in request.headers.get(header, "").split(",")}

        def day(header: str) -> bool:
            return version.modified_at <= parsedate_to_datetime(request.headers[header])

        if "if-match" in request.headers and version.etag not in names("if-match"):
            raise _failed("If-Match")
        if "if-unmodified-since" in request.headers and not day("if-unmodified-since"):
            raise _failed("If-Unmodified-Since")
        if "if-none-match" in request.headers and version.etag in names("if-none-match"):
            raise Refusal(304, "NotModified")
        if "if-modified-since" in request.headers and day("if-modified-since"):
            raise Refusal(304, "NotModified")


def written_headers(bucket: Bucket, version: Version) -> dict[str, str]:
    """What the answer to a put or a completion tells about the new object."""
    headers = {"etag": f'"{version.etag}"', **_version_header(bucket, version)}
    if version.crc is not None:
        headers["x-oss-hash-crc64ecma"] = str(version.crc)
    return headers


def _version_header(bucket: Bucket, version: Version) -> dict[str, str]:
    return {"x-oss-version-id": version.version_id} if bucket.versioning else {}


def _failed(condition: str) -> Refusal:
    message = "At least one of the pre-conditions you specified did not hold."
    return Refusal(412, "PreconditionFailed", message, Condition=condition)


def _span(request: Request, size: int) -> tuple[int, int] | None:
    """The half-open range to answer with; None: the whole object.

    Without ``x-oss-range-behavior: standard`` a range that is not entirely inside the object means all of it, with
    status 200. With it the end is clipped, and a start behind the end is refused.
    """
    match = _RANGE.match(request.headers.get("range", ""))
    if not match or match[0] == "bytes=-":
        return None
    standard = request.headers.get("x-oss-range-behavior") == "standard"
    if not match[1]:
        length = int(match[2])
        inside = 0 < length <= size
        start, end = max(0, size - length), size
    else:
        start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
        if match[2] and end <= start:
            return None
        inside = start < size and end <= size
    if inside:
        return start, end
    if not standard:
        return None
    if start >= size or (not match[1] and match[2] == "0"):
        raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied.", ActualObjectSize=str(size))
    return start, min(end, size)
