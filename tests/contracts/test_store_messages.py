"""What is told when a store's settings are wrong: each mistake in its own words, and what to change about it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores import Store
from drtool.stores.oss import OssStore
from drtool.stores.retry import Backoff
from drtool.stores.s3 import S3Store
from drtool.stores.s3_answers import Frozen
from tests.canned import Canned, web
from tests.oss_server import BUCKET, REGION, Fault, OssServer
from tests.servers import Authority, make_authority

if TYPE_CHECKING:
    from tests.servers import S3Server

ONCE = Backoff(attempts=1)
PAGE = b"<!DOCTYPE html><html><body>It works!</body></html>"
CALLS: dict[str, Callable[[Store], object]] = {
    "stat": lambda store: store.stat("one"),
    "put": lambda store: store.put("one", io.BytesIO(b"1")),
    "open": lambda store: store.open("one").__enter__(),
    "list": lambda store: [*store.list("")],
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def s3(endpoint: str, **options: Any) -> S3Store:
    return S3Store(
        "backups",
        endpoint=endpoint,
        access_key_id="not-a-real-id",
        secret_access_key="not-a-real-secret",
        backoff=ONCE,
        **options,
    )


def oss(endpoint: str, **options: Any) -> OssStore:
    return OssStore(
        "backups",
        endpoint=endpoint,
        region=REGION,
        access_key_id="not-a-real-id",
        access_key_secret="not-a-real-secret",
        backoff=ONCE,
        **options,
    )


either_kind = pytest.mark.parametrize("make", [s3, oss])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


def refused(call: Callable[[Store], object], store: Store, kind: type[StoreError]) -> StoreError:
    """What the call raises: of this very class, with a hint, and in one line."""
    with pytest.raises(StoreError) as raised:
        call(store)
    assert type(raised.value) is kind, raised.value
    assert raised.value.hint
    assert "\n" not in f"{raised.value}{raised.value.hint}"
    assert "not-a-real-secret" not in f"{raised.value} {raised.value.hint}"
    return raised.value


# -- the endpoint ----------------------------------------------------------------------------------------------------


@every_call
@either_kind
def test_name_that_no_host_has_is_told(make: Callable[..., Store], call: Callable[[Store], object]) -> None:
    error = refused(call, make("http://no-such-host.invalid"), StoreTransient)

    assert "there is no host of that name" in str(error)
    assert "endpoint" in error.hint


@every_call
@either_kind
def test_port_where_nothing_listens_is_told(make: Callable[..., Store], call: Callable[[Store], object]) -> None:
    error = refused(call, make("http://127.0.0.1:1"), StoreTransient)

    assert "nothing listens there" in str(error)
    assert "port" in error.hint


@either_kind
@pytest.mark.parametrize(
    ("status", "call"),
    [
        pytest.param(status, call, id=f"{status}-{name}")
        for status in (200, 301, 403, 404, 405)
        for name, call in CALLS.items()
        # The page may be the object: what needs one looks at it before. And a 200 to a put is tried again, as a
        # portal's: see tests/faults.
        if status != 200 or name not in ("open", "put")
    ],
)
def test_web_page_is_not_taken_for_a_store(
    make: Callable[..., Store], call: Callable[[Store], object], status: int
) -> None:
    """Above all not for a store that is empty."""
    with web(lambda method, path: Canned(status, PAGE, {"Content-Type": "text/html"})) as site:
        store = make(f"http://127.0.0.1:{site.port}")
        error = refused(call, store, StoreError)

    assert "a web page answers there" in str(error)
    assert "endpoint" in error.hint


@either_kind
def test_page_of_a_proxy_for_a_busy_service_is_still_worth_another_try(make: Callable[..., Store]) -> None:
    with (
        web(lambda method, path: Canned(503, PAGE, {"Content-Type": "text/html"})) as site,
        pytest.raises(StoreTransient),
    ):
        make(f"http://127.0.0.1:{site.port}").put("one", io.BytesIO(b"1"))


@every_call
@either_kind
def test_https_to_a_port_that_speaks_http_is_told(make: Callable[..., Store], call: Callable[[Store], object]) -> None:
    with web(lambda method, path: Canned(200)) as site:
        error = refused(call, make(f"https://127.0.0.1:{site.port}"), StoreTransient)

    assert "does not speak https there" in str(error)
    assert "http://" in error.hint


@every_call
@either_kind
def test_http_to_a_port_that_speaks_https_is_told(
    make: Callable[..., Store], call: Callable[[Store], object], authority: Authority
) -> None:
    with web(lambda method, path: Canned(200), authority=authority) as site, pytest.raises(StoreError) as raised:
        call(make(f"http://127.0.0.1:{site.port}"))

    assert "https://" in raised.value.hint


@either_kind
def test_certificate_for_another_name_is_not_said_to_be_untrusted(
    make: Callable[..., Store], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: resolve("127.0.0.1", *rest, **options))
    with web(lambda method, path: Canned(200), authority=authority) as site:
        error = refused(
            CALLS["stat"], make(f"https://oss-elsewhere.example:{site.port}", ca_bundle=authority.bundle), StoreError
        )

    assert "certificate is for another name" in str(error)


@either_kind
def test_certificate_that_has_expired_is_not_said_to_be_untrusted(make: Callable[..., Store], tmp_path: Path) -> None:
    expired = make_authority(tmp_path, days=-1)
    with web(lambda method, path: Canned(200), authority=expired) as site:
        error = refused(CALLS["stat"], make(f"https://127.0.0.1:{site.port}", ca_bundle=expired.bundle), StoreError)

    assert "not valid today" in str(error)
    assert "clock" in error.hint


# -- the region ------------------------------------------------------------------------------------------------------


def xml(code: str, **fields: str) -> bytes:
    told = {"Code": code, "Message": "as they say", **fields}
    return f"<Error>{''.join(f'<{name}>{text}</{name}>' for name, text in told.items())}</Error>".encode()


SIGNED = {"x-amz-request-id": "4442587FB7D0A2F9", "Content-Type": "application/xml"}


@every_call
@pytest.mark.parametrize(
    ("status", "body", "header", "words"),
    [
        (400, xml("AuthorizationHeaderMalformed", Region="eu-north-1"), "eu-north-1", 'region = "eu-north-1"'),
        (301, xml("PermanentRedirect", Endpoint="backups.s3.eu-north-1.amazonaws.com"), "eu-north-1", "eu-north-1"),
        (301, xml("PermanentRedirect", Endpoint="backups.s3.amazonaws.com"), "", "backups.s3.amazonaws.com"),
        (400, xml("IllegalLocationConstraintException"), "me-south-1", 'region = "me-south-1"'),
    ],
    ids=["signed for another", "moved", "moved without a region", "opt-in"],
)
def test_bucket_of_another_region_names_its_region(
    call: Callable[[Store], object], status: int, body: bytes, header: str, words: str
) -> None:
    """boto3 asks again with the region that it was told; what still fails then is what the operator sees."""
    headers = {**SIGNED, "x-amz-bucket-region": header} if header else SIGNED
    with web(lambda method, path: Canned(status, body, headers)) as service:
        error = refused(call, s3(f"http://127.0.0.1:{service.port}", region="eu-central-1"), StoreError)

    assert words in error.hint
    assert "drtool.toml" in error.hint


@every_call
def test_oss_bucket_of_another_region_names_its_endpoint_and_region(
    server: OssServer, call: Callable[[Store], object]
) -> None:
    server.service.elsewhere[BUCKET] = "oss-cn-beijing.aliyuncs.com"

    error = refused(call, server.store(), StoreAccessDenied)

    assert 'endpoint = "oss-cn-beijing.aliyuncs.com" and region = "cn-beijing"' in error.hint


@every_call
def test_oss_region_that_is_not_that_of_the_signature_is_told(
    server: OssServer, call: Callable[[Store], object]
) -> None:
    with pytest.raises(StoreError) as raised:
        call(server.store(region="cn-beijing"))

    assert "region" in raised.value.hint


# -- the bucket and the keys -----------------------------------------------------------------------------------------


@every_call
@pytest.mark.engine("seaweedfs")
def test_missing_bucket_is_told(s3_http: S3Server, call: Callable[[Store], object]) -> None:
    assert "Make the bucket" in refused(call, s3_http.store(bucket="no-such-bucket"), BucketMissing).hint


@every_call
def test_missing_oss_bucket_is_told(server: OssServer, call: Callable[[Store], object]) -> None:
    assert "Make the bucket" in refused(call, server.store(bucket="no-such-bucket"), BucketMissing).hint


@every_call
@pytest.mark.engine("seaweedfs")
def test_key_id_that_nobody_knows_is_told(s3_http: S3Server, call: Callable[[Store], object]) -> None:
    error = refused(call, s3(s3_http.endpoint), StoreAccessDenied)

    assert "access_key_id" in error.hint
    assert "secret" not in error.hint


@every_call
@pytest.mark.engine("seaweedfs")
def test_secret_that_is_not_the_keys_is_told(s3_http: S3Server, call: Callable[[Store], object]) -> None:
    error = refused(call, s3_http.store(secret="not-a-real-secret-either"), StoreAccessDenied)

    assert "secret_access_key" in error.hint


@every_call
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"access_key_id": "not-known"}, "access_key_id"),
        ({"access_key_secret": "not-a-real-secret-either"}, "access_key_secret"),
        ({"security_token": "not-a-real-token"}, "security_token"),
    ],
)
def test_oss_keys_that_are_wrong_are_told_apart(
    server: OssServer, call: Callable[[Store], object], changes: dict[str, str], words: str
) -> None:
    assert words in refused(call, server.store(**changes), StoreAccessDenied).hint


@every_call
@pytest.mark.parametrize(("code", "status"), [("ExpiredToken", 400), ("InvalidToken", 400)])
def test_token_that_has_ended_is_told(call: Callable[[Store], object], code: str, status: int) -> None:
    """To HEAD, AWS answers 400 and nothing else."""
    with web(lambda method, path: Canned(status, xml(code), SIGNED)) as service:
        error = refused(
            call, s3(f"http://127.0.0.1:{service.port}", session_token="not-a-real-token"), StoreAccessDenied
        )

    assert "token" in error.hint


@every_call
def test_oss_token_that_has_ended_is_told(server: OssServer, call: Callable[[Store], object]) -> None:
    server.add(Fault("status", left=9, status=403, code="SecurityTokenExpired"))

    assert "security token has expired" in refused(call, server.store(), StoreAccessDenied).hint


@every_call
@pytest.mark.parametrize(
    ("off", "words"), [(40, "40 minutes behind the store's"), (-40, "40 minutes ahead of the store's")]
)
@pytest.mark.parametrize("names_it", [True, False])
def test_clock_that_is_off_is_told_by_how_much(
    call: Callable[[Store], object], off: int, words: str, names_it: bool
) -> None:
    theirs = datetime.now(UTC) + timedelta(minutes=off)
    fields = {"ServerTime": theirs.strftime("%Y-%m-%dT%H:%M:%SZ")} if names_it else {}
    headers = {**SIGNED, "Date": format_datetime(theirs, usegmt=True)}
    with web(lambda method, path: Canned(403, xml("RequestTimeTooSkewed", **fields), headers)) as service:
        error = refused(call, s3(f"http://127.0.0.1:{service.port}"), StoreAccessDenied)

    assert words in error.hint


@every_call
def test_clock_that_is_off_from_that_of_oss_is_told_by_how_much(
    server: OssServer, call: Callable[[Store], object]
) -> None:
    server.service.skew = timedelta(minutes=40)

    assert "40 minutes behind the store's" in refused(call, server.store(), StoreAccessDenied).hint


# -- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.engine("seaweedfs")
@pytest.mark.parametrize(
    ("name", "action"),
    [("stat", "s3:GetObject"), ("put", "s3:PutObject"), ("open", "s3:GetObject"), ("list", "s3:ListBucket")],
)
def test_action_that_is_not_allowed_is_named(s3_http: S3Server, name: str, action: str) -> None:
    store = s3_http.store(bucket=f"denied-{name}")
    store.client.create_bucket(Bucket=store.bucket)
    store.put("one", io.BytesIO(b"1"))
    everything = [f"arn:aws:s3:::{store.bucket}", f"arn:aws:s3:::{store.bucket}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": [action], "Resource": everything}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    store.client.put_bucket_policy(Bucket=store.bucket, Policy=json.dumps(policy))

    assert action in refused(CALLS[name], store, StoreAccessDenied).hint


@pytest.mark.parametrize(
    ("name", "call", "action"),
    [
        ("stat", "HeadObject", "oss:GetObject"),
        ("put", "PutObject", "oss:PutObject"),
        ("open", "GetObject", "oss:GetObject"),
        ("list", "ListObjectsV2", "oss:ListObjects"),
    ],
)
def test_action_that_oss_does_not_allow_is_named(server: OssServer, name: str, call: str, action: str) -> None:
    server.service.denied.add(call)

    assert action in refused(CALLS[name], server.store(), StoreAccessDenied).hint


def test_object_that_is_not_there_is_still_just_missing(server: OssServer) -> None:
    with pytest.raises(ObjectMissing):
        server.store().stat("one")


# -- frozen objects --------------------------------------------------------------------------------------------------


def test_object_that_is_frozen_says_to_have_it_restored_and_to_wait() -> None:
    body = xml("InvalidObjectState", StorageClass="DEEP_ARCHIVE")
    with web(lambda method, path: Canned(403, body, SIGNED)) as service:
        error = refused(CALLS["open"], s3(f"http://127.0.0.1:{service.port}"), Frozen)

    assert "Frozen in DEEP_ARCHIVE" in error.hint
    assert "aws s3api restore-object --bucket backups --key one " in error.hint
    assert "wait" in error.hint
