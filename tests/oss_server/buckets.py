"""Calls on a bucket: making it, listing it, deleting many keys, and the settings that change what it does."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from tests.oss_server.answers import Answer, Refusal, Request, Tree, check_md5, iso, number, parse, xml_answer
from tests.oss_server.state import STORAGE_CLASSES, Bucket, Clock, Retention, Version

_OWNER: Tree = [("ID", "1000"), ("DisplayName", "1000")]
_MOST_KEYS = 1000


class Buckets:
    def __init__(self, buckets: dict[str, Bucket], clock: Clock, region: str) -> None:
        self._buckets, self._clock, self._region = buckets, clock, region

    def list_buckets(self) -> Answer:
        found = [
            (
                "Bucket",
                [
                    ("Name", bucket.name),
                    ("Location", f"oss-{self._region}"),
                    ("CreationDate", iso(bucket.created_at)),
                    ("ExtranetEndpoint", f"oss-{self._region}.aliyuncs.com"),
                    ("IntranetEndpoint", f"oss-{self._region}-internal.aliyuncs.com"),
                    ("StorageClass", bucket.storage_class),
                    ("Region", self._region),
                ],
            )
            for bucket in self._buckets.values()
        ]
        return xml_answer("ListAllMyBucketsResult", [("Owner", _OWNER), ("Buckets", found)])

    def create(self, request: Request) -> Answer:
        storage_class = "Standard"
        if request.body:
            storage_class = parse(request, "CreateBucketConfiguration").findtext("StorageClass", storage_class)
        if storage_class not in STORAGE_CLASSES:
            raise Refusal(400, "InvalidArgument", "no such storage class")
        there = self._buckets.get(request.bucket)
        if there and there.storage_class != storage_class:
            raise Refusal(409, "BucketAlreadyExists", "Cannot modify existing bucket's storage class")
        if not there:
            self._buckets[request.bucket] = Bucket(request.bucket, self._clock.now(), storage_class)
        return Answer()

    def delete(self, bucket: Bucket, request: Request) -> Answer:
        if bucket.versions or bucket.uploads:
            raise Refusal(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
        del self._buckets[bucket.name]
        return Answer(204)

    def get_location(self, bucket: Bucket, request: Request) -> Answer:
        return xml_answer("LocationConstraint", f"oss-{self._region}")

    def get_info(self, bucket: Bucket, request: Request) -> Answer:
        fields: Sequence[tuple[str, Tree]] = [
            ("Name", bucket.name),
            ("CreationDate", iso(bucket.created_at)),
            ("StorageClass", bucket.storage_class),
            ("DataRedundancyType", "ZRS"),
            ("Location", f"oss-{self._region}"),
            ("ExtranetEndpoint", f"oss-{self._region}.aliyuncs.com"),
            ("IntranetEndpoint", f"oss-{self._region}-internal.aliyuncs.com"),
            ("Owner", _OWNER),
            ("AccessControlList", [("Grant", "private")]),
            ("Comment", ""),
            *([("Versioning", bucket.versioning)] if bucket.versioning else []),
        ]
        return xml_answer("BucketInfo", [("Bucket", fields)])

    # Listing

    def list_v1(self, bucket: Bucket, request: Request) -> Answer:
        after = request.query.get("marker", "")
        rows, prefixes, last = self._page(bucket, request, after)
        head: list[tuple[str, Tree]] = [("Name", bucket.name), ("Marker", quote(after))]
        if last:
            head.append(("NextMarker", quote(last)))
        return xml_answer("ListBucketResult", [*head, *_listing(request, rows, prefixes, truncated=bool(last))])

    def list_v2(self, bucket: Bucket, request: Request) -> Answer:
        token = request.query.get("continuation-token", "")
        try:
            after = base64.b64decode(token, validate=True).decode() if token else request.query.get("start-after", "")
        except ValueError as error:
            raise Refusal(400, "InvalidArgument", "The continuation token is not one of ours.") from error
        rows, prefixes, last = self._page(bucket, request, after)
        head: list[tuple[str, Tree]] = [("Name", bucket.name), ("KeyCount", str(len(rows) + len(prefixes)))]
        if last:
            head.append(("NextContinuationToken", base64.b64encode(last.encode()).decode()))
        return xml_answer("ListBucketResult", [*head, *_listing(request, rows, prefixes, truncated=bool(last))])

    def _page(self, bucket: Bucket, request: Request, after: str) -> tuple[list[tuple[str, Version]], list[str], str]:
        """Return objects, common prefixes, and where the next page begins: "" when there is none."""
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        most = number(request, "max-keys", 100)
        rows: list[tuple[str, Version]] = []
        prefixes: list[str] = []
        last = ""
        for key, version in bucket.listed():
            if not key.startswith(prefix) or key <= after or (prefixes and key.startswith(prefixes[-1])):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut and prefix + head + cut <= after:
                continue  # below a common prefix that the page before ended with
            if len(rows) + len(prefixes) == most:
                return rows, prefixes, last
            if cut:
                prefixes.append(prefix + head + cut)
                last = prefixes[-1]
            else:
                rows.append((key, version))
                last = key
        return rows, prefixes, ""

    def list_versions(self, bucket: Bucket, request: Request) -> Answer:
        query, most = request.query, number(request, "max-keys", 100)
        marker = (query.get("key-marker", ""), query.get("version-id-marker", ""))
        found = [
            (key, version, version is kept[-1])
            for key, kept in sorted(bucket.versions.items())
            for version in reversed(kept)
            if key.startswith(query.get("prefix", ""))
        ]
        names = [(key, version.version_id) for key, version, _ in found]
        if marker[1] and marker in names:
            found = found[names.index(marker) + 1 :]
        elif marker[0]:
            found = [row for row in found if row[0] > marker[0]]
        page, truncated = found[:most], len(found) > most
        head: list[tuple[str, Tree]] = [
            ("Name", bucket.name),
            ("Prefix", quote(query.get("prefix", ""))),
            ("KeyMarker", quote(marker[0])),
            ("VersionIdMarker", marker[1]),
            ("MaxKeys", str(most)),
            ("Delimiter", ""),
            ("EncodingType", "url"),
            ("IsTruncated", str(truncated).lower()),
        ]
        if truncated:
            head += [("NextKeyMarker", quote(page[-1][0])), ("NextVersionIdMarker", page[-1][1].version_id)]
        return xml_answer("ListVersionsResult", [*head, *(_version_row(*row) for row in page)])

    def delete_many(self, bucket: Bucket, request: Request) -> Answer:
        check_md5(request, required=True)
        tree = parse(request, "Delete")
        wanted = [(row.findtext("Key", ""), row.findtext("VersionId", "")) for row in tree.iterfind("Object")]
        if not 1 <= len(wanted) <= _MOST_KEYS:
            raise Refusal(400, "MalformedXML", "One to 1000 keys may be deleted at once.")
        done = [row for key, version_id in wanted if (row := self._delete_one(bucket, key, version_id))]
        if tree.findtext("Quiet", "false") == "true":
            return Answer()
        return xml_answer("DeleteResult", [("EncodingType", "url"), *(("Deleted", row) for row in done)])

    def _delete_one(self, bucket: Bucket, key: str, version_id: str) -> Sequence[tuple[str, Tree]]:
        try:
            marker = bucket.remove(key, version_id, self._clock.now())
        except Refusal:
            return []  # what may not go is simply not among the deleted
        row: list[tuple[str, Tree]] = [("Key", quote(key))]
        if version_id:
            row.append(("VersionId", version_id))
        if marker:
            row += [("DeleteMarker", "true"), ("DeleteMarkerVersionId", marker.version_id)]
        return row

    # Settings

    def put_versioning(self, bucket: Bucket, request: Request) -> Answer:
        match parse(request, "VersioningConfiguration").findtext("Status", ""):
            case "Enabled":
                bucket.versioning = "Enabled"
            case "Suspended" if bucket.retention and not bucket.retention.lapsed(self._clock.now()):
                raise Refusal(409, "InvalidBucketState", "The bucket has a retention policy.")
            case "Suspended":
                bucket.versioning = "Suspended"
            case _:
                raise Refusal(400, "MalformedXML", "Status must be Enabled or Suspended.")
        return Answer()

    def get_versioning(self, bucket: Bucket, request: Request) -> Answer:
        return xml_answer("VersioningConfiguration", [("Status", bucket.versioning)] if bucket.versioning else [])

    def put_lifecycle(self, bucket: Bucket, request: Request) -> Answer:
        check_md5(request)
        for rule in parse(request, "LifecycleConfiguration").iterfind("Rule"):
            if rule.findtext("Status") not in ("Enabled", "Disabled") or rule.find("Prefix") is None:
                raise Refusal(400, "MalformedXML", "A rule needs a prefix and a status.")
        bucket.lifecycle = request.body
        return Answer()

    def get_lifecycle(self, bucket: Bucket, request: Request) -> Answer:
        if not bucket.lifecycle:
            raise Refusal(404, "NoSuchLifecycle", "No Row found in Lifecycle Table.")
        return Answer(200, {"content-type": "application/xml"}, bucket.lifecycle)

    def delete_lifecycle(self, bucket: Bucket, request: Request) -> Answer:
        bucket.lifecycle = b""
        return Answer(204)

    # The retention policy

    def initiate_worm(self, bucket: Bucket, request: Request) -> Answer:
        check_md5(request)
        if bucket.versioning == "Suspended":
            raise Refusal(409, "InvalidBucketState", "Versioning is suspended.")
        now = self._clock.now()
        if bucket.retention and not bucket.retention.lapsed(now):
            if bucket.retention.locked:
                raise Refusal(403, "WORMConfigurationLocked", "The WORM configuration is locked.")
            raise Refusal(409, "WORMConfigurationAlreadyExists", "There is a WORM configuration already.")
        days = _days(parse(request, "InitiateWormConfiguration").findtext("RetentionPeriodInDays", ""))
        bucket.retention = Retention(secrets.token_hex(16).upper(), days, now)
        return Answer(200, {"x-oss-worm-id": bucket.retention.worm_id})

    def complete_worm(self, bucket: Bucket, request: Request) -> Answer:
        self._policy(bucket, request.query["wormId"]).locked = True
        return Answer()

    def extend_worm(self, bucket: Bucket, request: Request) -> Answer:
        policy = self._policy(bucket, request.query["wormId"])
        days = _days(parse(request, "ExtendWormConfiguration").findtext("RetentionPeriodInDays", ""))
        if not policy.locked or days < policy.days:
            raise Refusal(400, "InvalidWORMConfiguration", "A locked policy can be made longer, nothing else.")
        policy.days = days
        return Answer()

    def abort_worm(self, bucket: Bucket, request: Request) -> Answer:
        if self._policy(bucket).locked:
            raise Refusal(403, "WORMConfigurationLocked", "The WORM configuration is locked.")
        bucket.retention = None
        return Answer(204)

    def get_worm(self, bucket: Bucket, request: Request) -> Answer:
        policy = self._policy(bucket)
        return xml_answer(
            "WormConfiguration",
            [
                ("WormId", policy.worm_id),
                ("State", "Locked" if policy.locked else "InProgress"),
                ("RetentionPeriodInDays", str(policy.days)),
                ("CreationDate", iso(policy.created_at)),
            ],
        )

    def _policy(self, bucket: Bucket, worm_id: str = "") -> Retention:
        policy = bucket.retention
        if policy is None or policy.lapsed(self._clock.now()) or (worm_id and policy.worm_id != worm_id):
            raise Refusal(404, "NoSuchWORMConfiguration", "The specified WORM configuration does not exist.")
        return policy


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 25_550:
        raise Refusal(400, "InvalidWORMConfiguration", "The days must be 1 to 25550.")
    return int(text)


def _listing(
    request: Request, rows: Iterable[tuple[str, Version]], prefixes: Iterable[str], *, truncated: bool
) -> list[tuple[str, Tree]]:
    """The part that both kinds of listing share. Always URL-encoded: every client here asks for it."""
    if request.query.get("encoding-type") != "url":
        raise Refusal(501, "NotImplemented", "This service lists with encoding-type=url only.")
    return [
        ("EncodingType", "url"),
        ("Prefix", quote(request.query.get("prefix", ""))),
        ("Delimiter", quote(request.query.get("delimiter", ""))),
        ("MaxKeys", request.query.get("max-keys", "100")),
        ("IsTruncated", str(truncated).lower()),
        *(("Contents", _row(key, version)) for key, version in rows),
        *(("CommonPrefixes", [("Prefix", quote(prefix))]) for prefix in prefixes),
    ]


def _row(key: str, version: Version) -> Sequence[tuple[str, Tree]]:
    return [
        ("Key", quote(key)),
        ("LastModified", iso(version.modified_at)),
        ("ETag", f'"{version.etag}"'),
        ("Type", version.kind),
        ("Size", str(len(version.content))),
        ("StorageClass", version.storage_class),
    ]


def _version_row(key: str, version: Version, latest: bool) -> tuple[str, Tree]:
    common: Sequence[tuple[str, Tree]] = [
        ("VersionId", version.version_id),
        ("IsLatest", str(latest).lower()),
        ("Owner", _OWNER),
    ]
    if version.marker:
        return "DeleteMarker", [("Key", quote(key)), ("LastModified", iso(version.modified_at)), *common]
    return "Version", [*_row(key, version), *common]
