"""What protects the bytes of a put on their way into S3: a checksum that the server compares, or the signature."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_HEADER = "x-amz-checksum-crc32"
_FIELD = "ChecksumCRC32"


class Payload:
    """Sends CRC-32 with every body, and signs the SHA-256 of a body only where that is needed.

    The digest costs 0.6 s of processor for a GiB, the checksum 0.02. Over https TLS protects the bytes. Over http they
    are signed until an answer names the checksum: not every server knows it (Ceph before 20, old MinIO), and not every
    server compares the digest (SeaweedFS). boto3's own CRC-32 goes behind the body over https, in chunks, which
    servers without it answer with 411.
    """

    def __init__(self, client: S3Client) -> None:
        config: Any = client.meta.config
        self._unsigned = config.merge(type(config)(s3={**(config.s3 or {}), "payload_signing_enabled": False}))
        self._compared = client.meta.endpoint_url.startswith("https:")
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-sign.s3.{operation}", self._leave_digest_out)

    def checksum(self, content: bytearray) -> dict[str, str]:
        """Name the checksum of a body as an argument for boto3, which then makes none."""
        return {_FIELD: base64.b64encode(isal_zlib.crc32(content).to_bytes(4)).decode()}

    def fits(self, sent: Mapping[str, Any], arguments: Mapping[str, str]) -> bool:
        """Say whether an answer names the checksum of ``arguments`` or none, and remember if it names it."""
        ours, theirs = arguments.get(_FIELD), sent.get(_FIELD)
        if ours and ours == theirs:
            self._compared = True
        return not ours or theirs in (None, ours)

    def _leave_digest_out(self, request: Any, **_: object) -> None:
        # Without this key, in some later boto3, the digest is signed: slower, never less safe.
        if self._compared and _HEADER in request.headers:
            request.context["client_config"] = self._unsigned
