"""Uploads in parts: nothing of them is an object before it is completed, and every part is held to its rules."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

from tests.oss_server.answers import Answer, Refusal, Request, Tree, check_md5, iso, number, parse, xml_answer
from tests.oss_server.objects import Objects, written_headers
from tests.oss_server.state import (
    CRC,
    Bucket,
    Clock,
    Part,
    Upload,
    Version,
    etag_of,
    kept_headers,
    storage_class_of,
)

SMALLEST_PART = 100 << 10
MOST_PARTS = 10_000


class Uploads:
    def __init__(self, objects: Objects, clock: Clock) -> None:
        self._objects, self._clock = objects, clock

    def initiate(self, bucket: Bucket, request: Request) -> Answer:
        bucket.check_overwrite(request.key, request, self._clock.now())
        upload = Upload(
            secrets.token_hex(16).upper(),
            request.key,
            kept_headers(request.headers),
            storage_class_of(request, bucket),
            dict(parse_qsl(request.headers.get("x-oss-tagging", ""))),
            self._clock.now(),
        )
        bucket.uploads[upload.upload_id] = upload
        return xml_answer(
            "InitiateMultipartUploadResult",
            [("Bucket", bucket.name), ("Key", request.key), ("UploadId", upload.upload_id)],
        )

    def put_part(self, bucket: Bucket, request: Request) -> Answer:
        check_md5(request)
        return self._keep(bucket, request, request.body, CRC.calc(request.body))

    def copy_part(self, bucket: Bucket, request: Request) -> Answer:
        self._keep(bucket, request, content := self._objects.copied_bytes(request), None)
        return xml_answer(
            "CopyPartResult",
            [("LastModified", iso(self._clock.now())), ("ETag", f'"{etag_of(content)}"')],
            etag=f'"{etag_of(content)}"',
        )

    def _keep(self, bucket: Bucket, request: Request, content: bytes, crc: int | None) -> Answer:
        text = request.query["partNumber"]
        if not text.isdecimal() or not 1 <= int(text) <= MOST_PARTS:
            raise Refusal(400, "InvalidArgument", "Part number must be 1 to 10000.", ArgumentName="partNumber")
        part = Part(content, etag_of(content), crc, self._clock.now())
        self._find(bucket, request).parts[int(text)] = part  # a part sent again replaces the one before
        headers = {"etag": f'"{part.etag}"'}
        return Answer(200, headers if crc is None else headers | {"x-oss-hash-crc64ecma": str(crc)})

    def complete(self, bucket: Bucket, request: Request) -> Answer:
        upload = self._find(bucket, request)
        parts = _named_parts(request, upload)
        content = b"".join(part.content for part in parts)
        digest = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts)).hexdigest().upper()
        version = Version(
            content,
            f"{digest}-{len(parts)}",
            None if any(part.crc is None for part in parts) else CRC.calc(content),
            "Multipart",
            upload.headers,
            upload.storage_class,
            self._clock.now(),
            upload.tags,
        )
        bucket.check_overwrite(request.key, request, self._clock.now())
        bucket.add(request.key, version)
        del bucket.uploads[upload.upload_id]
        answer = xml_answer(
            "CompleteMultipartUploadResult",
            [("Bucket", bucket.name), ("Key", request.key), ("ETag", f'"{version.etag}"')],
        )
        answer.headers |= written_headers(bucket, version)
        return answer

    def abort(self, bucket: Bucket, request: Request) -> Answer:
        del bucket.uploads[self._find(bucket, request).upload_id]
        return Answer(204)

    def list_parts(self, bucket: Bucket, request: Request) -> Answer:
        upload = self._find(bucket, request)
        most = number(request, "max-parts", 1000)
        marker = number(request, "part-number-marker", 0, least=0, most=MOST_PARTS)
        after = [found for found in sorted(upload.parts.items()) if found[0] > marker]
        page = after[:most]
        parts = [("Part", _part_fields(number_, part)) for number_, part in page]
        head: Sequence[tuple[str, Tree]] = [
            ("Bucket", bucket.name),
            ("Key", upload.key),
            ("UploadId", upload.upload_id),
            ("StorageClass", upload.storage_class),
            ("PartNumberMarker", str(marker)),
            ("NextPartNumberMarker", str(page[-1][0]) if page else ""),
            ("MaxParts", str(most)),
            ("IsTruncated", str(len(after) > most).lower()),
        ]
        return xml_answer("ListPartsResult", [*head, *parts])

    def list_uploads(self, bucket: Bucket, request: Request) -> Answer:
        query = request.query
        most = number(request, "max-uploads", 1000)
        marker = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        found = sorted((upload.key, upload.upload_id) for upload in bucket.uploads.values())
        after = [
            (key, upload_id)
            for key, upload_id in found
            if key.startswith(query.get("prefix", ""))
            and (key > marker[0] or (key == marker[0] and marker[1] and upload_id > marker[1]))
        ]
        page = after[:most]
        truncated = len(after) > most
        uploads = [
            (
                "Upload",
                [
                    ("Key", quote(key)),
                    ("UploadId", upload_id),
                    ("StorageClass", bucket.uploads[upload_id].storage_class),
                    ("Initiated", iso(bucket.uploads[upload_id].initiated_at)),
                ],
            )
            for key, upload_id in page
        ]
        head: Sequence[tuple[str, Tree]] = [
            ("EncodingType", "url"),
            ("Bucket", bucket.name),
            ("KeyMarker", quote(marker[0])),
            ("UploadIdMarker", marker[1]),
            ("NextKeyMarker", quote(page[-1][0]) if truncated else ""),
            ("NextUploadIdMarker", page[-1][1] if truncated else ""),
            ("MaxUploads", str(most)),
            ("IsTruncated", str(truncated).lower()),
        ]
        return xml_answer("ListMultipartUploadsResult", [*head, *uploads])

    def _find(self, bucket: Bucket, request: Request) -> Upload:
        upload = bucket.uploads.get(request.query["uploadId"])
        if upload is None or upload.key != request.key:
            message = "The specified upload does not exist. It may have been aborted or completed."
            raise Refusal(404, "NoSuchUpload", message, ec="0042-00000002", UploadId=request.query["uploadId"])
        return upload


def _named_parts(request: Request, upload: Upload) -> list[Part]:
    named = [
        (int(part.findtext("PartNumber", "0")), part.findtext("ETag", "").strip('"').upper())
        for part in parse(request, "CompleteMultipartUpload").iterfind("Part")
    ]
    if not named:
        raise Refusal(400, "MalformedXML", "No part is named.")
    numbers = [number_ for number_, _ in named]
    if numbers != sorted(set(numbers)):
        raise Refusal(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = []
    for number_, etag in named:
        part = upload.parts.get(number_)
        if part is None or part.etag != etag:
            message = "One or more of the specified parts could not be found or the entity tag did not match."
            raise Refusal(400, "InvalidPart", message, PartNumber=str(number_))
        parts.append(part)
    for number_, part in zip(numbers[:-1], parts[:-1], strict=True):
        if len(part.content) < SMALLEST_PART:
            message = "Your proposed upload smaller than the minimum allowed size."
            raise Refusal(400, "EntityTooSmall", message, PartNumber=str(number_))
    return parts


def _part_fields(number_: int, part: Part) -> Sequence[tuple[str, Tree]]:
    return [
        ("PartNumber", str(number_)),
        ("LastModified", iso(part.modified_at)),
        ("ETag", f'"{part.etag}"'),
        ("Size", str(len(part.content))),
        *([] if part.crc is None else [("HashCrc64ecma", str(part.crc))]),
    ]
