"""Which bodies are signed, and what of a server's answer decides it. The client is real, its answers are not."""

from __future__ import annotations

import io
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from drtool.errors import StoreTransient
from drtool.stores.multipart import SMALLEST_PART
from drtool.stores.retry import Backoff
from drtool.stores.s3 import S3Store

CONTENT = bytes(range(256)) * (3 * SMALLEST_PART // 256)
SIGNATURE = "x-amz-content-sha256"
CHECKSUM = "x-amz-checksum-crc32"


class Raw(io.BytesIO):
    def stream(self, **_: object) -> list[bytes]:
        return [self.read()]


class Server:
    """Answers what boto3 asks, and keeps the headers of every part."""

    def __init__(self, store: S3Store, says: Callable[[str], str | None]) -> None:
        self.parts: list[dict[str, str]] = []
        self._says = says
        events: Any = store.client.meta.events
        events.register("before-send.s3", self._answer)

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        body, headers = b"", {"ETag": '"1"', "x-amz-meta-drtool-put": "other", "Last-Modified": _DATE}
        if request.method == "PUT":
            sent = {name.lower(): _text(value) for name, value in request.headers.items()}
            self.parts.append(sent)
            if said := self._says(sent.get(CHECKSUM, "")):
                headers[CHECKSUM] = said
        elif request.method == "POST":
            body = b"<A><UploadId>u</UploadId><ETag>1</ETag></A>"
        elif request.method == "HEAD":
            headers["Content-Length"] = str(len(CONTENT))
        answered: Any = headers
        return AWSResponse(request.url, 200, answered, Raw(body))


_DATE = "Tue, 13 Jan 2026 03:15:00 GMT"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def sent_parts(says: Callable[[str], str | None], *, scheme: str = "http", **settings: Any) -> list[dict[str, str]]:
    """Put three parts, one after the other, and return their headers."""
    store = S3Store(
        "bucket", endpoint=f"{scheme}://127.0.0.1:9", access_key_id="AKTEST", secret_access_key="not-a-secret",
        part_size=SMALLEST_PART, concurrency=1, backoff=Backoff(attempts=1), **settings,
    )  # fmt: skip
    server = Server(store, says)
    store.put("key", io.BytesIO(CONTENT))
    return server.parts


def echo(checksum: str) -> str:
    return checksum


def nothing(checksum: str) -> None:
    return None


def test_a_body_is_signed_until_the_server_names_its_checksum() -> None:
    signatures = [part[SIGNATURE] for part in sent_parts(echo)]
    assert len(signatures[0]) == 64
    assert signatures[1:] == ["UNSIGNED-PAYLOAD"] * 2


def test_a_body_stays_signed_where_no_checksum_is_named() -> None:
    assert [len(part[SIGNATURE]) for part in sent_parts(nothing)] == [64] * 3


def test_a_body_over_tls_is_not_signed_and_not_sent_in_chunks() -> None:
    for part in sent_parts(nothing, scheme="https"):
        assert part[SIGNATURE] == "UNSIGNED-PAYLOAD"
        assert "x-amz-trailer" not in part
        assert part["content-length"] == str(SMALLEST_PART)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_body_has_its_true_checksum(scheme: str) -> None:
    due = b64encode(zlib.crc32(CONTENT[:SMALLEST_PART]).to_bytes(4)).decode()
    assert {part[CHECKSUM] for part in sent_parts(echo, scheme=scheme)} == {due}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_where_checksums_are_not_known_a_body_has_a_digest_and_is_signed_without_tls(scheme: str) -> None:
    for part in sent_parts(echo, scheme=scheme, checksums="when_required"):
        assert (part[SIGNATURE] == "UNSIGNED-PAYLOAD") == (scheme == "https")
        assert CHECKSUM not in part
        assert part["content-md5"]


def test_an_answer_that_names_another_checksum_is_no_success() -> None:
    with pytest.raises(StoreTransient, match="another checksum"):
        sent_parts(lambda checksum: "AAAAAA==")
