"""What a bad network, and a service in trouble, do to an OSS store."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta

import pytest

from drtool.errors import ObjectExists, ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.conformance import forward_only
from drtool.stores.oss import OssStore
from drtool.stores.retry import Backoff
from tests.oss_server import BUCKET, REGION, Fault, Identity, OssServer
from tests.oss_server.answers import xml_answer
from tests.oss_server.serving import FaultKind
from tests.oss_server.state import Retention

MIB = 1 << 20
BIG = 12 * MIB  # three parts of 4 MiB
OLD, NEW = b"old" * 1000, bytes(range(256)) * (BIG // 256)
PREFIX = "faults"


@pytest.fixture
def server(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


@pytest.fixture
def store(server: OssServer) -> OssStore:
    return server.store(prefix=PREFIX)


def _read(store: OssStore, key: str) -> bytes:
    with store.open(key) as body:
        return body.read()


def _stored(server: OssServer, key: str) -> bytes:
    """What is in the bucket, looked at past every fault."""
    version = server.bucket.current(f"{PREFIX}/{key}")
    assert version, f"there is no {key}"
    return version.content


# On the way in


@pytest.mark.parametrize("kind", ["reset request", "lost answer", "damaged request", "wrong checksum", "status"])
def test_part_that_fails_twice_arrives_all_the_same(server: OssServer, store: OssStore, kind: FaultKind) -> None:
    fault = server.add(Fault(kind, "UploadPart", after=MIB, left=2))

    info = store.put("one", forward_only([NEW]))

    assert (fault.hits, info.size) == (2, BIG)
    assert _stored(server, "one") == NEW
    assert server.bucket.uploads == {}
    assert len(server.requests("UploadPart")) + (2 if kind == "reset request" else 0) == 5


def test_part_that_never_arrives_fails_the_put_and_leaves_nothing(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("reset request", "UploadPart", after=MIB, left=1000))

    with pytest.raises(StoreTransient, match="one at http://"):
        store.put("one", forward_only([NEW]))

    assert _stored(server, "one") == OLD
    assert server.bucket.uploads == {}


def test_part_that_always_arrives_damaged_never_becomes_an_object(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("damaged request", "UploadPart", left=1000))

    with pytest.raises(StoreTransient, match="changed on their way"):
        store.put("one", forward_only([NEW]))

    assert _stored(server, "one") == OLD
    assert server.bucket.uploads == {}


def test_part_that_the_service_lost_is_no_success(server: OssServer, store: OssStore) -> None:
    server.add(Fault("lost part", "UploadPart"))

    with pytest.raises(StoreError, match="InvalidPart"):
        store.put("one", forward_only([NEW]))

    assert server.bucket.versions == {}
    assert server.bucket.uploads == {}


@pytest.mark.parametrize("kind", ["reset request", "damaged request", "lost answer"])
def test_small_object_that_is_cut_or_damaged_is_sent_again(server: OssServer, store: OssStore, kind: FaultKind) -> None:
    fault = server.add(Fault(kind, "PutObject", after=10, left=3))

    store.put("one", forward_only([OLD]))

    assert fault.hits == 3
    assert _stored(server, "one") == OLD


def test_small_object_that_always_arrives_damaged_replaces_nothing(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("damaged request", "PutObject", left=1000))

    with pytest.raises(StoreTransient, match="InvalidDigest"):
        store.put("one", forward_only([b"new"]))

    assert _stored(server, "one") == OLD


@pytest.mark.parametrize("call", ["PutObject", "CompleteMultipartUpload"])
def test_object_with_another_checksum_than_its_source_is_no_success(
    server: OssServer, store: OssStore, call: str
) -> None:
    """The service tells another checksum each time: whatever it keeps is not what was sent."""
    server.add(Fault("wrong checksum", call, left=1000))
    server.add(Fault("wrong checksum", "HeadObject", left=1000))

    with pytest.raises(StoreError, match="another checksum"):
        store.put("one", forward_only([OLD if call == "PutObject" else NEW]))


def test_completion_that_tells_another_checksum_is_no_success(server: OssServer, store: OssStore) -> None:
    server.add(Fault("wrong checksum", "CompleteMultipartUpload"))

    with pytest.raises(StoreError, match="another checksum"):
        store.put("one", forward_only([NEW]))


def test_object_that_is_shorter_than_what_was_sent_is_no_success(server: OssServer, store: OssStore) -> None:
    server.add(Fault("altered answer", "HeadObject", status=200, headers={"content-length": "5"}))

    with pytest.raises(StoreError, match="3000 bytes sent, 5 stored"):
        store.put("one", forward_only([OLD]))


def test_redirection_is_not_followed(server: OssServer, store: OssStore) -> None:
    """A put that is sent elsewhere becomes a get on the way, which some page may well answer with 200."""
    elsewhere = {"location": f"{server.endpoint}/elsewhere"}
    server.add(Fault("status", "PutObject", left=1000, status=302, code="Redirect", headers=elsewhere))

    with pytest.raises(StoreError, match="redirects"):
        store.put("one", forward_only([OLD]))
    assert len(server.requests()) == 1


def test_busy_service_is_asked_again(server: OssServer, store: OssStore) -> None:
    fault = server.add(Fault("status", left=4))

    store.put("one", forward_only([OLD]))

    assert fault.hits == 4
    assert [info.key for info in store.list("")] == ["one"]


def test_service_that_throttles_is_asked_again_whatever_it_calls_that(server: OssServer, store: OssStore) -> None:
    fault = server.add(
        Fault("status", left=3, status=403, code="AccessDenied", headers={"x-oss-qos-delay-time": "500"})
    )

    store.put("one", forward_only([OLD]))

    assert fault.hits == 3


def test_service_that_stays_busy_is_given_up_after_the_agreed_attempts(server: OssServer) -> None:
    store = server.store(backoff=Backoff(3, timedelta(0), timedelta(0)))
    server.add(Fault("status", left=1000))

    with pytest.raises(StoreTransient):
        store.stat("one")

    assert len(server.requests("HeadObject")) == 3


def test_refusal_is_not_asked_again(server: OssServer, store: OssStore) -> None:
    server.add(Fault("status", left=1000, status=403, code="AccessDenied"))

    with pytest.raises(StoreAccessDenied):
        store.put("one", forward_only([OLD]))

    assert len(server.requests()) == 1


# Answers that were lost


@pytest.mark.parametrize("kind", ["lost answer", "late status"])
def test_lost_answer_to_a_conditional_put_is_not_taken_for_another_writer(
    server: OssServer, store: OssStore, kind: FaultKind
) -> None:
    """The service stored it, the answer was lost, the retry hears FileAlreadyExists: we came first all the same."""
    fault = server.add(Fault(kind, "PutObject", status=500, code="InternalError"))

    info = store.put("one", forward_only([OLD]), only_if_absent=True)

    assert (fault.hits, info.size, len(server.requests("PutObject"))) == (1, len(OLD), 2)
    assert _stored(server, "one") == OLD


def test_conditional_put_that_was_overtaken_during_its_retry_says_so(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    fault = server.add(Fault("status", "PutObject"))

    with pytest.raises(ObjectExists):
        store.put("one", forward_only([b"x" * len(OLD)]), only_if_absent=True)

    assert fault.hits == 1
    assert _stored(server, "one") == OLD


def test_writer_who_may_not_look_still_hears_that_there_is_something(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.service.denied.add("HeadObject")

    with pytest.raises(ObjectExists):
        store.put("one", forward_only([b"another"]), only_if_absent=True)


def test_lost_answer_under_a_retention_policy_is_not_taken_for_an_older_object(
    server: OssServer, store: OssStore
) -> None:
    """The retry hears FileImmutable: what it must not replace is what the first try stored."""
    server.bucket.retention = Retention("policy", 7, server.service.clock.now(), locked=True)
    server.add(Fault("lost answer", "PutObject"))

    assert store.put("one", forward_only([OLD])).size == len(OLD)
    with pytest.raises(StoreAccessDenied, match="FileImmutable"):
        store.put("one", forward_only([b"another"]))
    with pytest.raises(ObjectExists):
        store.put("one", forward_only([b"another"]), only_if_absent=True)
    assert _stored(server, "one") == OLD


@pytest.mark.parametrize("only_if_absent", [False, True])
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
@pytest.mark.parametrize("kind", ["lost answer", "late status"])
def test_lost_answer_to_the_completion_is_settled_by_looking(
    server: OssServer, store: OssStore, kind: FaultKind, times: int, only_if_absent: bool
) -> None:
    """The retry hears NoSuchUpload, which says nothing: size, checksum and our mark on the object do."""
    fault = server.add(Fault(kind, "CompleteMultipartUpload", left=times, status=500, code="InternalError"))

    info = store.put("one", forward_only([NEW]), only_if_absent=only_if_absent)

    assert fault.hits >= 1
    assert info.size == BIG
    assert _stored(server, "one") == NEW
    assert server.bucket.uploads == {}


def test_completion_whose_answer_was_lost_is_still_compared(server: OssServer, store: OssStore) -> None:
    server.add(Fault("lost answer", "CompleteMultipartUpload"))
    server.add(Fault("wrong checksum", "HeadObject", left=1000))

    with pytest.raises(StoreError, match="another checksum"):
        store.put("one", forward_only([NEW]))


def test_completion_that_never_reaches_the_service_leaves_the_old_object(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("reset request", "CompleteMultipartUpload", left=1000))

    with pytest.raises(StoreTransient):
        store.put("one", forward_only([NEW]))

    assert _stored(server, "one") == OLD
    assert server.bucket.uploads == {}


def test_upload_that_somebody_aborted_is_an_error(server: OssServer, store: OssStore) -> None:
    def source() -> Iterator[bytes]:
        yield NEW
        server.bucket.uploads.clear()

    with pytest.raises(StoreError, match="NoSuchUpload"):
        store.put("one", forward_only(source()))
    with pytest.raises(ObjectMissing):
        store.stat("one")


@pytest.mark.parametrize("call", ["ListObjectsV2", "DeleteMultipleObjects", "HeadObject"])
@pytest.mark.parametrize("kind", ["lost answer", "late status"])
def test_lost_answer_to_a_call_that_may_be_repeated_does_not_show(
    server: OssServer, store: OssStore, kind: FaultKind, call: str
) -> None:
    store.put("one", io.BytesIO(OLD))
    fault = server.add(Fault(kind, call, left=2))

    match call:
        case "ListObjectsV2":
            assert [info.key for info in store.list("")] == ["one"]
        case "DeleteMultipleObjects":
            store.delete(["one"])
            assert server.bucket.versions == {}
        case _:
            assert store.stat("one").size == len(OLD)
    assert fault.hits == 2


# On the way out


@pytest.mark.parametrize("kind", ["reset answer", "short answer"])
def test_body_that_breaks_off_is_read_on_from_there(server: OssServer, store: OssStore, kind: FaultKind) -> None:
    store.put("one", io.BytesIO(NEW))
    fault = server.add(Fault(kind, "GetObject", after=3 * MIB, left=3))

    assert _read(store, "one") == NEW
    assert fault.hits == 3
    resumed = [seen.request.headers for seen in server.requests("GetObject") if "range" in seen.request.headers]
    assert len(resumed) == 3
    assert {headers["x-oss-range-behavior"] for headers in resumed} == {"standard"}
    assert all("if-match" in headers for headers in resumed)


def test_body_that_breaks_off_is_read_on_from_a_later_start(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(NEW))
    server.add(Fault("short answer", "GetObject", after=MIB, left=2))

    with store.open("one", start=5 * MIB + 1) as body:
        assert body.read() == NEW[5 * MIB + 1 :]


def test_body_that_keeps_breaking_off_is_an_error_and_no_end(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(NEW))
    fault = server.add(Fault("short answer", "GetObject", after=64 * 1024, left=1000))

    with pytest.raises(StoreTransient), store.open("one") as body:
        body.read()

    assert fault.hits <= 20


def test_body_that_stalls_is_read_on(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(NEW))
    fault = server.add(Fault("slow answer", "GetObject", after=MIB, seconds=3))

    assert _read(server.store(prefix=PREFIX, read_timeout=timedelta(seconds=0.5)), "one") == NEW
    assert fault.hits == 1
    assert len(server.requests("GetObject")) >= 2, "nobody waited for the rest of the first"


def test_body_that_breaks_off_often_but_gets_on_is_read_to_its_end(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(NEW))
    fault = server.add(Fault("short answer", "GetObject", after=MIB + 1, left=1000))

    assert _read(store, "one") == NEW
    assert fault.hits > 10


@pytest.mark.parametrize("sized", [False, True], ids=["to the end", "exactly its size"])
def test_damaged_body_is_the_networks_fault_once_and_the_objects_the_next_time(
    server: OssServer, store: OssStore, sized: bool
) -> None:
    """Also for a reader that asks for just as many bytes as there are, and never for the end."""
    store.put("one", io.BytesIO(NEW))
    server.add(Fault("damaged answer", "GetObject", left=2))

    def read() -> bytes:
        with store.open("one") as body:
            return body.read(BIG) if sized else body.read()

    with pytest.raises(StoreTransient, match="do not fit the checksum"):
        read()
    with pytest.raises(StoreError, match="again") as raised:
        read()
    assert not isinstance(raised.value, StoreTransient)
    assert read() == NEW


def test_damage_that_a_resumed_body_hides_is_found_at_its_end(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(NEW))
    server.add(Fault("reset answer", "GetObject", after=5 * MIB))
    server.add(Fault("damaged answer", "GetObject", left=2))

    with pytest.raises(StoreTransient, match="do not fit the checksum"):
        _read(store, "one")


def test_object_replaced_while_its_body_broke_off_is_an_error(server: OssServer, store: OssStore) -> None:
    size = 24 * MIB
    store.put("one", io.BytesIO(b"o" * size))
    server.add(Fault("short answer", "GetObject", after=MIB))

    with store.open("one") as body:
        assert body.read(100) == b"o" * 100
        store.put("one", io.BytesIO(b"n" * size))
        with pytest.raises(StoreError, match="replaced while it was being read"):
            body.read()


def test_range_that_somebody_took_away_is_no_beginning(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("ignored range", "GetObject", left=3))

    with pytest.raises(StoreError, match="ignores where to start"), store.open("one", start=5) as body:
        body.read()
    with store.open("one", start=len(OLD)) as body:
        assert body.read() == b""


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, "bytes 5-2999/3000"), (206, "bytes 4-2999/3000"), (206, "bytes 5-2998/3000"), (206, "bytes */3000")],
)
def test_range_other_than_the_one_that_was_asked_for_is_no_beginning(
    server: OssServer, store: OssStore, status: int, said: str
) -> None:
    store.put("one", io.BytesIO(OLD))
    server.add(Fault("altered answer", "GetObject", status=status, headers={"content-range": said}))

    with pytest.raises(StoreError), store.open("one", start=5) as body:
        body.read()


# Listing


def test_listing_that_broke_off_within_its_xml_is_asked_for_again(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(b""))
    fault = server.add(Fault("damaged answer", "ListObjectsV2", left=2))

    assert [info.key for info in store.list("")] == ["one"]
    assert fault.hits == 2


def test_listing_that_somebody_else_wrote_is_an_error(server: OssServer, store: OssStore) -> None:
    server.server.last_page = xml_answer("html", [("body", "Please log in to this network.")])
    server.add(Fault("repeated page", "ListObjectsV2"))

    with pytest.raises(StoreError, match="a web page answers there"):
        [*store.list("")]


def test_listing_that_goes_on_without_getting_on_is_an_error(server: OssServer, store: OssStore) -> None:
    server.server.last_page = xml_answer("ListBucketResult", [("IsTruncated", "true"), ("NextContinuationToken", "")])
    server.add(Fault("repeated page", "ListObjectsV2", left=1000))

    with pytest.raises(StoreTransient, match="does not go on"):
        [*store.list("")]


def test_page_that_comes_twice_is_asked_for_again(server: OssServer) -> None:
    store = server.store(prefix=PREFIX, page_size=3)
    names = [f"{number:02}" for number in range(10)]
    for name in names:
        store.put(name, io.BytesIO(b""))
    pages = [*store.list("")]
    fault = server.add(Fault("repeated page", "ListObjectsV2"))
    server.server.last_page = None

    assert [info.key for info in pages] == names
    assert [info.key for info in store.list("")] == names
    assert fault.hits == 1


def test_listing_that_goes_round_in_circles_is_an_error(server: OssServer) -> None:
    store = server.store(prefix=PREFIX, page_size=3)
    for number in range(10):
        store.put(f"{number:02}", io.BytesIO(b""))
    server.server.last_page = None
    server.add(Fault("repeated page", "ListObjectsV2", left=1000))

    with pytest.raises(StoreTransient, match="came twice"):
        [*store.list("")]


# Leftovers, clocks, certificates, words


def test_writer_that_was_killed_leaves_no_object_and_a_second_run_succeeds(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(OLD))
    script = textwrap.dedent(f"""
        import sys
        from drtool.stores.oss import OssStore
        OssStore(
            {BUCKET!r}, endpoint={server.endpoint!r}, region={REGION!r}, prefix={PREFIX!r}, part_size=4 << 20,
            access_key_id="not-a-real-key-id", access_key_secret="not-a-real-secret",
        ).put("one", sys.stdin.buffer)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert writer.stdin
    writer.stdin.write(NEW)  # returns when all but a pipe's buffer was read: two parts are on their way
    writer.kill()
    writer.wait()
    writer.stdin.close()

    assert _stored(server, "one") == OLD
    store.put("one", forward_only([NEW]))
    assert _stored(server, "one") == NEW


def test_clock_that_is_off_is_an_error_with_advice(server: OssServer, store: OssStore) -> None:
    server.service.skew = timedelta(minutes=20)

    with pytest.raises(StoreAccessDenied, match="RequestTimeTooSkewed") as raised:
        store.put("one", forward_only([OLD]))

    assert "clock" in raised.value.hint
    assert len(server.requests()) == 1


def test_server_that_is_not_there_is_transient(server: OssServer) -> None:
    store = server.store(endpoint="http://127.0.0.1:1", backoff=Backoff(2, timedelta(0), timedelta(0)))

    with pytest.raises(StoreTransient, match=r"127\.0\.0\.1:1"):
        store.put("one", forward_only([OLD]))


def test_certificate_nobody_vouches_for_is_no_transient_error(oss_https: OssServer) -> None:
    stranger = oss_https.store(ca_bundle=None)

    with pytest.raises(StoreError, match="certificate is not trusted") as raised:
        stranger.stat("one")

    assert not isinstance(raised.value, StoreTransient)
    assert "ca_bundle" in raised.value.hint


def test_errors_name_the_place_and_never_a_secret(server: OssServer) -> None:
    """OSS repeats what was signed, and so the session token, to whoever signs it wrongly."""
    server.service.identities["STS.lent"] = Identity("the-right-secret", "obviously-fake-token")
    store = server.store(
        prefix="some/where",
        access_key_id="STS.lent",
        access_key_secret="obviously-fake-secret",
        security_token="obviously-fake-token",
    )

    for call in (lambda: store.stat("one"), lambda: store.put("one", io.BytesIO(OLD)), lambda: [*store.list("one")]):
        with pytest.raises(StoreAccessDenied) as raised:
            call()
        text = f"{raised.value} {raised.value.hint} {raised.value.__cause__}"
        assert "oss://backups/some/where/one" in text
        assert server.endpoint in text
        assert "(request " in text
        assert raised.value.__suppress_context__
        assert "obviously-fake" not in text
    del server.service.identities["STS.lent"]


def test_missing_object_in_the_middle_of_everything_stays_missing(server: OssServer, store: OssStore) -> None:
    server.add(Fault("lost answer", "HeadObject", left=2))

    with pytest.raises(ObjectMissing):
        store.stat("one")
