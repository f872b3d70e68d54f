"""``check --deep``: an honest store passes, each broken promise is named, and nothing that is not ours is touched."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import pytest
from oss2.models import BucketLifecycle, LifecycleRule, StorageTransition

from drtool import capabilities
from drtool.app import load
from drtool.capabilities import Capability, Facts, Trial
from drtool.clock import SystemClock
from drtool.deep import Report, try_out
from drtool.errors import BucketMissing, ConfigError, StoreAccessDenied, StoreError
from drtool.events import ignore
from drtool.stores import ObjectInfo, Store
from drtool.stores.conformance import forward_only
from drtool.stores.memory import MemoryStore
from drtool.stores.s3 import S3Store
from drtool.stores.scratch import ScratchStore
from tests.oss_server import Fault
from tests.oss_server.state import Retention
from tests.playground import Playground, playground
from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from tests.oss_server import OssServer
    from tests.servers import S3Server

INSTANCE = '[[instance]]\nname = "gitlab"\nstore = "main"\n\n[store.main]\n'
THEIRS = ("gitlab/sets/one/manifest.json", "gitlab/drtool-check-of-somebody/probe", "other")
RACES = {"only_if_absent_refuses_what_came_meanwhile", "only_if_absent_has_one_winner"}
Kind = Literal["local", "s3-http", "s3-https", "spaces-http", "spaces-https", "oss-http", "oss-https"]
KINDS: list[Any] = [
    pytest.param(kind, marks=[] if kind in ("local", "oss-http", "oss-https") else pytest.mark.engine("seaweedfs"))
    for kind in ("local", "s3-http", "s3-https", "spaces-http", "spaces-https", "oss-http", "oss-https")
]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRTOOL_TEST_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("DRTOOL_TEST_SECRET", SECRET_ACCESS_KEY)
    monkeypatch.setenv("DRTOOL_TEST_WRONG", "not-the-secret")


@pytest.fixture
def oss(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


def settings(kind: str, request: pytest.FixtureRequest, **changes: str) -> str:
    """The settings of a store on the test's server of this kind, as the operator writes them."""
    if kind == "local":
        folder = request.getfixturevalue("tmp_path") / "store"
        folder.mkdir(exist_ok=True)
        table: dict[str, str] = {"kind": "local", "path": str(folder)}
    elif kind.startswith("oss"):
        server = request.getfixturevalue(kind.replace("-", "_"))
        table = {"kind": "oss", "bucket": BUCKET, "region": "cn-hangzhou", "endpoint": server.endpoint}
        table |= {"access_key_id": "env:DRTOOL_TEST_ID", "access_key_secret": "env:DRTOOL_TEST_SECRET"}
    else:
        name, _, scheme = kind.partition("-")
        server = request.getfixturevalue(f"s3_{scheme}")
        table = {
            "kind": name,
            "bucket": BUCKET,
            "region": "fra1",
            "endpoint": server.endpoint,
            "prefix": f"deep-{name}",
        }
        table |= {"access_key_id": "env:DRTOOL_TEST_ID", "secret_access_key": "env:DRTOOL_TEST_SECRET"}
    if kind.endswith("https"):
        table["ca_bundle"] = str(server.ca_bundle)
    plain = {"true", "false"}
    return "\n".join(
        f"{name} = {value if value in plain else repr(value)}" for name, value in (table | changes).items()
    )


def trial(folder: Path, text: str) -> Trial:
    path = folder / "drtool.toml"
    path.write_text(INSTANCE + text + "\n")
    return load(path, None, ignore).trial_of(None)


def of(store: Store, **options: Any) -> Trial:
    return Trial(store, "gitlab", SystemClock(), ignore, **options)


def row(report: Report, name: str) -> Capability:
    (found,) = [capability for capability in report.capabilities if capability.name == name]
    return found


def verdicts(report: Report) -> dict[str, str]:
    return {capability.name: capability.verdict for capability in report.capabilities}


def broken(report: Report) -> set[str]:
    return {contract.name for contract in report.contracts if contract.error}


def not_asked(report: Report) -> set[str]:
    return {contract.name for contract in report.contracts if contract.not_asked}


def declared_row(tried: Trial, name: str) -> Capability:
    """The row of something that the settings declare, without running the contracts."""
    scratch = ScratchStore(tried.store, "gitlab/drtool-check")
    scratch.put("gitlab/drtool-check/probe", io.BytesIO(b"probe"))
    (found,) = [found for found in capabilities.settings(tried, scratch) if found.name == name]
    return found


def names_of(tried: Trial) -> list[str]:
    scratch = ScratchStore(tried.store, "gitlab/drtool-check")
    scratch.put("gitlab/drtool-check/probe", io.BytesIO(b"probe"))
    return [found.name for found in capabilities.settings(tried, scratch)]


def keys_in(store: Store) -> set[str]:
    return {info.key for info in store.list("")}


# -- stores as they should be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0] != "s3-https"])  # that one comes next
def test_an_honest_store_passes_and_is_left_as_it_was(
    kind: Kind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tried = trial(tmp_path, settings(kind, request))
    if kind in ("s3-http", "spaces-http"):  # the next test and spaces-https move the megabytes
        tried = replace(tried, several_parts=0)
    for key in THEIRS:
        tried.store.put(key, io.BytesIO(b"theirs"))
    before = [*tried.store.list("")]

    report = try_out(tried)

    try:
        assert report.errors == ()
        assert report.left == ()
        assert [*tried.store.list("")] == before
    finally:
        tried.store.delete(THEIRS)
    notes = {"delete"} | ({"conditional put"} if kind.startswith("spaces") else set())  # SeaweedFS can, Spaces may not
    assert {name for name, verdict in verdicts(report).items() if verdict != "ok"} == notes
    assert not_asked(report) == (RACES if kind.startswith("spaces") else set())
    assert len(report.contracts) - len(not_asked(report)) >= 26
    assert row(report, "delete").seen == "allowed: this host could delete backups"
    assert row(report, "conditional put").declared == ("no" if kind.startswith("spaces") else "yes")
    assert row(report, "multipart").seen == (
        "as it should be" if tried.several_parts else "none: objects are written in one piece"
    )


@pytest.mark.engine("seaweedfs")
def test_several_parts_are_really_sent(s3_https: S3Server, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tried = trial(tmp_path, settings("s3-https", request))
    sent: list[str] = []
    assert isinstance(tried.store, S3Store)
    tried.store.client.meta.events.register("before-call.s3.UploadPart", lambda model, **_: sent.append(model.name))
    report = try_out(tried)
    assert (report.errors, report.left) == ((), ())
    assert row(report, "multipart").seen == "as it should be"
    assert sent == ["UploadPart"] * (2 + 3)


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        def counted() -> Iterator[bytes]:
            for chunk in iter(lambda: source.read(1 << 20), b""):
                self.moved += len(chunk)  # also of what is refused at its end
                yield chunk

        return super().put(key, forward_only(counted()), **options)


def test_no_more_than_twenty_megabytes_are_sent() -> None:
    store = Counting()
    assert try_out(of(store, several_parts=(10 << 20) + (64 << 10))).errors == ()
    assert 10 << 20 < store.moved < 20_000_000


# -- stores that are not ---------------------------------------------------------------------------------------------


class IgnoringTheCondition(MemoryStore):
    def put(self, key: str, source: BinaryIO, *, only_if_absent: bool = False, **options: Any) -> ObjectInfo:
        return super().put(key, source, **options)


class ListingUnsorted(MemoryStore):
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return reversed([*super().list(prefix)])


class IgnoringTheStart(MemoryStore):
    def open(self, key: str, *, start: int = 0, **asked: Any) -> Any:
        return super().open(key, start=0 if start > 0 else start, **asked)


class KeepingWhatIsDeleted(MemoryStore):
    def delete(self, keys: Iterable[str]) -> None:
        _ = [*keys]


BROKEN: list[tuple[type[MemoryStore], str, set[str]]] = [
    (IgnoringTheCondition, "conditional put", {*RACES, "only_if_absent_replaces_nothing"}),
    (ListingUnsorted, "listing order", {"list_is_in_byte_order", "list_takes_any_prefix", "list_goes_on_over_pages"}),
    (IgnoringTheStart, "ranged reads", {"open_starts_where_asked", "open_starts_within_any_part"}),
]


@pytest.mark.parametrize(("kind", "capability", "contracts"), BROKEN, ids=[kind.__name__ for kind, _, _ in BROKEN])
def test_a_broken_promise_is_named_and_an_error(kind: type[MemoryStore], capability: str, contracts: set[str]) -> None:
    store = kind()
    report = try_out(of(store))
    assert contracts <= broken(report)
    assert row(report, capability).verdict == "bad"
    assert {type(error) for error in report.errors} == {StoreError}
    for error in report.errors:
        assert error.hint
    said = "\n".join(map(str, report.errors))
    assert all(name.replace("_", " ") in said for name in contracts)
    assert keys_in(store) == set()


def test_objects_that_stay_after_their_deletion_are_an_error_and_named() -> None:
    store = KeepingWhatIsDeleted()
    report = try_out(of(store))
    assert "delete_removes_what_it_is_told" in broken(report)
    assert set(report.left) == keys_in(store) != set()


def test_other_bytes_than_were_put_are_found_first() -> None:
    class Flipping(MemoryStore):
        def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
            content = b"".join(iter(lambda: source.read(1 << 20), b""))
            return super().put(key, io.BytesIO(content[::-1]), **options)

    report = try_out(of(Flipping()))
    assert row(report, "read").error is report.errors[0]
    assert "other bytes came back" in str(report.errors[0])


def test_a_condition_that_is_there_and_not_declared_is_a_note_and_one_that_is_not_is_none() -> None:
    store = MemoryStore()
    modest = sharing(store, MemoryStore)
    modest.capabilities = replace(store.capabilities, conditional_put=False)
    found = try_out(of(modest, bolder=store))
    ignored = try_out(of(modest, bolder=sharing(store, IgnoringTheCondition)))
    assert found.errors == ignored.errors == ()
    assert row(found, "conditional put").verdict == "note"
    assert (row(ignored, "conditional put").seen, row(ignored, "conditional put").verdict) == ("ignored", "ok")


def sharing(store: MemoryStore, kind: type[MemoryStore]) -> MemoryStore:
    """Another store with the same objects."""
    other = kind()
    vars(other).update(vars(store))
    return other


def test_a_clock_that_differs_is_a_note() -> None:
    class Late(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(minutes=10)

    report = try_out(replace(of(MemoryStore()), clock=Late()))
    assert report.errors == ()
    assert row(report, "clock").verdict == "note"
    assert "ahead of this host" in row(report, "clock").seen


def test_what_there_is_no_time_for_is_not_said_to_be_kept() -> None:
    class Jumping(SystemClock):
        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 20
            return self.seconds

    report = try_out(replace(of(MemoryStore()), clock=Jumping()))
    assert {contract.not_asked for contract in report.contracts} == {"", "no time was left"}
    assert row(report, "listing order").verdict == "unknown"


# -- only what is ours -----------------------------------------------------------------------------------------------


def test_an_interrupted_trial_leaves_nothing() -> None:
    class Interrupted(MemoryStore):
        def signed_url(self, key: str, *, ttl: timedelta) -> str:
            raise KeyboardInterrupt

    store = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        try_out(of(store))
    assert keys_in(store) == set()


def test_a_scratch_store_touches_nothing_outside_and_deletes_only_what_it_put() -> None:
    store = MemoryStore()
    for key in ("gitlab/sets/one", "gitlab/scratch/theirs", "gitlab/scratchy"):
        store.put(key, io.BytesIO(b"theirs"))
    scratch = ScratchStore(store, "gitlab/scratch")
    scratch.put("gitlab/scratch/ours", io.BytesIO(b"ours"))
    outside: list[Callable[[], object]] = [
        lambda: scratch.delete(["gitlab/sets/one"]),
        lambda: scratch.delete(["gitlab/scratchy"]),
        lambda: scratch.put("gitlab/sets/two", io.BytesIO()),
        lambda: scratch.list("gitlab/"),
    ]
    for call in outside:
        with pytest.raises(StoreError, match="does not lie below"):
            call()
    assert scratch.clear() == scratch.clear() == ()
    assert keys_in(store) == {"gitlab/sets/one", "gitlab/scratch/theirs", "gitlab/scratchy"}


# -- credentials that may less ---------------------------------------------------------------------------------------


def test_without_the_right_to_delete_all_is_well_and_what_stays_is_named(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    oss.service.denied |= {"DeleteObject", "DeleteMultipleObjects"}
    report = try_out(trial(tmp_path, settings("oss-http", request)))
    assert report.errors == ()
    assert (row(report, "delete").seen, row(report, "delete").verdict) == ("not allowed", "ok")
    assert row(report, "replace").seen == "allowed: this host could overwrite backups"
    assert set(report.left) == keys_in(oss.store()) != set()
    assert all(key.startswith(report.scratch) for key in report.left)
    assert len(not_asked(report)) == 4


def test_without_the_right_to_list_the_rest_is_tried_and_removed(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    oss.service.denied |= {"ListObjectsV2"}
    report = try_out(trial(tmp_path, settings("oss-http", request)))
    (error,) = report.errors
    assert isinstance(error, StoreAccessDenied)
    assert "listing" in error.hint
    assert row(report, "listing order").verdict == "unknown"
    assert (broken(report), report.left) == (set(), ())
    oss.service.denied.clear()
    assert keys_in(oss.store()) == set()


def test_without_the_rights_to_list_and_delete_what_stays_is_still_named(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    oss.service.denied |= {"ListObjectsV2", "DeleteObject", "DeleteMultipleObjects"}
    report = try_out(trial(tmp_path, settings("oss-http", request)))
    oss.service.denied.clear()
    assert set(report.left) == keys_in(oss.store()) != set()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0].endswith("https")])
def test_wrong_credentials_are_the_error_they_are_everywhere(
    kind: Kind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    secret = "access_key_secret" if kind.startswith("oss") else "secret_access_key"
    report = try_out(trial(tmp_path, settings(kind, request, **{secret: "env:DRTOOL_TEST_WRONG"})))
    assert [type(error) for error in report.errors] == [StoreAccessDenied]
    assert verdicts(report) == {"put": "bad"}
    assert (report.contracts, report.left) == ((), ())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.values[0].endswith("https")])
def test_a_missing_bucket_is_the_error_it_is_everywhere(
    kind: Kind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    missing = {"path": str(tmp_path / "missing")} if kind == "local" else {"bucket": "missing"}
    report = try_out(trial(tmp_path, settings(kind, request, **missing)))
    assert [type(error) for error in report.errors] == [BucketMissing]
    assert not (tmp_path / "missing").exists()


# -- declared and seen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "declared", "verdict", "words"),
    [
        ("locked", "true", "ok", "locked, for 3 days"),
        ("locked", "false", "note", "locked, for 3 days"),
        ("in progress", "true", "bad", "lapses 24 hours after"),
        ("in progress", "false", "note", "lapses 24 hours after"),
        ("none", "true", "bad", "none"),
        ("none", "false", "ok", "none"),
    ],
)
def test_a_declared_retention_policy_has_to_be_locked(
    oss: OssServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    state: str,
    declared: str,
    verdict: str,
    words: str,
) -> None:
    if state != "none":
        oss.bucket.retention = Retention("worm", 3, datetime.now(UTC), locked=state == "locked")
    lock = declared_row(trial(tmp_path, settings("oss-http", request, worm=declared)), "lock")
    assert (lock.verdict, bool(lock.error)) == (verdict, verdict == "bad")
    assert words in lock.seen


def test_objects_that_a_retention_policy_keeps_are_named_and_no_error(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    oss.bucket.retention = Retention("worm", 3, datetime.now(UTC), locked=True)
    report = try_out(trial(tmp_path, settings("oss-http", request, worm="true")))
    assert report.errors == ()
    assert (row(report, "delete").seen, row(report, "replace").seen) == ("not allowed", "not allowed")
    assert set(report.left) == keys_in(oss.store()) != set()


@pytest.mark.parametrize(
    ("state", "declared", "verdict"),
    [
        ("", "false", "ok"),
        ("", "true", "bad"),
        ("Enabled", "true", "note"),
        ("Enabled", "false", "bad"),
        ("Suspended", "true", "ok"),
        ("Suspended", "false", "bad"),
    ],
)
def test_declared_versioning_has_to_be_what_the_bucket_says(
    oss: OssServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    state: Literal["", "Enabled", "Suspended"],
    declared: str,
    verdict: str,
) -> None:
    oss.bucket.versioning = state
    versioning = declared_row(trial(tmp_path, settings("oss-http", request, versioned=declared)), "versioning")
    assert (versioning.verdict, bool(versioning.error)) == (verdict, verdict == "bad")


@pytest.mark.engine("seaweedfs")
def test_a_declared_object_lock_has_to_be_there(
    s3_http: S3Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def lock(**changes: str) -> Capability:
        return declared_row(trial(tmp_path, settings("s3-http", request, **changes)), "lock")

    s3_http.store().client.create_bucket(Bucket="deep-locked", ObjectLockEnabledForBucket=True)
    kept = lock(bucket="deep-locked", object_lock="governance")
    assert (kept.seen, kept.verdict) == ("an object was locked", "ok")
    assert lock(bucket="deep-locked").verdict == "note"
    assert lock().verdict == "ok"
    absent = lock(object_lock="governance")
    assert (absent.verdict, type(absent.error)) == ("bad", StoreError)


@pytest.mark.engine("seaweedfs")
def test_how_objects_are_kept_is_compared_with_what_is_declared(
    s3_http: S3Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tried = trial(tmp_path, settings("s3-http", request, storage_class="STANDARD_IA", sse="AES256"))

    assert declared_row(tried, "storage_class").verdict == declared_row(tried, "sse").verdict == "ok"
    assert not [
        name for name in names_of(trial(tmp_path, settings("s3-http", request))) if name in ("sse", "kms_key_id")
    ]


@pytest.mark.parametrize("told", ["Standard", "Archive"])
def test_class_that_the_store_does_not_keep_is_an_error(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path, told: str
) -> None:
    tried = trial(tmp_path, settings("oss-http", request, storage_class="IA"))
    assert declared_row(tried, "storage_class").verdict == "ok"
    oss.add(Fault("altered answer", "HeadObject", left=99, status=200, headers={"x-oss-storage-class": told}))

    found = declared_row(tried, "storage_class")

    assert (found.verdict, type(found.error)) == ("bad", StoreError)
    assert f"storage_class = IA, but an object that was put so is kept as {told}" in str(found.error)


@pytest.mark.parametrize(
    ("declared", "kept", "verdict"),
    [
        ("0b5e-55ed", "arn:aws:kms:eu-central-1:111122223333:key/0b5e-55ed", "ok"),
        (
            "arn:aws:kms:eu-central-1:111122223333:key/0b5e-55ed",
            "arn:aws:kms:eu-central-1:111122223333:key/0b5e-55ed",
            "ok",
        ),
        ("alias/backup", "arn:aws:kms:eu-central-1:111122223333:key/0b5e-55ed", "ok"),
        ("alias/backup", "none", "bad"),
        ("0b5e-55ed", "arn:aws:kms:eu-central-1:111122223333:key/another", "bad"),
        ("0b5e-55ed", "none", "bad"),
    ],
)
def test_key_that_encrypts_is_compared_with_the_one_that_is_declared(declared: str, kept: str, verdict: str) -> None:
    facts = Facts(declared={"kms_key_id": declared}, kept_as=lambda key: {"kms_key_id": kept})

    assert declared_row(of(MemoryStore(), facts=facts), "kms_key_id").verdict == verdict


@pytest.mark.engine("seaweedfs")
@pytest.mark.parametrize(("status", "verdict"), [("", "bad"), ("Enabled", "note"), ("Suspended", "bad")])
def test_declared_versions_have_to_be_kept(
    s3_http: S3Server,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    status: Literal["", "Enabled", "Suspended"],
    verdict: str,
) -> None:
    bucket, client = f"deep-versions-{status.lower() or 'never'}", s3_http.store().client
    client.create_bucket(Bucket=bucket)
    if status:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})

    found = declared_row(trial(tmp_path, settings("s3-http", request, bucket=bucket, versioned="true")), "versioning")

    assert (found.verdict, bool(found.error)) == (verdict, verdict == "bad")


@pytest.mark.engine("seaweedfs")
def test_rule_of_a_bucket_that_deletes_backups_is_a_note(
    s3_http: S3Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    client = s3_http.store().client
    client.create_bucket(Bucket="deep-lifecycle")
    tried = trial(tmp_path, settings("s3-http", request, bucket="deep-lifecycle", prefix="night"))
    assert declared_row(tried, "lifecycle").verdict == "ok"
    client.put_bucket_lifecycle_configuration(
        Bucket="deep-lifecycle",
        LifecycleConfiguration={
            "Rules": [{"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "night/"}, "Expiration": {"Days": 30}}]
        },
    )

    found = declared_row(tried, "lifecycle")

    assert (found.verdict, found.error) == ("note", None)
    assert found.seen.endswith("old")


def test_rule_of_an_oss_bucket_that_freezes_backups_is_a_note(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tried = trial(tmp_path, settings("oss-http", request))
    assert declared_row(tried, "lifecycle").verdict == "ok"
    rule = LifecycleRule("cold", "", storage_transitions=[StorageTransition(days=30, storage_class="Archive")])
    oss.store().client.put_bucket_lifecycle(BucketLifecycle([rule]))

    assert (declared_row(tried, "lifecycle").verdict, "cold" in declared_row(tried, "lifecycle").seen) == ("note", True)


@pytest.mark.parametrize("call", ["ListMultipartUploads", ""])
def test_uploads_that_may_not_be_listed_are_a_note(
    oss: OssServer, request: pytest.FixtureRequest, tmp_path: Path, call: str
) -> None:
    oss.service.denied |= {call}

    found = declared_row(trial(tmp_path, settings("oss-http", request)), "unfinished uploads")

    assert found.verdict == ("note" if call else "ok")
    assert not call or "oss:ListMultipartUploads" in found.hint


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with playground(tmp_path_factory.mktemp("deep")) as made:
        yield made


@pytest.mark.engine("postgresql")
def test_the_command_tells_people_and_machines_the_same(place: Playground) -> None:
    told, ran = place.drtool("check", "--deep"), place.drtool("check", "--deep", "--json")
    assert told.status == ran.status == 0
    assert [row["name"] for row in ran.last["deep"]["capabilities"] if row["verdict"] == "note"] == ["delete"]
    assert {answer["error"] for answer in ran.last["answers"]} == {None}
    assert all(row["seen"] in told.stdout for row in ran.last["deep"]["capabilities"])
    assert "30 of 30 contracts kept" in told.stdout
    assert told.stdout.endswith("The store will do.\n")
    assert [*place.store.rglob("*")] == []
    assert place.drtool("check", "--deep", "--quiet").stdout == ""


@pytest.mark.engine("postgresql")
def test_without_deep_the_store_is_not_written_to(place: Playground) -> None:
    before = place.store.stat().st_mtime_ns
    assert place.drtool("check").status == 0
    assert place.store.stat().st_mtime_ns == before
    assert place.drtool("check", "--store", "main").status == 2


@pytest.mark.engine("postgresql")
def test_another_store_of_the_configuration_is_tried_by_its_name(
    place: Playground, oss: OssServer, request: pytest.FixtureRequest
) -> None:
    oss.service.denied |= {"DeleteObject", "DeleteMultipleObjects"}
    tables = f"[store.hangzhou]\n{settings('oss-http', request)}\n\n[store.main]"
    config = place.configure("hangzhou.toml", ("[store.main]", tables))
    ran = place.drtool("check", "--deep", "--store", "hangzhou", "--config", config, "--json")
    assert ran.status == 0
    assert set(ran.last["deep"]["left"]) == keys_in(oss.store()) != set()
    told = place.drtool("check", "--deep", "--store", "hangzhou", "--config", config)
    assert "scratch objects stay below gitlab/drtool-check-" in told.stdout
    unknown = place.drtool("check", "--deep", "--store", "nowhere")
    assert unknown.status == ConfigError.exit_status
    assert "[store.nowhere]" in unknown.stderr


@pytest.mark.engine("postgresql")
def test_a_store_that_is_not_what_was_declared_ends_with_the_status_of_a_store(
    place: Playground, oss: OssServer, request: pytest.FixtureRequest
) -> None:
    oss.bucket.versioning = "Enabled"
    tables = f"[store.hangzhou]\n{settings('oss-http', request)}\n\n[store.main]"
    config = place.configure("versioned.toml", ("[store.main]", tables))
    ran = place.drtool("check", "--deep", "--store", "hangzhou", "--config", config, "--quiet")
    assert ran.status == StoreError.exit_status
    assert "versioned = false, but the bucket says enabled" in ran.stdout
    assert "only if absent replaces nothing" in ran.stdout
    assert "A backup can be taken" not in ran.stdout
