"""Every store keeps the contract, and the checks of the contract notice a store that does not."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drtool.stores.conformance import CHECKS, Check, NotApplicable, Subject
from drtool.stores.faults import FaultyStore
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.oss_server import OssServer
    from tests.servers import S3Server


def _local(request: pytest.FixtureRequest) -> Subject:
    folder: Path = request.getfixturevalue("tmp_path")
    (folder / "store").mkdir()
    return Subject(LocalStore(folder / "store"), elsewhere=LocalStore(folder / "missing"))


def _memory(request: pytest.FixtureRequest) -> Subject:
    return Subject(MemoryStore())


def _faulty(request: pytest.FixtureRequest) -> Subject:
    return Subject(FaultyStore(MemoryStore()))


@functools.cache  # a boto3 client takes a quarter of a second to make
def _s3_subject(server: S3Server) -> Subject:
    return Subject(
        server.store(prefix="contract/here", page_size=7),
        elsewhere=server.store(bucket="missing"),
        stranger=server.store(prefix="contract/here", secret="not-the-secret"),
        ca_bundle=server.ca_bundle,
    )


def _s3_http(request: pytest.FixtureRequest) -> Subject:
    return _s3_subject(request.getfixturevalue("s3_http"))


def _s3_https(request: pytest.FixtureRequest) -> Subject:
    return _s3_subject(request.getfixturevalue("s3_https"))


@functools.cache
def _oss_subject(server: OssServer) -> Subject:
    return Subject(
        server.store(prefix="contract/here", page_size=7),
        elsewhere=server.store("missing"),
        stranger=server.store(prefix="contract/here", access_key_secret="not-the-secret"),
        ca_bundle=server.ca_bundle,
    )


def _oss_http(request: pytest.FixtureRequest) -> Subject:
    return _oss_subject(request.getfixturevalue("oss_http"))


def _oss_https(request: pytest.FixtureRequest) -> Subject:
    return _oss_subject(request.getfixturevalue("oss_https"))


SUBJECTS = {
    "local": _local,
    "memory": _memory,
    "faulty": _faulty,
    "s3-http": _s3_http,
    "s3-https": _s3_https,
    "oss-http": _oss_http,
    "oss-https": _oss_https,
}
#: A memory has neither a bucket that could be missing nor credentials; a directory has no credentials.
NOT_APPLICABLE = {
    ("local", "wrong_credentials_are_named"),
    ("memory", "a_missing_bucket_is_named"),
    ("memory", "wrong_credentials_are_named"),
    ("faulty", "a_missing_bucket_is_named"),
    ("faulty", "wrong_credentials_are_named"),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.engine("seaweedfs") if kind.startswith("s3") else ()) for kind in SUBJECTS],
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_store_keeps_the_contract(check: Check, kind: str, request: pytest.FixtureRequest) -> None:
    subject = SUBJECTS[kind](request)
    if (kind, check.__name__) in NOT_APPLICABLE:
        with pytest.raises(NotApplicable):
            check(subject)
    else:
        check(subject)
    assert [*subject.store.list(subject.prefix)] == []
