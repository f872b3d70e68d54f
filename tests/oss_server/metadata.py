"""The metadata service of an ECS instance, as far as it lends the keys of a RAM role: both of its versions."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.oss_server.service import Service
from tests.oss_server.signing import Identity

ROLE = "backup-writer"
_PATH = f"/latest/meta-data/ram/security-credentials/{ROLE}"
_TOKEN = "token-of-the-metadata-service"


@dataclass(slots=True)
class Metadata:
    """``speaks``: both versions, "v1" alone (old images), or "v2" alone (hardened). ``fails``: status of every answer.

    Each time keys are asked for there are new ones, known to ``service`` from then on; the old ones stay valid.
    """

    service: Service
    speaks: Literal["both", "v1", "v2"] = "both"
    lifetime: timedelta = timedelta(hours=6)
    fails: int = 0
    code: str = "Success"
    garbage: bytes = b""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lend(self) -> dict[str, str]:
        with self.lock:
            number = len([path for path in self.asked if path == _PATH])
            expires_at = (datetime.now(UTC) + self.lifetime).replace(microsecond=0)
            identity = Identity(f"lent-secret-{number}", f"lent-token-{number}", expires_at)
            self.service.identities[f"STS.{number}"] = identity
        return {
            "Code": self.code,
            "AccessKeyId": f"STS.{number}",
            "AccessKeySecret": identity.secret,
            "SecurityToken": identity.token or "",
            "Expiration": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


@contextlib.contextmanager
def metadata_service(service: Service) -> Iterator[Metadata]:
    """Run one on a free port of 127.0.0.1 until the block is left."""
    metadata = Metadata(service)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            return

        def do_GET(self) -> None:
            metadata.asked.append(self.path)
            with_token = self.headers.get("X-aliyun-ecs-metadata-token") == _TOKEN
            if metadata.fails:
                self._answer(metadata.fails, b"")
            elif metadata.speaks == "v2" and not with_token:
                self._answer(403, b"")
            elif self.path != _PATH:
                self._answer(404, b"")
            else:
                self._answer(200, metadata.garbage or json.dumps(metadata.lend()).encode())

        def do_PUT(self) -> None:
            metadata.asked.append(self.path)
            if metadata.fails:
                self._answer(metadata.fails, b"")
            elif metadata.speaks == "v1" or self.path != "/latest/api/token":
                self._answer(404, b"")
            elif "X-aliyun-ecs-metadata-token-ttl-seconds" not in self.headers:
                self._answer(400, b"")
            else:
                self._answer(200, _TOKEN.encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    metadata.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield metadata
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
