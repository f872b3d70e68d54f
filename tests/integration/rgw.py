"""Ceph RGW in a container: the other S3 server of the tests, and what DigitalOcean Spaces is made of.

18.2 disagrees with AWS in what matters to us: it completes an upload in parts although its condition does not hold,
keeps no checksums, answers 500 to the completion of an aborted upload, and an object lock asked for an upload in parts
loses to the bucket's default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from drtool.stores.retry import Backoff
from tests.integration.engine import Engine
from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, START_SECONDS, S3Server, make_authority

_HTTP, _HTTPS = 8000, 8443


@dataclass(frozen=True, slots=True)
class Rgw:
    """One server with one bucket, by both schemes, and its container; see ``join``."""

    http: S3Server
    https: S3Server
    container: Any

    def join(self, network: Any) -> str:
        """Join a network of hosts; return the endpoint there. May be called twice."""
        network.reload()
        if self.container.id not in {one.id for one in network.containers}:
            network.connect(self.container, aliases=["rgw"])
        return f"http://rgw:{_HTTP}"


@pytest.fixture(scope="session")
def rgw(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rgw]:
    folder = tmp_path_factory.mktemp("rgw")
    authority = make_authority(folder)
    container = engine.container("rgw", _HTTP, _HTTPS)
    container.with_env("ACCESS_KEY_ID", ACCESS_KEY_ID).with_env("SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    container.with_volume_mapping(folder, "/tls", "ro")
    with container:
        http, https = container.get_exposed_port(_HTTP), container.get_exposed_port(_HTTPS)
        server = S3Server(f"http://127.0.0.1:{http}", http, None, conditional_put=False)
        _make_bucket(server, container)
        secure = replace(server, endpoint=f"https://127.0.0.1:{https}", port=https, ca_bundle=authority.bundle)
        yield Rgw(server, secure, container.get_wrapped_container())


@pytest.fixture(scope="session")
def rgw_http(rgw: Rgw) -> S3Server:
    return rgw.http


@pytest.fixture(scope="session")
def rgw_https(rgw: Rgw) -> S3Server:
    return rgw.https


def _make_bucket(server: S3Server, container: Any) -> None:
    client = server.store(backoff=Backoff(attempts=1)).client
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError) as error:
            container.reload()
            if container.status != "running" or time.monotonic() > deadline:
                said = b"".join(container.get_logs()).decode(errors="replace")
                raise RuntimeError(f"RGW did not start: {said[-3000:]}") from error
        time.sleep(0.1)
