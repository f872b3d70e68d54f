"""The local OSS is held to what OSS does: with oss2 in both of its signatures, and by hand with what it must refuse."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import oss2
import pytest
import requests
from oss2.models import (
    AbortMultipartUpload,
    BatchDeleteObjectVersion,
    BatchDeleteObjectVersionList,
    BucketLifecycle,
    BucketVersioningConfig,
    LifecycleRule,
    PartInfo,
    RestoreConfiguration,
    Tagging,
    TaggingRule,
)

from tests.oss_server import ACCESS_KEY_ID, ACCESS_KEY_SECRET, BUCKET, CNAME, REGION, Fault, Identity, OssServer

KIB = 1 << 10
PART = 100 * KIB
LISTING = {"list-type": "2", "encoding-type": "url"}


@pytest.fixture
def server(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


def _auth(version: str, secret: str = ACCESS_KEY_SECRET, key_id: str = ACCESS_KEY_ID) -> Any:
    return oss2.make_auth(key_id, secret, version)


def _client(server: OssServer, version: str = "v4", **options: Any) -> Any:
    settings: dict[str, Any] = {"region": REGION, "auth": _auth(version)}
    settings |= options
    return oss2.Bucket(settings.pop("auth"), server.endpoint, settings.pop("bucket", BUCKET), **settings)


@pytest.fixture(params=["v1", "v4"])
def client(server: OssServer, request: pytest.FixtureRequest) -> Any:
    """Today's oss2, unchanged, in either signature: its own checks of checksums are on."""
    return _client(server, request.param)


@dataclass
class Raw:
    """A request made by hand: signed as oss2 signs it, then changed, and sent."""

    method: str = "GET"
    key: str = "one"
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = "v4"
    region: str = REGION
    secret: str = ACCESS_KEY_SECRET
    key_id: str = ACCESS_KEY_ID
    changed: dict[str, str] = field(default_factory=dict)

    def send(self, server: OssServer) -> requests.Response:
        url = f"{server.endpoint}/{BUCKET}/{quote(self.key, safe='')}"
        made = oss2.http.Request(
            self.method, url, params=self.params, headers=self.headers, region=self.region, product="oss"
        )
        _auth(self.version, self.secret, self.key_id)._sign_request(made, BUCKET, self.key)
        headers = {**made.headers, **self.changed}
        return requests.request(self.method, url, params=made.params, headers=headers, data=self.body, timeout=10)


def _code(answer: requests.Response) -> tuple[int, str]:
    body = answer.content or base64.b64decode(answer.headers.get("x-oss-err", ""))
    return answer.status_code, body.decode().partition("<Code>")[2].partition("</Code>")[0]


# What oss2 can do with it


def test_oss2_puts_and_gets(client: Any) -> None:
    put = client.put_object("a/b c+ü.txt", b"hello", headers={"x-oss-meta-colour": "grün".encode().hex()})
    got = client.get_object("a/b c+ü.txt")

    assert (got.read(), got.content_type, got.etag) == (b"hello", "text/plain", put.etag)
    assert got.headers["x-oss-meta-colour"] == "grün".encode().hex()
    assert put.crc == got.server_crc == _crc_by_oss2(b"hello")
    assert got.headers["x-oss-request-id"]
    assert client.head_object("a/b c+ü.txt").content_length == 5
    assert client.get_object_meta("a/b c+ü.txt").content_length == 5


def _crc_by_oss2(content: bytes) -> int:
    crc = oss2.utils.Crc64(0)
    crc.update(content)
    value: int = crc.crc
    return value


def test_checksum_is_that_of_the_standard(client: Any) -> None:
    assert client.put_object("one", b"123456789").crc == 0x995DC9BBDF1939FA  # CRC-64/XZ, the catalogue's check value


def test_oss2_sends_a_body_without_a_length(client: Any) -> None:
    client.put_object("one", iter([b"in ", b"chunks"]))

    assert client.get_object("one").read() == b"in chunks"


def test_oss2_uploads_in_parts_of_any_size_and_replaces_one(client: Any) -> None:
    client.put_object("one", b"old")
    upload = client.init_multipart_upload("one").upload_id
    first = client.upload_part("one", upload, 1, b"x" * PART)
    client.upload_part("one", upload, 2, b"y" * PART)
    second = client.upload_part("one", upload, 2, b"z" * (PART + 1))
    last = client.upload_part("one", upload, 7, b"!")

    assert client.get_object("one").read() == b"old"
    assert [part.size for part in client.list_parts("one", upload).parts] == [PART, PART + 1, 1]
    assert [found.key for found in client.list_multipart_uploads().upload_list] == ["one"]
    parts = [
        PartInfo(number, part.etag, size=size, part_crc=part.crc)
        for number, part, size in ((1, first, PART), (2, second, PART + 1), (7, last, 1))
    ]
    client.complete_multipart_upload("one", upload, parts)  # oss2 compares the combined checksum
    assert client.get_object("one").read() == b"x" * PART + b"z" * (PART + 1) + b"!"
    assert client.head_object("one").object_type == "Multipart"
    assert client.list_multipart_uploads().upload_list == []


def test_oss2_resumable_upload_and_download_work(client: Any, tmp_path: Any) -> None:
    content = bytes(range(256)) * 2048
    (tmp_path / "up").write_bytes(content)
    store = oss2.ResumableStore(root=str(tmp_path))
    oss2.resumable_upload(
        client, "one", str(tmp_path / "up"), store=store, multipart_threshold=PART, part_size=PART, num_threads=2
    )
    oss2.resumable_download(
        client,
        "one",
        str(tmp_path / "down"),
        store=oss2.ResumableDownloadStore(root=str(tmp_path)),
        multiget_threshold=PART,
        part_size=PART,
        num_threads=2,
    )

    assert (tmp_path / "down").read_bytes() == content


def test_upload_that_was_aborted_is_gone(client: Any) -> None:
    upload = client.init_multipart_upload("one").upload_id
    client.abort_multipart_upload("one", upload)

    with pytest.raises(oss2.exceptions.NoSuchUpload):
        client.abort_multipart_upload("one", upload)
    with pytest.raises(oss2.exceptions.NoSuchUpload):
        client.upload_part("one", upload, 1, b"x")


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_oss2_lists_over_pages(client: Any, kind: str) -> None:
    names = [f"a/{number:02}" for number in range(7)] + ["a b", "b"]
    for name in names:
        client.put_object(name, b"")
    iterate = oss2.ObjectIterator if kind == "v1" else oss2.ObjectIteratorV2

    assert [found.key for found in iterate(client, max_keys=2)] == sorted(names)
    assert [found.key for found in iterate(client, prefix="a/0", max_keys=3)] == names[:7]
    folders = [(found.key, found.is_prefix()) for found in iterate(client, delimiter="/", max_keys=1)]
    assert folders == [("a b", False), ("a/", True), ("b", False)]


def test_oss2_copies_whole_and_in_parts(client: Any) -> None:
    client.put_object("one", b"0123456789" * PART)
    client.copy_object(BUCKET, "one", "two")
    upload = client.init_multipart_upload("three").upload_id
    part = client.upload_part_copy(BUCKET, "one", (5, 9), "three", upload, 1)
    done = client.complete_multipart_upload("three", upload, [PartInfo(1, part.etag)])

    assert client.get_object("two").read() == b"0123456789" * PART
    assert client.get_object("three").read() == b"56789"
    assert done.crc is None, "a part without a checksum leaves the whole without one"


def test_oss2_deletes_one_and_many(client: Any) -> None:
    for name in ("a", "b/c", "d"):
        client.put_object(name, b"")
    client.delete_object("never was")

    assert client.batch_delete_objects(["a", "b/c", "never was"]).deleted_keys == ["a", "b/c", "never was"]
    assert [found.key for found in oss2.ObjectIterator(client)] == ["d"]


def test_versions_stay_and_a_delete_only_marks(client: Any) -> None:
    client.put_object("one", b"before versioning")
    client.put_bucket_versioning(BucketVersioningConfig("Enabled"))
    old = client.put_object("one", b"old").versionid
    client.put_object("one", b"new")
    client.delete_object("one")

    with pytest.raises(oss2.exceptions.NoSuchKey):
        client.get_object("one")
    assert client.get_object("one", params={"versionId": old}).read() == b"old"
    listed = client.list_object_versions()
    assert [version.is_latest for version in listed.versions] == [False, False, False]
    (marker,) = listed.delete_marker
    doomed = BatchDeleteObjectVersionList([BatchDeleteObjectVersion("one", marker.versionid)])
    client.delete_object_versions(doomed)
    assert client.get_object("one").read() == b"new"
    assert client.get_object("one", params={"versionId": "null"}).read() == b"before versioning"


def test_versions_are_listed_over_pages(client: Any) -> None:
    client.put_bucket_versioning(BucketVersioningConfig("Enabled"))
    written = [client.put_object(name, name.encode()).versionid for name in ("a", "a", "b")]

    seen, key_marker, version_marker = [], "", ""
    for _ in range(3):
        page = client.list_object_versions(max_keys=1, key_marker=key_marker, versionid_marker=version_marker)
        seen += [version.versionid for version in page.versions]
        key_marker, version_marker = page.next_key_marker, page.next_versionid_marker

    assert seen == [written[1], written[0], written[2]]
    assert page.is_truncated is False


def test_tags_encryption_and_class_come_back(client: Any) -> None:
    headers = {"x-oss-tagging": "a=1&b=2", "x-oss-server-side-encryption": "AES256", "x-oss-storage-class": "IA"}
    client.put_object("one", b"", headers=headers)
    head = client.head_object("one").headers
    rule = TaggingRule()
    rule.add("c", "3")

    assert (head["x-oss-server-side-encryption"], head["x-oss-storage-class"]) == ("AES256", "IA")
    assert client.get_object_tagging("one").tag_set.tagging_rule == {"a": "1", "b": "2"}
    client.put_object_tagging("one", Tagging(rule))
    assert client.get_object_tagging("one").tag_set.tagging_rule == {"c": "3"}
    client.delete_object_tagging("one")
    assert client.get_object_tagging("one").tag_set.tagging_rule == {}


def test_frozen_object_is_read_after_its_thaw_and_freezes_again(server: OssServer, client: Any) -> None:
    client.put_object("one", b"cold", headers={"x-oss-storage-class": "ColdArchive"})
    with pytest.raises(oss2.exceptions.ServerError, match="InvalidObjectState"):
        client.get_object("one")

    assert client.restore_object("one", input=RestoreConfiguration(2)).status == 202
    with pytest.raises(oss2.exceptions.RestoreAlreadyInProgress):
        client.restore_object("one")
    assert client.head_object("one").headers["x-oss-restore"] == 'ongoing-request="true"'
    server.service.clock.move(timedelta(hours=6))
    assert client.get_object("one").read() == b"cold"
    assert client.head_object("one").headers["x-oss-restore"].startswith('ongoing-request="false", expiry-date="')
    assert client.restore_object("one", input=RestoreConfiguration(2)).status == 200
    server.service.clock.move(timedelta(days=3))
    with pytest.raises(oss2.exceptions.ServerError, match="InvalidObjectState"):
        client.get_object("one")


def test_object_that_is_not_frozen_is_not_thawed(client: Any) -> None:
    client.put_object("one", b"warm")

    with pytest.raises(oss2.exceptions.OperationNotSupported):
        client.restore_object("one")


def test_retention_protects_until_its_days_are_over(server: OssServer, client: Any) -> None:
    client.put_object("one", b"kept")
    worm_id = client.init_bucket_worm(2).worm_id
    assert client.get_bucket_worm().state == "InProgress"
    client.complete_bucket_worm(worm_id)
    assert client.get_bucket_worm().state == "Locked"

    refused: list[Callable[[], Any]] = [
        functools.partial(client.put_object, "one", b"replaced"),
        functools.partial(client.delete_object, "one"),
        functools.partial(client.copy_object, BUCKET, "one", "one"),
    ]
    for call in refused:
        with pytest.raises(oss2.exceptions.ServerError, match="FileImmutable"):
            call()
    assert client.batch_delete_objects(["one"]).deleted_keys == []
    with pytest.raises(oss2.exceptions.WORMConfigurationLocked):
        client.abort_bucket_worm()
    with pytest.raises(oss2.exceptions.InvalidWORMConfiguration):
        client.extend_bucket_worm(worm_id, 1)
    client.put_object("two", b"new objects are welcome")
    client.extend_bucket_worm(worm_id, 3)
    server.service.clock.move(timedelta(days=2, hours=1))
    with pytest.raises(oss2.exceptions.ServerError, match="FileImmutable"):
        client.delete_object("one")
    server.service.clock.move(timedelta(days=1))
    client.delete_object("one")


def test_retention_that_nobody_locked_lapses_after_a_day(server: OssServer, client: Any) -> None:
    client.put_object("one", b"kept for a day")
    worm_id = client.init_bucket_worm(30).worm_id
    with pytest.raises(oss2.exceptions.ServerError, match="FileImmutable"):
        client.delete_object("one")

    server.service.clock.move(timedelta(hours=24))

    with pytest.raises(oss2.exceptions.NoSuchWORMConfiguration):
        client.get_bucket_worm()
    with pytest.raises(oss2.exceptions.NoSuchWORMConfiguration):
        client.complete_bucket_worm(worm_id)
    client.delete_object("one")


def test_retention_needs_versioning_on_or_never_touched(client: Any) -> None:
    client.put_bucket_versioning(BucketVersioningConfig("Suspended"))

    with pytest.raises(oss2.exceptions.ServerError, match="InvalidBucketState"):
        client.init_bucket_worm(1)


def test_bucket_tells_its_settings(client: Any) -> None:
    info = client.get_bucket_info()
    rule = LifecycleRule("tidy", "", abort_multipart_upload=AbortMultipartUpload(days=3))
    with pytest.raises(oss2.exceptions.NoSuchLifecycle):
        client.get_bucket_lifecycle()
    client.put_bucket_lifecycle(BucketLifecycle([rule]))

    assert (info.name, info.location, info.storage_class) == (BUCKET, f"oss-{REGION}", "Standard")
    assert client.get_bucket_location().location == f"oss-{REGION}"
    assert client.get_bucket_versioning().status is None
    assert client.get_bucket_lifecycle().rules[0].abort_multipart_upload.days == 3


@pytest.mark.parametrize("version", ["v1", "v4"])
def test_buckets_are_made_listed_and_removed_only_when_empty(server: OssServer, version: str) -> None:
    client = _client(server, version, bucket="another")
    client.create_bucket()
    client.put_object("one", b"")

    service = oss2.Service(_auth(version), server.endpoint, region=REGION)
    assert [found.name for found in service.list_buckets().buckets] == [BUCKET, "another"]
    with pytest.raises(oss2.exceptions.ServerError, match="BucketNotEmpty"):
        client.delete_bucket()
    client.delete_object("one")
    client.delete_bucket()
    with pytest.raises(oss2.exceptions.NoSuchBucket):
        client.get_object("one")


def test_signed_url_opens_one_object_until_it_expires(server: OssServer, client: Any) -> None:
    client.put_object("a/one", b"for you")
    url = client.sign_url("GET", "a/one", 60, slash_safe=True)

    assert requests.get(url, timeout=10).content == b"for you"
    assert requests.get(url.replace("a/one", "a/two"), timeout=10).status_code == 403
    assert requests.put(url, data=b"x", timeout=10).status_code == 403
    server.service.skew = timedelta(seconds=90)
    assert _code(requests.get(url, timeout=10)) == (403, "AccessDenied")


# What it refuses


@pytest.mark.parametrize("version", ["v1", "v4"])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (Raw(secret="wrong"), (403, "SignatureDoesNotMatch")),
        (Raw(key_id="unknown"), (403, "InvalidAccessKeyId")),
        (Raw(headers={"x-oss-meta-a": "1"}, changed={"x-oss-meta-a": "2"}), (403, "SignatureDoesNotMatch")),
        (Raw(changed={"x-oss-security-token": "stolen"}), (403, "InvalidSecurityToken")),
        (Raw("PUT", changed={"Content-Type": "text/css"}, body=b"x"), (403, "SignatureDoesNotMatch")),
        (Raw(changed={"Authorization": "Basic bWU6bWU="}), (400, "InvalidArgument")),
        (Raw(changed={"Authorization": ""}), (403, "AccessDenied")),
        (Raw(key="missing"), (404, "NoSuchKey")),
        (Raw("HEAD", key="missing"), (404, "NoSuchKey")),
        (Raw("HEAD", secret="wrong"), (403, "SignatureDoesNotMatch")),
        (Raw("PUT", headers={"Content-MD5": "AAAA"}, body=b"x"), (400, "InvalidDigest")),
        (Raw("PUT", headers={"Content-Encoding": "aws-chunked"}, body=b"x"), (400, "InvalidArgument")),
        (Raw("PUT", headers={"x-oss-storage-class": "Glacier"}, body=b"x"), (400, "InvalidArgument")),
        (Raw("PUT", headers={"x-oss-forbid-overwrite": "true"}, body=b"x"), (409, "FileAlreadyExists")),
        (Raw("PUT", params={"uploadId": "none", "partNumber": "1"}, body=b"x"), (404, "NoSuchUpload")),
        (Raw("PUT", params={"uploadId": "none", "partNumber": "10001"}, body=b"x"), (400, "InvalidArgument")),
        (Raw("POST", key="", params={"delete": ""}, body=b"<Delete/>"), (400, "MissingArgument")),
        (Raw("POST", params={"uploadId": "none"}, body=b"<Complete/>"), (404, "NoSuchUpload")),
        (Raw("POST", params={"append": "", "position": "0"}, body=b"x"), (501, "NotImplemented")),
        (Raw(headers={"If-Match": '"other"'}), (412, "PreconditionFailed")),
        (Raw(key="", params={**LISTING, "max-keys": "1001"}), (400, "InvalidArgument")),
        (
            Raw(key="", params={"list-type": "2", "encoding-type": "url", "continuation-token": "?"}),
            (400, "InvalidArgument"),
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused(server: OssServer, version: str, raw: Raw, expected: tuple[int, str]) -> None:
    _client(server).put_object("one", b"0123456789")
    raw = Raw(**{**vars(raw), "version": version})

    assert _code(raw.send(server)) == expected
    assert _client(server).get_object("one").read() == b"0123456789"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (Raw(region="cn-beijing"), (400, "InvalidArgument")),
        (Raw(changed={"x-oss-content-sha256": "0" * 64}), (400, "InvalidArgument")),
        (Raw(changed={"x-oss-date": "20200101T000000Z"}), (403, "RequestTimeTooSkewed")),
        (Raw(changed={"Authorization": "OSS4-HMAC-SHA256 Credential=x/y, Signature=0"}), (400, "InvalidArgument")),
        (Raw(params={"x-oss-process": "a"}, changed={}, secret="wrong"), (403, "SignatureDoesNotMatch")),
    ],
    ids=str,
)
def test_version_4_is_bound_to_region_payload_and_scope(server: OssServer, raw: Raw, expected: tuple[int, str]) -> None:
    assert _code(raw.send(server)) == expected


@pytest.mark.parametrize("version", ["v1", "v4"])
@pytest.mark.parametrize("skew", [timedelta(minutes=16), timedelta(minutes=-16)], ids=["ahead", "behind"])
def test_clock_may_be_off_by_a_quarter_of_an_hour_and_no_more(server: OssServer, version: str, skew: timedelta) -> None:
    server.service.skew = skew * 14 / 16
    assert _code(Raw(version=version).send(server)) == (404, "NoSuchKey")

    server.service.skew = skew
    assert _code(Raw(version=version).send(server)) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("version", ["v1", "v4"])
def test_keys_of_a_role_need_their_token_and_end(server: OssServer, version: str) -> None:
    now = server.service.clock.now()
    server.service.identities["STS.id"] = Identity("lent", "the-token", now + timedelta(minutes=10))
    right = {"x-oss-security-token": "the-token"}
    wrong = {"x-oss-security-token": "another"}

    assert _code(Raw(version=version, key_id="STS.id", secret="lent", headers=right).send(server))[0] == 404
    refusal = Raw(version=version, key_id="STS.id", secret="lent", headers=wrong).send(server)
    assert _code(refusal) == (403, "InvalidSecurityToken")
    assert _code(Raw(version=version, key_id="STS.id", secret="lent").send(server)) == (403, "InvalidAccessKeyId")
    server.service.skew = timedelta(minutes=11)
    expired = Raw(version=version, key_id="STS.id", secret="lent", headers=right).send(server)
    assert _code(expired) == (403, "SecurityTokenExpired")
    del server.service.identities["STS.id"]


def test_signature_in_a_url_lives_for_a_week_at_most(server: OssServer) -> None:
    url = _client(server).sign_url("GET", "one", 7 * 86400 + 1)

    assert _code(requests.get(url, timeout=10)) == (400, "InvalidArgument")


def test_error_names_the_request_and_its_own_number(server: OssServer) -> None:
    answer = Raw(secret="wrong").send(server)

    assert "xmlns" not in answer.text
    assert answer.headers["x-oss-ec"] == "0002-00000040"
    for tag in ("RequestId", "HostId", "EC", "StringToSign", "SignatureProvided"):
        assert f"<{tag}>" in answer.text


@pytest.mark.parametrize(
    ("sizes", "named", "expected"),
    [
        ([PART - 1, 1], [1, 2], "EntityTooSmall"),
        ([PART, PART - 1, 1], [1, 2, 3], "EntityTooSmall"),
        ([PART, PART], [2, 1], "InvalidPartOrder"),
        ([PART, PART], [1, 1], "InvalidPartOrder"),
        ([PART], [1, 2], "InvalidPart"),
        ([PART], [], "MalformedXML"),
    ],
)
def test_parts_have_rules(server: OssServer, sizes: list[int], named: list[int], expected: str) -> None:
    client = _client(server)
    upload = client.init_multipart_upload("one").upload_id
    etags = {n: client.upload_part("one", upload, n, b"x" * size).etag for n, size in enumerate(sizes, 1)}
    rows = "".join(f'<Part><PartNumber>{n}</PartNumber><ETag>"{etags.get(n, "0")}"</ETag></Part>' for n in named)
    body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()

    assert _code(Raw("POST", params={"uploadId": upload}, body=body).send(server)) == (400, expected)
    with pytest.raises(oss2.exceptions.NoSuchKey):
        client.get_object("one")


def test_part_that_was_replaced_is_not_found_by_its_old_tag(server: OssServer) -> None:
    client = _client(server)
    upload = client.init_multipart_upload("one").upload_id
    old = client.upload_part("one", upload, 1, b"old")
    client.upload_part("one", upload, 1, b"new")

    with pytest.raises(oss2.exceptions.ServerError, match="InvalidPart"):
        client.complete_multipart_upload("one", upload, [PartInfo(1, old.etag)])


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
def test_forbid_overwrite_is_ignored_once_versions_are_kept(server: OssServer, state: str) -> None:
    client = _client(server)
    client.put_bucket_versioning(BucketVersioningConfig(state))
    client.put_object("one", b"first")

    client.put_object("one", b"second", headers={"x-oss-forbid-overwrite": "true"})

    assert client.get_object("one").read() == b"second"


def test_completion_does_not_overwrite_when_forbidden(server: OssServer) -> None:
    client = _client(server)
    upload = client.init_multipart_upload("one").upload_id
    part = client.upload_part("one", upload, 1, b"slow")
    client.put_object("one", b"fast")

    with pytest.raises(oss2.exceptions.ServerError, match="FileAlreadyExists"):
        client.complete_multipart_upload(
            "one", upload, [PartInfo(1, part.etag)], headers={"x-oss-forbid-overwrite": "true"}
        )
    assert client.get_object("one").read() == b"fast"


@pytest.mark.parametrize(
    ("asked", "plain", "standard"),
    [
        ("bytes=0-0", (206, 1), (206, 1)),
        ("bytes=200-", (206, 800), (206, 800)),
        ("bytes=-100", (206, 100), (206, 100)),
        ("bytes=500-2000", (200, 1000), (206, 500)),
        ("bytes=1000-", (200, 1000), (416, 0)),
        ("bytes=5000-6000", (200, 1000), (416, 0)),
        ("bytes=9-3", (200, 1000), (200, 1000)),
        ("lines=1-2", (200, 1000), (200, 1000)),
        ("bytes=-2000", (200, 1000), (206, 1000)),
    ],
)
def test_range_that_leaves_the_object_gives_all_of_it_unless_asked_otherwise(
    server: OssServer, asked: str, plain: tuple[int, int], standard: tuple[int, int]
) -> None:
    crc = _client(server).put_object("one", bytes(1000)).crc

    for behaviour, expected in (({}, plain), ({"x-oss-range-behavior": "standard"}, standard)):
        answer = Raw(headers={"Range": asked, **behaviour}).send(server)
        seen = 0 if answer.status_code == 416 else len(answer.content)
        assert (answer.status_code, seen) == expected
        if answer.status_code == 206:
            assert answer.headers["x-oss-hash-crc64ecma"] == str(crc), "of the whole object, not of the range"


def test_batch_delete_needs_the_right_digest(server: OssServer) -> None:
    client = _client(server)
    client.put_object("one", b"")
    body = b"<Delete><Object><Key>one</Key></Object></Delete>"
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()

    right = Raw("POST", key="", params={"delete": ""}, headers={"Content-MD5": md5}, body=body)
    wrong = Raw("POST", key="", params={"delete": ""}, headers={"Content-MD5": md5}, body=body + b" ")

    assert _code(wrong.send(server)) == (400, "InvalidDigest")
    assert right.send(server).status_code == 200
    assert [*oss2.ObjectIterator(client)] == []


@pytest.mark.parametrize("host", [f"{BUCKET}.oss-{REGION}.aliyuncs.com", CNAME])
@pytest.mark.parametrize("version", ["v1", "v4"])
def test_bucket_in_the_host_name_is_signed_as_if_it_were_in_the_path(
    server: OssServer, host: str, version: str
) -> None:
    _client(server).put_object("a/one", b"found")
    made = oss2.http.Request("GET", f"{server.endpoint}/a%2Fone", region=REGION, product="oss")
    _auth(version)._sign_request(made, BUCKET, "a/one")

    answer = requests.get(made.url, headers={**made.headers, "Host": host}, timeout=10)

    assert answer.content == b"found"


def test_call_that_nobody_may_make_is_denied(server: OssServer) -> None:
    server.service.denied.add("ListMultipartUploads")

    with pytest.raises(oss2.exceptions.AccessDenied):
        _client(server).list_multipart_uploads()


# What goes wrong on command


def test_fault_is_spent_after_its_turns(server: OssServer) -> None:
    fault = server.add(Fault("status", "PutObject", left=2, headers={"x-oss-qos-delay-time": "100"}))
    client = _client(server)

    for _ in range(2):
        with pytest.raises(oss2.exceptions.ServerError, match="ServiceUnavailable") as raised:
            client.put_object("one", b"x")
        assert raised.value.headers["x-oss-qos-delay-time"] == "100"
    client.put_object("one", b"x")

    assert fault.hits == 2
    assert [seen.call for seen in server.requests()] == ["PutObject"] * 3


@pytest.mark.parametrize("kind", ["reset answer", "short answer"])
def test_answer_that_breaks_off_is_noticed_by_the_client(server: OssServer, kind: Any) -> None:
    client = _client(server)
    client.put_object("one", bytes(100_000))
    server.add(Fault(kind, "GetObject", after=50_000))

    with pytest.raises(requests.RequestException):
        client.get_object("one").read()


def test_late_status_comes_after_the_work_was_done(server: OssServer) -> None:
    client = _client(server)
    server.add(Fault("late status", "PutObject", status=500, code="InternalError"))

    with pytest.raises(oss2.exceptions.ServerError, match="InternalError"):
        client.put_object("one", b"done")
    assert client.get_object("one").read() == b"done"


def test_oss2_alone_does_not_notice_a_damaged_body(server: OssServer) -> None:
    """Trap 7, and why the store compares for itself."""
    client = _client(server)
    client.put_object("one", b"good")
    server.add(Fault("damaged answer", "GetObject"))

    assert client.get_object("one").read() == b"gooe"
