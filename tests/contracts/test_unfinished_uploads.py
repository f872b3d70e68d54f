"""What killed runs leave in a bucket is removed by the next run, and nothing that may still be alive."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from drtool.catalog import Catalog
from drtool.copy import copy
from drtool.errors import StoreAccessDenied, StoreError
from drtool.events import ignore
from drtool.stores import LeavesUploads
from drtool.stores.memory import MemoryStore
from drtool.stores.oss import OssStore
from drtool.stores.s3 import S3Store
from tests import sets
from tests.oss_server import OssServer
from tests.toyhost import INSTANCE, Bench, make_bench

if TYPE_CHECKING:
    from tests.servers import S3Server

LONG = timedelta(hours=7)


class Bucket(Protocol):
    @property
    def store(self) -> S3Store | OssStore: ...

    def begin(self, name: str, parts: int = 1) -> None:
        """Leave an upload under this name in the bucket."""
        ...

    def unfinished(self) -> list[str]: ...

    def wait(self, duration: timedelta) -> None: ...


class S3Bucket:
    def __init__(self, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self._monkeypatch = store, monkeypatch

    def begin(self, name: str, parts: int = 1) -> None:
        address: Any = {"Bucket": self.store.bucket, "Key": name}
        upload = self.store.client.create_multipart_upload(**address)
        for number in range(1, parts + 1):
            self.store.client.upload_part(**address, UploadId=upload["UploadId"], PartNumber=number, Body=b"x")

    def unfinished(self) -> list[str]:
        page = self.store.client.list_multipart_uploads(Bucket=self.store.bucket, Prefix=self.store.prefix)
        return sorted(upload["Key"] for upload in page.get("Uploads", []))

    def wait(self, duration: timedelta) -> None:
        """The server's clock cannot be moved; what is short of it can."""
        self._monkeypatch.setattr("drtool.stores.s3_put.UPLOADS_DIE_AFTER", timedelta(hours=6) - duration)


class OssBucket:
    def __init__(self, server: OssServer) -> None:
        self.store, self._server = server.store(prefix="uploads"), server

    def begin(self, name: str, parts: int = 1) -> None:
        upload = self.store.client.init_multipart_upload(name)
        for number in range(1, parts + 1):
            self.store.client.upload_part(name, upload.upload_id, number, b"x")

    def unfinished(self) -> list[str]:
        return sorted(upload.key for upload in self._server.bucket.uploads.values())

    def wait(self, duration: timedelta) -> None:
        self._server.service.clock.move(duration)


@pytest.fixture
def oss(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.engine("seaweedfs")), "oss"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    if request.param == "oss":
        yield OssBucket(request.getfixturevalue("oss"))
        return
    server: S3Server = request.getfixturevalue("s3_http")
    store = server.store(prefix="uploads")
    yield S3Bucket(store, request.getfixturevalue("monkeypatch"))
    for upload in store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", []):
        store.client.abort_multipart_upload(Bucket=store.bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def nobody(key: str) -> bool:
    return False


def test_upload_that_is_idle_for_long_is_removed_wherever_it_lies_below(bucket: Bucket) -> None:
    names = ["uploads/toy/sets/a/one", "uploads/toy/sets/b/two", "uploads/toy/three"]
    for name in names:
        bucket.begin(name)

    assert bucket.store.remove_unfinished("toy/", is_dead=nobody) == ()
    assert bucket.unfinished() == sorted(names), "a young upload may be alive"

    bucket.wait(LONG)
    assert sorted(bucket.store.remove_unfinished("toy/", is_dead=nobody)) == sorted(
        name.removeprefix("uploads/") for name in names
    )
    assert bucket.unfinished() == []


def test_upload_of_a_writer_that_is_known_to_be_dead_goes_at_once(bucket: Bucket) -> None:
    for name in ("uploads/toy/sets/a/one", "uploads/toy/sets/a2/one"):
        bucket.begin(name)

    removed = bucket.store.remove_unfinished("toy/", is_dead=lambda key: key.startswith("toy/sets/a/"))

    assert removed == ("toy/sets/a/one",)
    assert bucket.unfinished() == ["uploads/toy/sets/a2/one"]


def test_what_is_not_ours_stays_however_old_it_is(bucket: Bucket) -> None:
    theirs = ["uploads/other/one", "uploads/toyish", "uploads/toy/a name with spaces"]
    for name in theirs:
        bucket.begin(name)
    bucket.wait(LONG)

    assert bucket.store.remove_unfinished("toy/", is_dead=lambda key: True) == ()
    assert bucket.unfinished() == sorted(theirs)


def test_objects_stay_when_an_upload_under_their_name_is_removed(bucket: Bucket) -> None:
    bucket.store.put("toy/one", io.BytesIO(b"whole"))
    bucket.begin("uploads/toy/one")

    assert bucket.store.remove_unfinished("toy/", is_dead=lambda key: True) == ("toy/one",)
    with bucket.store.open("toy/one") as body:
        assert body.read() == b"whole"
    bucket.store.delete(["toy/one"])


def test_more_uploads_and_parts_than_one_page_holds_are_all_looked_at(oss: OssServer) -> None:
    """The newest part is on the second page: whoever looks at the first only takes a live upload for a dead one."""
    alive = OssBucket(oss)
    alive.begin("uploads/toy/alive", parts=1001)
    for number in range(1001):
        alive.begin(f"uploads/toy/{number:04d}", parts=0)
    (upload,) = [upload for upload in oss.bucket.uploads.values() if upload.key == "uploads/toy/alive"]
    alive.wait(LONG)
    upload.parts[1001].modified_at = oss.service.clock.now()

    assert len(alive.store.remove_unfinished("toy/", is_dead=nobody)) == 1001
    assert alive.unfinished() == ["uploads/toy/alive"]


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, oss: OssServer) -> Bench:
    """One whose first volume is sent in several parts."""
    bench = make_bench(tmp_path / "bench", oss.store(part_size=100 << 10))
    bench.volume_size = 1 << 20
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        noise = random.Random(1).randbytes(500_000)
        member = tarfile.TarInfo("upload")
        member.size = len(noise)
        tar.addfile(member, io.BytesIO(noise))
    (bench.host.root / "canned/uploads.tar.gz").write_bytes(gzip.compress(content.getvalue(), mtime=0))
    return bench


def is_cut_off(bench: Bench, server: OssServer) -> None:
    """Let a backup lose its line for good: nothing more is sent, and nothing tidied up."""
    server.service.denied |= {"UploadPart", "AbortMultipartUpload"}
    with pytest.raises(StoreAccessDenied):
        bench.back_up()
    server.service.denied.clear()
    assert server.bucket.uploads


def test_backup_that_was_cut_off_leaves_no_upload_once_it_is_run_again(bench: Bench, oss: OssServer) -> None:
    is_cut_off(bench, oss)

    outcome = bench.back_up()

    assert oss.bucket.uploads == {}
    assert outcome.continued
    assert bench.problems(outcome.manifest.set_id) == []


def test_uploads_of_a_set_that_was_given_up_are_removed_by_the_set_after_it(bench: Bench, oss: OssServer) -> None:
    is_cut_off(bench, oss)
    bench.clock.advance(timedelta(days=1))  # too long ago to be continued

    assert not bench.back_up().continued
    assert oss.bucket.uploads == {}


def test_young_uploads_of_another_host_are_left_to_it(bench: Bench, oss: OssServer) -> None:
    other = f"{INSTANCE}/sets/20260113T031500Z-ffff/application-0000.tar.age"
    oss.store().client.init_multipart_upload(other)

    bench.back_up()
    assert [upload.key for upload in oss.bucket.uploads.values()] == [other]

    oss.service.clock.move(LONG)
    bench.back_up()
    assert oss.bucket.uploads == {}


def test_backup_without_the_right_to_list_uploads_is_taken_all_the_same(bench: Bench, oss: OssServer) -> None:
    is_cut_off(bench, oss)
    oss.service.denied |= {"ListMultipartUploads"}

    assert bench.problems(bench.back_up().manifest.set_id) == []
    assert len(oss.bucket.uploads) == 1


def test_copy_removes_what_an_older_copy_left(oss: OssServer) -> None:
    committed = sets.commit(MemoryStore())
    target = Catalog(oss.store(), sets.INSTANCE)
    oss.store().client.init_multipart_upload(target.key(sets.SET_ID, "application-0000.tar.age"))
    oss.service.clock.move(LONG)

    copy(committed.open(), target, clock=sets.StillClock(), emit=ignore)

    assert oss.bucket.uploads == {}


def test_store_that_leaves_nothing_is_not_asked() -> None:
    store = MemoryStore()

    assert not isinstance(store, LeavesUploads)
    assert Catalog(store, INSTANCE).remove_unfinished() == ()


def test_missing_right_is_an_error_of_the_store(oss: OssServer) -> None:
    oss.service.denied |= {"ListMultipartUploads"}

    with pytest.raises(StoreError, match="AccessDenied"):
        oss.store().remove_unfinished("toy/", is_dead=nobody)
