"""An honest local OSS: the native protocol from memory, refusing what OSS refuses, failing on command.

It is a double of a service that nobody can run at home. What it does is what Alibaba documents and what oss2 2.19.1
was seen to need; where both are silent the code says so. A test module that wants the fixtures says
``pytest_plugins = ("tests.oss_server.fixtures",)``.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.oss_server.service import Service
from tests.oss_server.serving import Fault, Seen, Server, serving
from tests.oss_server.signing import Identity
from tests.oss_server.state import Bucket, Clock

if TYPE_CHECKING:
    from drtool.stores.oss import OssStore

ACCESS_KEY_ID = "not-a-real-key-id"
ACCESS_KEY_SECRET = "not-a-real-secret"
REGION = "cn-hangzhou"
BUCKET = "backups"
CNAME = "backups.example.com"

__all__ = [
    "ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "BUCKET", "CNAME", "REGION", "Bucket", "Clock", "Fault", "Identity",
    "OssServer", "Seen", "Service", "oss_server",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class OssServer:
    """A running server with one empty bucket. ``ca_bundle`` is None over http."""

    server: Server
    ca_bundle: Path | None

    @property
    def service(self) -> Service:
        return self.server.service

    @property
    def bucket(self) -> Bucket:
        return self.service.buckets[BUCKET]

    @property
    def port(self) -> int:
        return self.server.server_port

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.ca_bundle else 'http'}://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> Fault:
        self.server.faults.append(fault)
        return fault

    def requests(self, call: str = "") -> list[Seen]:
        """Every request so far, or those of one call."""
        return [seen for seen in self.server.seen if call in ("", seen.call)]

    def reset(self) -> None:
        """Make it as it was at the start: an empty bucket, no faults, the right time."""
        self.server.faults.clear()
        self.server.seen.clear()
        self.server.last_page = None
        self.server.connections = 0
        self.service.buckets.clear()
        self.service.denied.clear()
        self.service.elsewhere.clear()
        self.service.clock.shift = self.service.skew = timedelta(0)
        self.service.buckets[BUCKET] = Bucket(BUCKET, self.service.clock.now())

    def store(self, bucket: str = BUCKET, **options: Any) -> OssStore:
        """A store on this server with small parts and no waiting between retries."""
        from drtool.stores.oss import OssStore
        from tests.servers import PROMPT

        settings: dict[str, Any] = {
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY_ID,
            "access_key_secret": ACCESS_KEY_SECRET,
            "ca_bundle": self.ca_bundle,
            "part_size": 4 << 20,
            "backoff": PROMPT,
            "read_timeout": timedelta(seconds=10),
        }
        return OssStore(bucket, **(settings | options))


@contextlib.contextmanager
def oss_server(folder: Path | None = None) -> Iterator[OssServer]:
    """Run a server on a free port of 127.0.0.1 until the block is left; over https if a folder for keys is given."""
    trust = bundle = None
    if folder:
        from tests.servers import make_authority

        authority = make_authority(folder)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(authority.certificate, authority.key)
        bundle = authority.bundle
    service = Service(REGION, {ACCESS_KEY_ID: Identity(ACCESS_KEY_SECRET)})
    server = Server(service, trust, cnames={CNAME: BUCKET})
    running = OssServer(server, bundle)
    running.reset()
    with serving(server):
        yield running
