"""Answers that say yes and are not the store's, and bytes that changed on their way there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from drtool.errors import StoreTransient
from drtool.stores import Store
from drtool.stores.conformance import forward_only
from tests.oss_server import OssServer
from tests.proxy import Fault, Proxy, proxy_to

if TYPE_CHECKING:
    from tests.servers import S3Server

OLD = b"old" * 1000
WHOLE = bytes(range(256)) * 20
PARTS = bytes(range(256)) * (6 << 12)  # 6 MiB
KINDS = ["oss", *(pytest.param(kind, marks=pytest.mark.engine("seaweedfs")) for kind in ("s3", "spaces"))]
ERROR = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>too late</Message></Error>'
CASES = [("PutObject", WHOLE), ("UploadPart", PARTS), ("CompleteMultipartUpload", PARTS)]


@contextlib.contextmanager
def _store(kind: str, request: pytest.FixtureRequest) -> Iterator[tuple[Store, Proxy]]:
    """``spaces``: the settings for servers that know neither trailing checksums nor conditions."""
    if kind == "oss":
        oss: OssServer = request.getfixturevalue("oss_http")
        oss.reset()
        with proxy_to(oss.port) as proxy:
            yield oss.store(endpoint=proxy.url, part_size=5 << 20), proxy
        return
    s3: S3Server = request.getfixturevalue("s3_http")
    checksums: Literal["when_required", "when_supported"] = "when_required" if kind == "spaces" else "when_supported"
    with proxy_to(s3.port) as proxy:
        yield s3.store(prefix="lies", endpoint=proxy.url, checksums=checksums, conditional_put=kind == "s3"), proxy


def _read(store: Store) -> bytes:
    with store.open("one") as body:
        return body.read()


@pytest.mark.parametrize("said", [b"", ERROR], ids=["nothing", "an error"])
@pytest.mark.parametrize(("call", "content"), CASES, ids=[call for call, _ in CASES])
@pytest.mark.parametrize("kind", KINDS)
def test_yes_of_somebody_else_is_no_success(
    kind: str, call: str, content: bytes, said: bytes, request: pytest.FixtureRequest
) -> None:
    """A login page of a network answers 200 to everything; so does a service that noticed its error too late."""
    with _store(kind, request) as (store, proxy):
        store.put("one", forward_only([OLD]))
        proxy.add(Fault("status", call=call, status=200, body=said, left=1000))
        with pytest.raises(StoreTransient):
            store.put("one", forward_only([content]))
        proxy.clear()
        assert _read(store) == OLD

        proxy.add(Fault("status", call=call, status=200, body=said))
        store.put("one", forward_only([content]))
        assert _read(store) == content


@pytest.mark.parametrize(("call", "content"), CASES[:2], ids=[call for call, _ in CASES[:2]])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_changed_on_their_way_are_sent_again(
    kind: str, call: str, content: bytes, request: pytest.FixtureRequest
) -> None:
    with _store(kind, request) as (store, proxy):
        fault = proxy.add(Fault("damage request", after=len(WHOLE) // 2, call=call, left=2))
        store.put("one", forward_only([content]))
        assert fault.hits == 2
        assert _read(store) == content

        proxy.add(Fault("damage request", after=len(WHOLE) // 2, call=call, left=1000))
        with pytest.raises(StoreTransient):
            store.put("one", forward_only([content]))
        proxy.clear()
        assert _read(store) == content
