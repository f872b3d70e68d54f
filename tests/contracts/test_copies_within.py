"""A copy between two buckets of one account is made by the service, and read back all the same."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from drtool.catalog import Catalog
from drtool.copy import Copied, copy
from drtool.errors import SetDamaged, StoreError
from drtool.events import ignore
from drtool.stores import CopiesWithin, Store
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.oss_server import ACCESS_KEY_SECRET, Identity, OssServer
from tests.oss_server.state import Bucket

if TYPE_CHECKING:
    from tests.servers import S3Server


@pytest.fixture
def oss(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    oss_http.service.buckets["second"] = Bucket("second", oss_http.service.clock.now())
    yield oss_http
    oss_http.reset()


@pytest.fixture
def source(oss: OssServer) -> sets.Committed:
    return sets.commit(oss.store(prefix="first"))


def make(committed: sets.Committed, target: Store) -> Copied:
    return copy(committed.open(), Catalog(target, sets.INSTANCE), clock=sets.StillClock(), emit=ignore)


def is_the_set(committed: sets.Committed, target: Store) -> None:
    assert {info.key: sets.content(target, info.key) for info in target.list("")} == {
        info.key: sets.content(committed.catalog.store, info.key) for info in committed.catalog.store.list("")
    }
    manifest = Catalog(target, sets.INSTANCE).read_manifest(sets.SET_ID, committed.keys.verifier)
    assert manifest == committed.manifest


def test_volumes_are_copied_by_the_service(oss: OssServer, source: sets.Committed) -> None:
    target = oss.store("second", storage_class="IA")
    oss.server.seen.clear()

    copied = make(source, target)

    assert (copied.sent, copied.bytes_sent, copied.by_store) == (0, 0, copied.volumes)
    assert len(oss.requests("CopyObject")) == copied.volumes
    assert {seen.request.key.rpartition("/")[2] for seen in oss.requests("PutObject")} == {
        "manifest.json", "manifest.json.sig"
    }  # fmt: skip
    there = [oss.service.buckets["second"].current(key) for key in source.object_keys]
    assert {version.storage_class for version in there if version} == {"IA"}
    is_the_set(source, target)


@pytest.mark.engine("seaweedfs")
def test_volumes_are_copied_by_an_s3_server(s3_http: S3Server) -> None:
    committed = sets.commit(s3_http.store(prefix="within-first"))
    target = s3_http.store(bucket="within")
    target.client.create_bucket(Bucket="within")

    copied = make(committed, target)

    assert (copied.sent, copied.by_store) == (0, copied.volumes)
    is_the_set(committed, target)


def test_refused_copy_is_sent_instead(oss: OssServer, source: sets.Committed) -> None:
    oss.service.denied.add("CopyObject")
    target = oss.store("second")

    copied = make(source, target)

    assert (copied.sent, copied.by_store) == (copied.volumes, 0)
    is_the_set(source, target)


def test_service_is_not_asked_across_accounts_endpoints_and_kinds(oss: OssServer, source: sets.Committed) -> None:
    oss.service.identities["not-a-real-second-id"] = Identity(ACCESS_KEY_SECRET)
    others = [
        oss.store("second", access_key_id="not-a-real-second-id"),
        oss.store("second", endpoint=oss.endpoint.replace("127.0.0.1", "localhost")),
    ]
    key = source.object_keys[0]

    assert [other.copy_from(source.catalog.store, key) for other in others] == [False, False]
    assert oss.store("second").copy_from(MemoryStore(), key) is False
    assert oss.requests("CopyObject") == []
    del oss.service.identities["not-a-real-second-id"]


def test_what_a_service_copies_wrongly_is_sent_after_all(oss: OssServer, source: sets.Committed) -> None:
    class Careless(MemoryStore):
        def copy_from(self, source: Store, key: str) -> bool:
            self.put(key, io.BytesIO(b"\0" * source.stat(key).size))
            return True

    target = Careless()
    assert isinstance(target, CopiesWithin)

    copied = make(source, target)

    assert (copied.sent, copied.by_store) == (copied.volumes, 0)
    is_the_set(source, target)


def test_damage_is_not_copied_by_the_service_either(oss: OssServer, source: sets.Committed) -> None:
    volume = source.manifest.volumes[1]
    key = source.catalog.key(sets.SET_ID, volume.name)
    good = sets.content(source.catalog.store, key)
    sets.replace(source.catalog.store, key, good[:-1] + bytes([good[-1] ^ 1]))
    target = oss.store("second")

    with pytest.raises(SetDamaged, match=volume.name):
        make(source, target)

    assert Catalog(target, sets.INSTANCE).set_ids() == []


def test_key_that_leaves_its_store_is_refused(oss: OssServer) -> None:
    with pytest.raises(StoreError, match="not a key"):
        oss.store("second").copy_from(oss.store(), "../elsewhere")
