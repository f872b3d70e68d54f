"""What a bad network does to an S3 store, with a real server behind a proxy that loses what it is told to."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from drtool.errors import ObjectExists, ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.conformance import forward_only
from drtool.stores.retry import Backoff
from drtool.stores.s3 import S3Store
from tests.proxy import Proxy, proxy_to

if TYPE_CHECKING:
    from tests.servers import S3Server

pytestmark = pytest.mark.engine("seaweedfs")

MIB = 1 << 20
BIG = 12 * MIB  # three parts of at most 5 MiB
OLD, NEW = b"old" * 1000, bytes(range(256)) * (BIG // 256)


PREFIX = "faults"


@pytest.fixture(scope="module")
def running_proxy(s3_http: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3_http.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def direct(s3_http: S3Server) -> S3Store:
    return s3_http.store(prefix=PREFIX)


@pytest.fixture(scope="module")
def store(s3_http: S3Server, running_proxy: Proxy) -> S3Store:
    """The same place as ``direct``, seen through the proxy."""
    return s3_http.store(prefix=PREFIX, endpoint=running_proxy.url)


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.faults.clear()
    running_proxy.heads.clear()
    return running_proxy


@pytest.fixture(autouse=True)
def _empty_place(direct: S3Store) -> Iterator[None]:
    yield
    direct.delete([info.key for info in direct.list("")])
    for upload in direct.client.list_multipart_uploads(Bucket=direct.bucket, Prefix=direct.prefix).get("Uploads", []):
        direct.client.abort_multipart_upload(Bucket=direct.bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _read(store: S3Store, key: str) -> bytes:
    with store.open(key) as body:
        return body.read()


def _unfinished_uploads(store: S3Store) -> list[str]:
    page = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix)
    return [upload["Key"].removeprefix(store.prefix) for upload in page.get("Uploads", [])]


def test_part_that_is_cut_twice_arrives_all_the_same(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    fault = proxy.cut_request(b"partNumber=2", after=MIB, times=2)

    info = store.put("one", forward_only([NEW]))

    assert (fault.hits, info.size) == (2, BIG)
    assert _read(direct, "one") == NEW
    assert _unfinished_uploads(direct) == []


def test_part_that_never_arrives_fails_the_put_and_leaves_nothing(
    store: S3Store, direct: S3Store, proxy: Proxy
) -> None:
    direct.put("one", io.BytesIO(OLD))
    proxy.cut_request(b"partNumber=2", after=MIB, times=1000)

    with pytest.raises(StoreTransient, match="one at http://"):
        store.put("one", forward_only([NEW]))

    assert _read(direct, "one") == OLD
    assert _unfinished_uploads(direct) == []


def test_small_object_that_is_cut_is_sent_again(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    fault = proxy.cut_request(b"PUT", after=10, times=3)

    store.put("one", forward_only([OLD]))

    assert fault.hits == 3
    assert _read(direct, "one") == OLD


def test_busy_server_is_asked_again(store: S3Store, proxy: Proxy) -> None:
    fault = proxy.answer(b"", 503, times=4)

    store.put("one", forward_only([OLD]))

    assert fault.hits == 4
    assert [info.key for info in store.list("")] == ["one"]


def test_server_that_stays_busy_is_given_up_after_the_agreed_attempts(s3_http: S3Server, proxy: Proxy) -> None:
    store = s3_http.store(prefix=PREFIX, endpoint=proxy.url, backoff=Backoff(3, timedelta(0), timedelta(0)))
    proxy.answer(b"", 503, times=1000)

    with pytest.raises(StoreTransient):
        store.stat("one")

    assert proxy.requests(b"HEAD") == 3


def test_refusal_is_not_asked_again(store: S3Store, proxy: Proxy) -> None:
    proxy.answer(b"", 403, times=1000)

    with pytest.raises(StoreAccessDenied):
        store.put("one", forward_only([OLD]))

    assert len(proxy.heads) == 1


def test_lost_answer_to_a_conditional_put_is_not_taken_for_another_writer(
    store: S3Store, direct: S3Store, proxy: Proxy
) -> None:
    """The server stored it, the answer was lost, the retry hears 412: we came first all the same."""
    fault = proxy.cut_answer(b"PUT")

    info = store.put("one", forward_only([OLD]), only_if_absent=True)

    assert (fault.hits, info.size, proxy.requests(b"PUT")) == (1, len(OLD), 2)
    assert _read(direct, "one") == OLD


def test_conditional_put_that_was_overtaken_during_its_retry_says_so(
    store: S3Store, direct: S3Store, proxy: Proxy
) -> None:
    direct.put("one", io.BytesIO(OLD))
    fault = proxy.answer(b"PUT", 503)

    with pytest.raises(ObjectExists):
        store.put("one", forward_only([b"x" * len(OLD)]), only_if_absent=True)

    assert fault.hits == 1
    assert _read(direct, "one") == OLD


@pytest.mark.parametrize("only_if_absent", [False, True])
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_lost_answer_to_the_completion_is_settled_by_looking(
    store: S3Store, direct: S3Store, proxy: Proxy, times: int, only_if_absent: bool
) -> None:
    fault = proxy.cut_answer(b"POST /" + f"{store.bucket}/{store.prefix}one?uploadId=".encode(), times=times)

    info = store.put("one", forward_only([NEW]), only_if_absent=only_if_absent)

    assert fault.hits == min(times, Backoff().attempts)
    assert info.size == BIG
    assert _read(direct, "one") == NEW
    assert _unfinished_uploads(direct) == []


def test_completion_that_never_reaches_the_server_leaves_the_old_object(
    store: S3Store, direct: S3Store, proxy: Proxy
) -> None:
    direct.put("one", io.BytesIO(OLD))
    proxy.cut_request(b"POST /" + f"{store.bucket}/{store.prefix}one?uploadId=".encode(), after=0, times=1000)

    with pytest.raises(StoreTransient):
        store.put("one", forward_only([NEW]))

    assert _read(direct, "one") == OLD
    assert _unfinished_uploads(direct) == []


def test_body_that_breaks_off_is_read_on_from_there(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    direct.put("one", io.BytesIO(NEW))
    fault = proxy.cut_answer(b"GET", after=3 * MIB, times=3)

    assert _read(store, "one") == NEW
    assert fault.hits == 3
    assert proxy.requests(b"Range: bytes=") == 3
    assert proxy.requests(b"If-Match: ") == 3


def test_body_that_breaks_off_is_read_on_from_a_later_start(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    direct.put("one", io.BytesIO(NEW))
    proxy.cut_answer(b"GET", after=MIB, times=2)

    with store.open("one", start=5 * MIB + 1) as body:
        assert body.read() == NEW[5 * MIB + 1 :]


def test_body_that_keeps_breaking_off_is_an_error_and_no_end(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    direct.put("one", io.BytesIO(NEW))
    fault = proxy.cut_answer(b"GET", after=64 * 1024, times=1000)

    with pytest.raises(StoreTransient), store.open("one") as body:
        body.read()

    assert fault.hits <= 20


def test_object_replaced_while_its_body_broke_off_is_an_error(store: S3Store, direct: S3Store, proxy: Proxy) -> None:
    size = 48 * MIB  # far more than the buffers of the sockets between here and the server
    direct.put("one", io.BytesIO(b"o" * size))
    proxy.cut_answer(b"GET", after=size // 2)

    with store.open("one") as body:
        assert body.read(100) == b"o" * 100
        direct.put("one", io.BytesIO(b"n" * size))
        with pytest.raises(StoreError, match="replaced while it was being read"):
            body.read()


@pytest.mark.parametrize("operation", ["list", "delete", "stat"])
def test_lost_answer_to_a_call_that_may_be_repeated_does_not_show(
    store: S3Store, direct: S3Store, proxy: Proxy, operation: str
) -> None:
    direct.put("one", io.BytesIO(OLD))
    fault = proxy.cut_answer(b"", times=2)

    match operation:
        case "list":
            assert [info.key for info in store.list("")] == ["one"]
        case "delete":
            store.delete(["one"])
            assert [*direct.list("")] == []
        case "stat":
            assert store.stat("one").size == len(OLD)
    assert fault.hits == 2


def test_writer_that_was_killed_leaves_no_object_and_a_second_run_succeeds(s3_http: S3Server, direct: S3Store) -> None:
    direct.put("one", io.BytesIO(OLD))
    script = textwrap.dedent(f"""
        import sys
        from tests.servers import S3Server
        server = S3Server({s3_http.endpoint!r}, {s3_http.port}, None)
        server.store(prefix={direct.prefix!r}).put("one", sys.stdin.buffer)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert writer.stdin
    writer.stdin.write(NEW)  # returns when all but a pipe's buffer was read: two parts are on their way
    writer.kill()
    writer.wait()
    writer.stdin.close()

    assert _read(direct, "one") == OLD
    direct.put("one", forward_only([NEW]))
    assert _read(direct, "one") == NEW


def test_server_that_is_not_there_is_transient(s3_http: S3Server, proxy: Proxy) -> None:
    nowhere = proxy.url.rsplit(":", 1)[0] + ":1"
    store = s3_http.store(prefix=PREFIX, endpoint=nowhere, backoff=Backoff(2, timedelta(0), timedelta(0)))

    with pytest.raises(StoreTransient, match=r"127\.0\.0\.1:1"):
        store.put("one", forward_only([OLD]))


def test_certificate_nobody_vouches_for_is_no_transient_error(s3_https: S3Server) -> None:
    stranger = S3Store("backups", endpoint=s3_https.endpoint, access_key_id="x", secret_access_key="y")

    with pytest.raises(StoreError, match="certificate is not trusted") as raised:
        stranger.stat("one")

    assert not isinstance(raised.value, StoreTransient)
    assert "ca_bundle" in raised.value.hint


def test_errors_name_the_place_and_never_a_secret(s3_http: S3Server) -> None:
    store = s3_http.store(prefix="some/where", secret="obviously-fake-secret")

    for call in (lambda: store.stat("one"), lambda: store.put("one", io.BytesIO(OLD)), lambda: [*store.list("one")]):
        with pytest.raises(StoreAccessDenied) as raised:
            call()
        text = f"{raised.value} {raised.value.hint} {raised.value.__cause__}"
        assert "s3://backups/some/where/one" in text
        assert s3_http.endpoint in text
        assert "obviously-fake-secret" not in text


def test_missing_object_in_the_middle_of_everything_stays_missing(store: S3Store, proxy: Proxy) -> None:
    proxy.cut_answer(b"HEAD", times=2)

    with pytest.raises(ObjectMissing):
        store.stat("one")
