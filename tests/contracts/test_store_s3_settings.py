"""The settings of an S3 store that change what goes over the wire, each against a real server."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pytest

from drtool.stores.conformance import CHECKS, Check, NotApplicable, Subject, forward_only, noise

if TYPE_CHECKING:
    from tests.servers import S3Server

pytestmark = pytest.mark.engine("seaweedfs")

MIB = 1 << 20
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
