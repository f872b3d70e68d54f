"""What S3 answers mean, and what an S3 store refuses before it asks anybody."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drtool.errors import (
    BucketMissing,
    ConfigError,
    ObjectMissing,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreTransient,
)
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.s3 import S3Store
from drtool.stores.s3_answers import Frozen, PastTheEnd, Refused, UploadGone, error_from_answer
from drtool.stores.s3_bucket import lifecycle_effects


def _store(**options: Any) -> S3Store:
    return S3Store(
        "backups", endpoint="http://127.0.0.1:9", access_key_id="not-a-real-id", secret_access_key="not-real", **options
    )


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchBucket", 404, BucketMissing),
        ("NoSuchKey", 404, ObjectMissing),
        ("404", 404, ObjectMissing),  # HEAD has no body to name the code in
        ("NoSuchUpload", 404, UploadGone),
        ("AccessDenied", 403, StoreAccessDenied),
        ("403", 403, StoreAccessDenied),
        ("", 401, StoreAccessDenied),
        ("InvalidAccessKeyId", 403, StoreAccessDenied),
        ("SignatureDoesNotMatch", 403, StoreAccessDenied),
        ("RequestTimeTooSkewed", 403, StoreAccessDenied),
        ("QuotaExceeded", 403, StoreFull),  # Ceph answers so: the code counts, not the status
        ("InsufficientStorage", 507, StoreFull),
        ("", 507, StoreFull),
        ("SlowDown", 503, StoreTransient),
        ("RequestTimeout", 400, StoreTransient),
        ("BadDigest", 400, StoreTransient),
        ("InternalError", 500, StoreTransient),
        ("", 502, StoreTransient),
        ("", 429, StoreTransient),
        ("ConditionalRequestConflict", 409, StoreTransient),
        ("PreconditionFailed", 412, Refused),
        ("InvalidRange", 416, PastTheEnd),
        ("InvalidObjectState", 403, Frozen),
        ("NotImplemented", 501, StoreError),
        ("EntityTooLarge", 400, StoreError),
    ],
)
def test_answer_of_a_server_has_one_meaning(code: str, status: int, expected: type[StoreError]) -> None:
    answer = {"Error": {"Code": code, "Message": "as they say"}, "ResponseMetadata": {"HTTPStatusCode": status}}

    error = error_from_answer("s3://backups/one at http://127.0.0.1:9", answer)

    assert type(error) is expected
    assert str(error) == f"s3://backups/one at http://127.0.0.1:9: {code or status}: as they say"


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "AccessDenied"]
)
def test_denial_says_what_to_do_next(code: str) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    assert error_from_answer("s3://backups/one", answer).hint


@pytest.mark.parametrize(
    ("given", "name"), [("", "s3://backups/"), ("a", "s3://backups/a/"), ("/a/b/", "s3://backups/a/b/")]
)
def test_prefix_is_a_folder_however_it_is_written(given: str, name: str) -> None:
    assert _store(prefix=given).name == name


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="part size"):
        _store(part_size=1 << 20)
    with pytest.raises(ConfigError, match="go together"):
        S3Store("backups", access_key_id="not-a-real-id")
    with pytest.raises(ConfigError, match="not an endpoint"):
        S3Store("backups", endpoint="not an endpoint", access_key_id="x", secret_access_key="y")
    with pytest.raises(StoreError, match="not a key"):
        _store(prefix="../elsewhere")


def test_lock_is_declared_by_the_settings_and_only_then_taken() -> None:
    later = datetime.now(UTC) + timedelta(days=1)

    assert _store().capabilities.lock == "none"
    assert _store(object_lock="compliance").capabilities.lock == "object"
    assert _store(object_lock="compliance").lock_arguments(later) == {
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": later,
    }
    with pytest.raises(StoreError, match="no time zone"):
        _store(object_lock="governance").put("one", io.BytesIO(b""), lock_until=datetime(2030, 1, 1))  # noqa: DTZ001 - wrong on purpose


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=7, seconds=1)])
def test_signed_url_that_no_server_would_take_is_refused(ttl: timedelta) -> None:
    with pytest.raises(StoreError, match="one second to seven days"):
        _store().signed_url("one", ttl=ttl)


def test_signed_url_is_signed_by_version_4() -> None:
    url = _store(prefix="a").signed_url("b/one", ttl=timedelta(minutes=5))

    assert url.startswith("http://127.0.0.1:9/backups/a/b/one?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert "not-real" not in url


ABORT = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
OLD = {"Expiration": {"Days": 30}}
COLD = {"Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}, {"Days": 30, "StorageClass": "DEEP_ARCHIVE"}]}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Filter": {"Prefix": ""}, **ABORT}, LifecycleEffects(aborts_uploads=True)),
        ({"Filter": {}, **ABORT}, LifecycleEffects(aborts_uploads=True)),
        ({"Prefix": "night/", **ABORT}, LifecycleEffects(aborts_uploads=True)),
        ({"Filter": {"Prefix": "night/gitlab/"}, **ABORT}, LifecycleEffects()),
        ({"Filter": {"Prefix": "night/"}, **OLD}, LifecycleEffects(deletes=("one",))),
        ({"Filter": {"Prefix": "night/gitlab/sets/"}, **OLD}, LifecycleEffects(deletes=("one",))),
        (
            {"Filter": {"And": {"Prefix": "night/", "ObjectSizeGreaterThan": 9}}, **OLD},
            LifecycleEffects(deletes=("one",)),
        ),
        ({"Filter": {"Prefix": "day/"}, **OLD}, LifecycleEffects()),
        ({"Filter": {"Prefix": "day/"}, **COLD}, LifecycleEffects()),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}, **OLD}, LifecycleEffects()),
        ({"Filter": {"And": {"Prefix": "night/", "Tags": [{"Key": "a", "Value": "b"}]}}, **OLD}, LifecycleEffects()),
        ({"Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, LifecycleEffects()),
        ({"Filter": {}, **COLD}, LifecycleEffects(freezes=("one",))),
        ({"Filter": {}, **OLD, "Status": "Disabled"}, LifecycleEffects()),
    ],
)
def test_rules_are_judged_by_what_they_do_to_us(rule: dict[str, Any], expected: LifecycleEffects) -> None:
    assert lifecycle_effects([{"ID": "one", "Status": "Enabled", **rule}], "night/") == expected
