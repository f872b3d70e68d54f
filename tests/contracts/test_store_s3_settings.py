"""The settings of an S3 store that change what goes over the wire, each against a real server."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pytest

from drtool.errors import ObjectMissing, StoreAccessDenied
from drtool.stores import s3_bucket
from drtool.stores.conformance import CHECKS, Check, NotApplicable, Subject, forward_only, noise
from drtool.stores.s3 import S3Store, StorageClass
from tests.canned import Canned, web

if TYPE_CHECKING:
    from tests.servers import S3Server

pytestmark = pytest.mark.engine("seaweedfs")

MIB = 1 << 20
SIGNED = {"x-amz-request-id": "4442587FB7D0A2F9"}
BY_NAME: dict[str, Check] = {check.__name__: check for check in CHECKS}


@pytest.mark.parametrize(
    "check", ["what_was_put_comes_back", "a_big_object_comes_back", "an_empty_object_is_an_object"]
)
def test_store_without_optional_checksums_keeps_the_contract_over_https(s3_https: S3Server, check: str) -> None:
    store = s3_https.store(prefix="required", checksums="when_required")

    BY_NAME[check](Subject(store))

    assert [*store.list("")] == []


def test_store_without_conditional_put_still_replaces_nothing(s3_http: S3Server) -> None:
    subject = Subject(s3_http.store(prefix="unconditional", conditional_put=False))

    BY_NAME["only_if_absent_creates"](subject)
    BY_NAME["only_if_absent_replaces_nothing"](subject)
    with pytest.raises(NotApplicable):
        BY_NAME["only_if_absent_has_one_winner"](subject)


@pytest.mark.parametrize("size", [10, 11 * MIB], ids=["one put", "in parts"])
@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_lock_reaches_the_object(s3_https: S3Server, mode: Literal["governance", "compliance"], size: int) -> None:
    bucket, until = "locked", datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    store = s3_https.store(bucket=bucket, prefix=f"{mode}-{size}", object_lock=mode, checksums="when_required")
    if bucket not in [found["Name"] for found in store.client.list_buckets()["Buckets"]]:
        store.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)

    store.put("one", forward_only(noise(size)), lock_until=until)
    store.put("free", io.BytesIO(b"no lock"))

    assert store.stat("one").size == size
    held = store.client.head_object(**store.address("one"))
    assert (held["ObjectLockMode"], held["ObjectLockRetainUntilDate"]) == (mode.upper(), until)
    assert "ObjectLockMode" not in store.client.head_object(**store.address("free"))


@pytest.mark.parametrize("size", [10, 11 * MIB], ids=["one put", "in parts"])
@pytest.mark.parametrize("storage_class", [found for found in get_args(StorageClass) if found != "STANDARD"])
def test_storage_class_reaches_the_object(s3_https: S3Server, storage_class: StorageClass, size: int) -> None:
    store = s3_https.store(prefix=f"class-{storage_class}-{size}", storage_class=storage_class)

    store.put("one", forward_only(noise(size)))

    assert store.client.head_object(**store.address("one"))["StorageClass"] == storage_class
    assert s3_bucket.kept_as(store, "one")["storage_class"] == storage_class


@pytest.mark.parametrize("size", [10, 11 * MIB], ids=["one put", "in parts"])
def test_encryption_by_the_server_reaches_the_object(s3_https: S3Server, size: int) -> None:
    store = s3_https.store(prefix=f"sse-{size}", sse="AES256")

    store.put("one", forward_only(noise(size)))

    assert s3_bucket.kept_as(store, "one")["sse"] == "AES256"
    with store.open("one") as body:
        assert body.read() == b"".join(noise(size))


@pytest.mark.parametrize("size", [10, 6 * MIB], ids=["one put", "in parts"])
def test_key_of_kms_is_named_when_an_object_is_begun_and_not_again(size: int) -> None:
    """No server here has a KMS: this is what AWS would be asked for."""

    def answer(method: str, path: str) -> Canned:
        if method == "POST" and "uploads" in path:
            return Canned(200, b"<R><UploadId>one</UploadId></R>", SIGNED)
        if method == "POST":
            return Canned(200, b'<R><ETag>"x"</ETag></R>', SIGNED)
        told = {"ETag": '"x"', "Last-Modified": "Fri, 20 Nov 2026 00:00:00 GMT", "Content-Length": str(size)}
        return Canned(200, b"", {**SIGNED, **told} if method == "HEAD" else {**SIGNED, "ETag": '"x"'})

    with web(answer) as service:
        store = S3Store(
            "backups",
            endpoint=f"http://127.0.0.1:{service.port}",
            access_key_id="not-a-real-id",
            secret_access_key="not-a-real-secret",
            part_size=5 * MIB,
            sse="aws:kms",
            kms_key_id="alias/backup",
            storage_class="STANDARD_IA",
        )
        store.put("one", forward_only(noise(size)))

    begun = [headers for method, path, headers in service.seen if "x-amz-server-side-encryption" in headers]
    assert len(begun) == 1
    assert begun[0]["x-amz-server-side-encryption"] == "aws:kms"
    assert begun[0]["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/backup"
    assert begun[0]["x-amz-storage-class"] == "STANDARD_IA"


def test_deleting_on_a_versioned_bucket_hides_and_does_not_destroy(s3_http: S3Server) -> None:
    store = s3_http.store(bucket="versioned", versioned=True)
    store.client.create_bucket(Bucket="versioned")
    store.client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    assert s3_bucket.versioning(store) == "enabled"
    assert store.capabilities.versioning

    store.put("one", io.BytesIO(b"old"))
    store.put("one", io.BytesIO(b"new"))
    store.delete(["one"])

    assert [*store.list("")] == []
    with pytest.raises(ObjectMissing):
        store.stat("one")
    kept = store.client.list_object_versions(Bucket="versioned", Prefix="one")
    assert (len(kept["Versions"]), len(kept["DeleteMarkers"])) == (2, 1)
    store.put("one", io.BytesIO(b"again"), only_if_absent=True)
    with store.open("one") as body:
        assert body.read() == b"again"


def test_transfers_of_boto3_are_never_used(s3_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may pick a library that sends to AWS, whatever the endpoint says."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a transfer was made")

    monkeypatch.setattr("boto3.s3.transfer.create_transfer_manager", refuse)
    monkeypatch.setattr("s3transfer.manager.TransferManager.__init__", refuse)
    store = s3_http.store(prefix="classic")

    store.put("one", forward_only(noise(11 * MIB)))
    with store.open("one", start=5) as body:
        assert len(body.read()) == 11 * MIB - 5


# -- credentials of the machine --------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without keys in its environment or in files."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return monkeypatch


def role_service(method: str, path: str) -> Canned:
    """The metadata service of an EC2 instance, version 2: nothing without a token."""
    match method, path.removeprefix("/latest"):
        case "PUT", "/api/token":
            return Canned(200, b"not-a-real-metadata-token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
        case "GET", "/meta-data/iam/security-credentials/":
            return Canned(200, b"backup-role")
        case "GET", "/meta-data/iam/security-credentials/backup-role":
            lent = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA-not-real", "Token": "not-a-real-token"}
            ends = datetime.now(UTC) + timedelta(hours=6)
            lent |= {"SecretAccessKey": "not-a-real-secret", "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
            return Canned(200, json.dumps(lent).encode())
        case _:
            return Canned(404)


def test_role_of_the_machine_lends_the_keys(bare: pytest.MonkeyPatch) -> None:
    put = {**SIGNED, "ETag": '"x"', "Last-Modified": "Fri, 20 Nov 2026 00:00:00 GMT"}
    answers = {"PUT": Canned(200, b"", put), "HEAD": Canned(200, b"", {**put, "Content-Length": "1"})}
    with web(role_service) as metadata, web(lambda method, path: answers[method]) as service:
        bare.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{metadata.port}/")
        S3Store("backups", endpoint=f"http://127.0.0.1:{service.port}").put("one", io.BytesIO(b"1"))

    assert [method for method, _, _ in metadata.seen] == ["PUT", "GET", "GET"]
    asked = [{name.lower(): value for name, value in headers.items()} for _, _, headers in metadata.seen[1:]]
    assert {headers["x-aws-ec2-metadata-token"] for headers in asked} == {"not-a-real-metadata-token"}
    for _, _, headers in service.seen:
        assert "Credential=ASIA-not-real/" in headers["Authorization"]
        assert headers["X-Amz-Security-Token"] == "not-a-real-token"


def test_machine_without_keys_and_role_is_told_what_to_set(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/")
    bare.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")

    with pytest.raises(StoreAccessDenied) as raised:
        S3Store("backups", endpoint="http://127.0.0.1:1").stat("one")

    assert "access_key_id" in raised.value.hint
    assert "role" in raised.value.hint
