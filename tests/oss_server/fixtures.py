"""One server over http and one over https for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oss_server import OssServer, oss_server


@pytest.fixture(scope="session")
def oss_http() -> Iterator[OssServer]:
    with oss_server() as server:
        yield server


@pytest.fixture(scope="session")
def oss_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OssServer]:
    with oss_server(tmp_path_factory.mktemp("oss-tls")) as server:
        yield server
