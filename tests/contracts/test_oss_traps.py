"""What OSS and oss2 do that nobody expects: each seen to be harmless here and, where that can be shown, to be real."""

from __future__ import annotations

import io
import logging
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import oss2
import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed, ObjectExists, StoreError, StoreTransient
from drtool.hosts.local import LocalRunner
from drtool.stores.conformance import forward_only, noise
from drtool.stores.oss import OssStore
from drtool.stores.oss_transfer import CRC
from tests.oss_server import ACCESS_KEY_ID, ACCESS_KEY_SECRET, BUCKET, REGION, Fault, Identity, OssServer

MIB = 1 << 20
BIG = 9 * MIB  # three parts of at most 4 MiB
TOKEN = "obviously-fake-token"


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OssServer]:
    server: OssServer = request.getfixturevalue(f"oss_{request.param}")
    server.reset()
    # For oss2 as it is: these names, where a machine sets them, win over the bundle of its session.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.reset()


@pytest.fixture
def store(server: OssServer) -> OssStore:
    return server.store()


def _oss2_as_it_is(server: OssServer) -> Any:
    session = oss2.Session()
    if server.ca_bundle:
        session.session.verify = str(server.ca_bundle)
    auth = oss2.make_auth(ACCESS_KEY_ID, ACCESS_KEY_SECRET, oss2.AUTH_VERSION_4)
    return oss2.Bucket(auth, server.endpoint, BUCKET, region=REGION, session=session)


def _read(store: OssStore, start: int = 0) -> bytes:
    with store.open("one", start=start) as body:
        return body.read()


def test_range_that_leaves_the_object_never_gives_the_whole_object(server: OssServer, store: OssStore) -> None:
    """OSS answers such a range with 200 and everything, unless it is asked to behave by the standard."""
    content = bytes(range(250)) * 4
    store.put("one", io.BytesIO(content))
    assert len(_oss2_as_it_is(server).get_object("one", byte_range=(1000, 2000)).read()) == 1000

    assert [_read(store, start) for start in (999, 1000, 1001, 5000)] == [content[999:], b"", b"", b""]
    ranged = [seen.request.headers for seen in server.requests("GetObject") if "range" in seen.request.headers][1:]
    assert {headers.get("x-oss-range-behavior") for headers in ranged} == {"standard"}


@pytest.mark.parametrize("size", [10, BIG])
def test_producer_that_dies_completes_nothing(server: OssServer, store: OssStore, size: int) -> None:
    """To most uploaders the end of a dead producer's output is the end of the data."""
    store.put("one", io.BytesIO(b"old"))
    dying = Command(("sh", "-c", f"head -c {size} /dev/zero; exit 3"))

    with pytest.raises(CommandFailed), LocalRunner().read_from(dying) as output:
        store.put("one", output)

    assert _read(store) == b"old"
    assert server.bucket.uploads == {}


def test_checksums_are_never_computed_by_oss2(
    server: OssServer, store: OssStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own are pure Python wherever no compiler was: 5 MB/s, and minutes for the parts of a large object."""

    def unwanted(*arguments: Any, **options: Any) -> None:
        raise AssertionError("oss2 computes a checksum")

    monkeypatch.setattr(oss2.utils.Crc64, "update", unwanted)
    monkeypatch.setattr(oss2.utils.Crc64, "combine", unwanted)
    with pytest.raises(AssertionError):
        _oss2_as_it_is(server).put_object("one", b"x")

    store.put("one", forward_only(noise(BIG)))
    assert len(_read(store)) == BIG
    version = server.bucket.current("one")
    assert version
    assert version.crc == CRC.calc(b"".join(noise(BIG)))


def test_checksum_is_the_one_that_oss_means() -> None:
    assert CRC.calc(b"123456789") == 0x995DC9BBDF1939FA
    assert CRC.calc(b"56789", CRC.calc(b"1234")) == 0x995DC9BBDF1939FA
    assert CRC.calc(b"") == 0


def test_one_busy_answer_does_not_fail_what_oss2_would_not_retry(server: OssServer, store: OssStore) -> None:
    server.add(Fault("status", "PutObject"))
    with pytest.raises(oss2.exceptions.ServerError, match="ServiceUnavailable"):
        _oss2_as_it_is(server).put_object("one", b"x")
    server.add(Fault("status", "PutObject"))

    store.put("one", io.BytesIO(b"x"))

    assert _read(store) == b"x"


def test_wrong_bytes_are_noticed_where_oss2_reads_on(server: OssServer, store: OssStore) -> None:
    store.put("one", io.BytesIO(b"good"))
    server.add(Fault("damaged answer", "GetObject", left=2))
    assert _oss2_as_it_is(server).get_object("one").read() == b"gooe"

    with pytest.raises(StoreTransient, match="do not fit the checksum"):
        _read(store)
    assert _read(store) == b"good"


def test_netrc_does_not_take_the_place_of_the_signature(
    server: OssServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password not-a-real-password\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    with pytest.raises(oss2.exceptions.ServerError, match="Unsupported authorization"):
        _oss2_as_it_is(server).put_object("one", b"x")

    store = server.store()
    store.put("one", io.BytesIO(b"x"))

    assert _read(store) == b"x"
    assert all(seen.request.headers["authorization"].startswith("OSS4-HMAC-SHA256 ") for seen in server.requests()[1:])


def test_bundle_of_the_settings_wins_over_that_of_the_environment(
    server: OssServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").write_bytes(b"")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "empty.pem"))

    assert server.store().put("one", io.BytesIO(b"x")).size == 1


def test_proxy_of_the_environment_does_not_see_a_request(server: OssServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert server.store().put("one", io.BytesIO(b"x")).size == 1


def test_logging_everything_shows_no_token(server: OssServer, caplog: pytest.LogCaptureFixture) -> None:
    """oss2 logs headers at DEBUG, and at INFO an error in which OSS repeats what was signed."""
    server.service.identities["STS.lent"] = Identity("obviously-fake-secret", TOKEN)
    keys = {"access_key_id": "STS.lent", "access_key_secret": "obviously-fake-secret", "security_token": TOKEN}
    store, stranger = server.store(**keys), server.store(**keys | {"access_key_secret": "obviously-fake-too"})

    with caplog.at_level(logging.DEBUG):
        store.put("one", forward_only(noise(BIG)))
        assert len(_read(store)) == BIG
        store.signed_url("one", ttl=timedelta(minutes=1))
        with pytest.raises(StoreError):
            stranger.stat("one")
        with pytest.raises(StoreError):
            stranger.put("one", io.BytesIO(b"x"))

    assert all(seen.request.headers["x-oss-security-token"] == TOKEN for seen in server.requests())
    assert "obviously-fake" not in caplog.text
    for name in ("oss2", "oss2.auth", "oss2.http", "oss2.api", "urllib3.connectionpool"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    del server.service.identities["STS.lent"]


@pytest.mark.parametrize("size", [0, 1000, BIG])
def test_output_of_a_process_is_stored_although_a_pipe_cannot_seek(store: OssStore, size: int) -> None:
    """oss2 takes anything that has ``seek`` for a file, and dies with ESPIPE of a pipe."""
    with subprocess.Popen(("head", "-c", str(size), "/dev/zero"), stdout=subprocess.PIPE) as process:
        assert process.stdout
        info = store.put("one", cast(BinaryIO, process.stdout))

    assert info.size == size
    assert _read(store) == bytes(size)


def test_account_that_may_not_use_public_endpoints_is_told_what_to_use(server: OssServer, store: OssStore) -> None:
    server.add(Fault("status", left=1000, status=400, code="PublicEndpointForbidden", ec="0048-00000401"))

    calls: list[Callable[[], object]] = [
        lambda: store.put("one", io.BytesIO(b"x")),
        lambda: store.stat("one"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="PublicEndpointForbidden") as raised:
            call()
        assert "internal endpoint" in raised.value.hint
        assert "cname" in raised.value.hint
    assert len(server.requests()) == 2, "and not asked again"


@pytest.mark.parametrize("size", [10, BIG])
def test_do_not_overwrite_is_said_with_the_call_that_makes_the_object(
    server: OssServer, store: OssStore, size: int
) -> None:
    """oss2's own upload in parts says it at the beginning only, when nothing is there yet."""

    def overtaken() -> Iterator[bytes]:
        yield from noise(size)
        server.store().put("one", io.BytesIO(b"faster"))

    with pytest.raises(ObjectExists):
        store.put("one", forward_only(overtaken()), only_if_absent=True)

    assert _read(store) == b"faster"
    last = server.requests("PutObject" if size == 10 else "CompleteMultipartUpload")[-1]
    assert last.request.headers["x-oss-forbid-overwrite"] == "true"


def test_versioned_bucket_is_not_said_to_refuse_an_overwrite(server: OssServer) -> None:
    """There the header is ignored: the store says so, and looks first."""
    server.bucket.versioning = "Enabled"
    store = server.store(versioned=True)
    store.put("one", io.BytesIO(b"first"))

    assert not store.capabilities.conditional_put
    with pytest.raises(ObjectExists):
        store.put("one", io.BytesIO(b"second"), only_if_absent=True)
    assert _read(store) == b"first"
