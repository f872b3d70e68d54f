"""A network that is slow and works: a backup through it takes long, and ends well."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from drtool.stores.conformance import forward_only
from tests.oss_server import OssServer
from tests.proxy import Fault, Proxy, proxy_to

if TYPE_CHECKING:
    from tests.servers import S3Server

MIB = 1 << 20
WHOLE = bytes(range(256)) * (11 * MIB // 256)
SHORT = timedelta(seconds=0.5)
SECONDS = 2.5  # several times as long as the timeouts above


@pytest.fixture
def s3_proxy(s3_http: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3_http.port) as proxy:
        yield proxy


@pytest.fixture
def oss_proxy(oss_http: OssServer) -> Iterator[Proxy]:
    oss_http.reset()
    with proxy_to(oss_http.port) as proxy:
        yield proxy
    oss_http.reset()


@pytest.mark.engine("seaweedfs")
@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_part_that_takes_longer_than_every_timeout_is_sent_once_to_s3(
    s3_http: S3Server, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, checksums: str
) -> None:
    """A timeout is for a network that stands still, not for one that is slow: what counts is that bytes move."""
    monkeypatch.setattr("drtool.stores.s3._CONNECT_TIMEOUT", SHORT)
    content = WHOLE[: 5 * MIB]
    store = s3_http.store(prefix="uplink", endpoint=s3_proxy.url, checksums=checksums)  # type: ignore[arg-type]  # a parameter of the test
    fault = s3_proxy.add(Fault("slow request", call="PutObject", seconds=SECONDS))

    store.put("one", forward_only([content]))

    assert (fault.hits, s3_proxy.taken["PutObject"]) == (1, len(content))
    with s3_http.store(prefix="uplink").open("one") as body:
        assert body.read() == content


@pytest.mark.parametrize("part_size", [16 * MIB, 10 * MIB], ids=["whole", "in parts"])
def test_part_that_takes_longer_than_every_timeout_is_sent_once_to_oss(
    oss_http: OssServer, oss_proxy: Proxy, part_size: int
) -> None:
    call = "PutObject" if part_size > len(WHOLE) else "UploadPart"
    store = oss_http.store(endpoint=oss_proxy.url, connect_timeout=SHORT, part_size=part_size)
    fault = oss_proxy.add(Fault("slow request", call=call, seconds=SECONDS))

    store.put("one", forward_only([WHOLE]))

    assert (fault.hits, oss_proxy.taken[call]) == (1, len(WHOLE))
    assert oss_http.bucket.versions["one"][-1].content == WHOLE
