"""The settings of an OSS store that change what goes over the wire, and what only OSS has."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, get_args

import pytest
from oss2.models import (
    AbortMultipartUpload,
    BucketLifecycle,
    BucketVersioningConfig,
    LifecycleExpiration,
    LifecycleRule,
)

from drtool.errors import StoreAccessDenied, StoreError
from drtool.stores.conformance import CHECKS, Check, NotApplicable, Subject, forward_only, noise
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.oss import OssStore, StorageClass
from drtool.stores.oss_answers import WormState
from tests.oss_server import BUCKET, CNAME, REGION, Fault, OssServer
from tests.oss_server.metadata import ROLE, metadata_service

MIB = 1 << 20
BY_NAME: dict[str, Check] = {check.__name__: check for check in CHECKS}


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest) -> Iterator[OssServer]:
    server: OssServer = request.getfixturevalue(f"oss_{request.param}")
    server.reset()
    yield server
    server.reset()


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
def test_store_on_a_versioned_bucket_still_replaces_nothing(server: OssServer, state: str) -> None:
    store = server.store(versioned=True)
    store.client.put_bucket_versioning(BucketVersioningConfig(state))
    subject = Subject(store)

    BY_NAME["only_if_absent_creates"](subject)
    BY_NAME["only_if_absent_replaces_nothing"](subject)
    with pytest.raises(NotApplicable):
        BY_NAME["only_if_absent_has_one_winner"](subject)
    assert store.versioning() == state.lower()
    assert all("x-oss-forbid-overwrite" not in seen.request.headers for seen in server.requests())


def test_bucket_says_that_versions_were_never_kept(server: OssServer) -> None:
    assert server.store().versioning() == "never"


@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["one put", "in parts"])
@pytest.mark.parametrize("storage_class", get_args(StorageClass))
def test_storage_class_reaches_the_object(server: OssServer, storage_class: StorageClass, size: int) -> None:
    server.store(storage_class=storage_class).put("one", forward_only(noise(size)))

    version = server.bucket.current("one")
    assert version
    assert version.storage_class == storage_class


def test_bucket_decides_the_class_where_nothing_is_said(server: OssServer) -> None:
    server.bucket.storage_class = "IA"
    server.store().put("one", io.BytesIO(b""))

    version = server.bucket.current("one")
    assert version
    assert version.storage_class == "IA"


def test_frozen_object_is_thawed_once_and_read_when_it_is_ready(server: OssServer) -> None:
    store = server.store(storage_class="ColdArchive")
    store.put("one", io.BytesIO(b"cold"))

    with pytest.raises(StoreError, match="frozen in ColdArchive") as raised, store.open("one") as body:
        body.read()
    assert "one to five hours" in raised.value.hint
    assert [store.thaw("one") for _ in range(3)] == ["thawing"] * 3
    assert len(server.requests("RestoreObject")) == 1
    with pytest.raises(StoreError, match="is being thawed"), store.open("one") as body:
        body.read()
    server.service.clock.move(timedelta(hours=6))
    assert store.thaw("one") == "readable"
    with store.open("one", start=1) as body:
        assert body.read() == b"old"
    assert len(server.requests("RestoreObject")) == 1


def test_thaw_whose_answer_was_lost_is_under_way(server: OssServer) -> None:
    store = server.store(storage_class="Archive")
    store.put("one", io.BytesIO(b"cold"))
    fault = server.add(Fault("lost answer", "RestoreObject"))

    assert store.thaw("one", days=3) == "thawing"
    assert fault.hits == 1


def test_object_that_was_never_frozen_is_readable(server: OssServer) -> None:
    store = server.store()
    store.put("one", io.BytesIO(b"warm"))

    assert store.thaw("one") == "readable"
    assert server.requests("RestoreObject") == []


def test_retention_policy_is_a_capability_only_once_it_is_locked(server: OssServer) -> None:
    store = server.store(worm=True)
    assert store.worm_state() == WormState("none")
    assert store.capabilities.lock == "none"

    worm_id = store.client.init_bucket_worm(30).worm_id
    in_progress = store.worm_state()
    assert (in_progress.state, in_progress.retention) == ("in progress", timedelta(days=30))
    assert server.bucket.retention
    assert in_progress.lapses_at == server.bucket.retention.created_at + timedelta(days=1)
    assert server.store(worm=True).capabilities.lock == "none"

    store.client.complete_bucket_worm(worm_id)
    assert store.worm_state() == WormState("locked", timedelta(days=30))
    assert server.store(worm=True).capabilities.lock == "bucket"
    assert server.store().capabilities.lock == "none", "nobody declared it"


def test_retention_policy_that_lapsed_is_none(server: OssServer) -> None:
    store = server.store(worm=True)
    store.client.init_bucket_worm(30)
    server.service.clock.move(timedelta(hours=25))

    assert store.worm_state() == WormState("none")
    assert store.capabilities.lock == "none"


@pytest.mark.parametrize("keys", [["one"], ["one", "two"]])
def test_retained_objects_are_not_said_to_be_deleted(server: OssServer, keys: list[str]) -> None:
    store = server.store()
    for key in keys:
        store.put(key, io.BytesIO(b"kept"))
    store.client.complete_bucket_worm(store.client.init_bucket_worm(1).worm_id)

    with pytest.raises(StoreAccessDenied, match="FileImmutable") as raised:
        store.delete(keys)
    assert "retention policy" in raised.value.hint
    server.service.clock.move(timedelta(days=1, seconds=1))
    store.delete(keys)
    assert [*store.list("")] == []


def test_more_keys_than_one_call_takes_are_deleted_in_several(server: OssServer) -> None:
    store = server.store()
    store.delete([f"{number}" for number in range(2001)])

    assert len(server.requests("DeleteMultipleObjects")) == 3


def test_lifecycle_tells_what_the_bucket_does_to_ours(server: OssServer) -> None:
    store = server.store(prefix="gitlab")
    assert store.lifecycle() == LifecycleEffects()
    rules = [
        LifecycleRule("tidy", "gitlab/", abort_multipart_upload=AbortMultipartUpload(days=7)),
        LifecycleRule("old", "gitlab/sets/", expiration=LifecycleExpiration(days=30)),
    ]
    store.client.put_bucket_lifecycle(BucketLifecycle(rules))

    assert store.lifecycle() == LifecycleEffects(aborts_uploads=True, deletes=("old",))


def test_connections_are_kept_and_used_again(server: OssServer) -> None:
    """As many as there are senders, and the one that reads, completes and looks."""
    store = server.store(concurrency=8, part_size=MIB)
    for lap in range(3):
        store.put(f"{lap}", forward_only(noise(12 * MIB)))
        with store.open(f"{lap}") as body:
            assert len(body.read()) == 12 * MIB

    assert server.server.connections <= 9


def test_object_without_bytes_has_a_length_of_nothing(server: OssServer) -> None:
    server.store().put("one", io.BytesIO(b""))

    (put,) = server.requests("PutObject")
    assert put.request.headers["content-length"] == "0"
    assert "transfer-encoding" not in put.request.headers


@pytest.mark.parametrize(
    ("endpoint", "cname"), [(f"oss-{REGION}-internal.aliyuncs.com", False), (CNAME, True)], ids=["internal", "cname"]
)
def test_bucket_in_the_host_name_keeps_the_contract(
    oss_http: OssServer, monkeypatch: pytest.MonkeyPatch, endpoint: str, cname: bool
) -> None:
    """The name's address is loopback here; everything behind the resolver is real."""
    oss_http.reset()
    resolve = socket.getaddrinfo
    asked: list[Any] = []

    def to_loopback(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    store = oss_http.store(endpoint=f"http://{endpoint}:{oss_http.port}", cname=cname)

    BY_NAME["a_big_object_comes_back"](Subject(store))
    BY_NAME["list_goes_on_over_pages"](Subject(store))
    assert {*asked} == {endpoint if cname else f"{BUCKET}.{endpoint}"}


def test_role_of_the_machine_is_enough_to_put_and_read(oss_http: OssServer) -> None:
    oss_http.reset()
    with metadata_service(oss_http.service) as metadata:
        store = oss_http.store(
            access_key_id=None, access_key_secret=None, ram_role=ROLE, metadata_url=metadata.url, concurrency=8
        )
        with ThreadPoolExecutor(4) as threads:
            infos = [*threads.map(lambda n: store.put(f"{n}", forward_only(noise(9 * MIB))), range(4))]

        assert [info.size for info in infos] == [9 * MIB] * 4
        assert len(metadata.asked) == 2
        BY_NAME["a_signed_url_reads_the_object"](Subject(store))


def test_metadata_service_in_trouble_is_asked_again(oss_http: OssServer) -> None:
    oss_http.reset()
    with metadata_service(oss_http.service) as metadata:
        metadata.fails = 503
        store: OssStore = oss_http.store(
            access_key_id=None, access_key_secret=None, ram_role=ROLE, metadata_url=metadata.url
        )
        with pytest.raises(StoreError, match="answers 503"):
            store.put("one", io.BytesIO(b""))
        assert len(metadata.asked) > 1
        metadata.fails = 0
        assert store.put("one", io.BytesIO(b"")).size == 0
