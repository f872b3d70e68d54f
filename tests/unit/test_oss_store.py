"""What an OSS store refuses before it asks anybody, and where its requests would go."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from drtool.errors import ConfigError, StoreAccessDenied, StoreError
from drtool.stores import Capabilities
from drtool.stores.oss import OssStore


def _store(bucket: str = "backups", **options: Any) -> OssStore:
    settings = {
        "endpoint": "http://127.0.0.1:9",
        "region": "cn-hangzhou",
        "access_key_id": "not-a-real-id",
        "access_key_secret": "not-real",
    }
    return OssStore(bucket, **(settings | options))


@pytest.mark.parametrize(
    ("given", "name"), [("", "oss://backups/"), ("a", "oss://backups/a/"), ("/a/b/", "oss://backups/a/b/")]
)
def test_prefix_is_a_folder_however_it_is_written(given: str, name: str) -> None:
    assert _store(prefix=given).name == name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part_size": 100_000}, "part size"),
        ({"region": "oss-cn-hangzhou"}, "like cn-hangzhou"),
        ({"region": ""}, "like cn-hangzhou"),
        ({"access_key_secret": None}, "go together"),
        ({"endpoint": "not an endpoint"}, "is a host"),
        ({"endpoint": "https://host:port"}, "is a host"),
        ({"endpoint": "https://somebody:secret@host"}, "is a host"),
        ({"endpoint": "https://host/path"}, "is a host"),
        ({"endpoint": "ftp://host"}, "is a host"),
        ({"bucket": "Not_A_Bucket"}, "bucket_name"),
        ({"ca_bundle": Path("/nowhere/ca.pem")}, "no ca_bundle"),
        ({"ram_role": "r", "metadata_url": "100.100.100.200"}, "metadata service"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _store(**options)


@pytest.mark.parametrize(
    ("endpoint", "cname", "expected"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", False, "https://backups.oss-cn-hangzhou.aliyuncs.com/a/one"),
        ("oss-cn-hangzhou-internal.aliyuncs.com", False, "https://backups.oss-cn-hangzhou-internal.aliyuncs.com/a/one"),
        ("https://oss-accelerate.aliyuncs.com", False, "https://backups.oss-accelerate.aliyuncs.com/a/one"),
        (
            "http://oss-cn-hangzhou-internal.aliyuncs.com",
            False,
            "http://backups.oss-cn-hangzhou-internal.aliyuncs.com/a/one",
        ),
        ("backups.example.com", True, "https://backups.example.com/a/one"),
        ("http://127.0.0.1:9", False, "http://127.0.0.1:9/backups/a/one"),
        ("localhost:9", False, "https://localhost:9/backups/a/one"),
    ],
)
def test_endpoint_decides_where_the_bucket_is_named(endpoint: str, cname: bool, expected: str) -> None:
    """And https is meant where nothing is said: oss2 itself would take http."""
    url = urlsplit(_store(endpoint=endpoint, cname=cname, prefix="a").signed_url("one", ttl=timedelta(minutes=1)))

    assert f"{url.scheme}://{url.netloc}{url.path}" == expected


def test_signed_url_is_signed_by_version_4_for_the_region() -> None:
    url = _store().signed_url("one", ttl=timedelta(minutes=5))

    assert "x-oss-signature-version=OSS4-HMAC-SHA256" in url
    assert "%2Fcn-hangzhou%2Foss%2Faliyun_v4_request" in url
    assert "x-oss-expires=300" in url
    assert "not-real" not in url


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=7, seconds=1)])
def test_signed_url_that_no_server_would_take_is_refused(ttl: timedelta) -> None:
    with pytest.raises(StoreError, match="one second to seven days"):
        _store().signed_url("one", ttl=ttl)


def test_capabilities_follow_from_the_settings_without_a_question() -> None:
    assert _store().capabilities == Capabilities(conditional_put=True, signed_url=True)
    assert _store(versioned=True).capabilities == Capabilities(signed_url=True, versioning=True)


def test_lock_of_one_object_is_refused_before_the_first_byte_and_the_first_request() -> None:
    source = io.BytesIO(b"untouched")

    with pytest.raises(StoreError, match="cannot lock"):
        _store(worm=True).put("one", source, lock_until=datetime.now(UTC) + timedelta(days=1))
    assert source.tell() == 0


def test_credentials_come_from_the_environment_when_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "not-real-either")
    monkeypatch.setenv("OSS_SESSION_TOKEN", "a-token")
    url = _store(access_key_id=None, access_key_secret=None).signed_url("one", ttl=timedelta(minutes=1))

    assert "x-oss-credential=from-the-environment" in url
    assert "x-oss-security-token=a-token" in url


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSS_ACCESS_KEY_ID", raising=False)

    with pytest.raises(StoreAccessDenied, match="Access key id"):
        _store(access_key_id=None, access_key_secret=None).stat("one")
