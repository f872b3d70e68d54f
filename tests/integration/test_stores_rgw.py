"""Ceph RGW, a second S3 server by other people, and what Spaces is made of, keeps the contract of stores too.

Where it disagrees with AWS the settings say so (``conditional_put = false``), and ``check --deep`` finds out whoever
says otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drtool.app import load, open_store
from drtool.attack import attack
from drtool.config_stores import SpacesStoreTable
from drtool.deep import Report, try_out
from drtool.errors import StoreError
from drtool.events import ignore
from drtool.stores.conformance import CHECKS, Check, ContractBroken, NotApplicable, Subject, forward_only, noise
from drtool.stores.s3 import S3Store
from tests.contracts.test_attack import place_of
from tests.contracts.test_lease import (
    Opened,
    holding,
    test_lease_lets_one_of_two_processes_write_at_a_time,
    test_lease_of_a_killed_process_ends_by_itself,
)
from tests.integration.rgw import Rgw
from tests.s3_policy import RULES, front_of
from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

__all__ = [  # of the lease's contract, asked of this server too: see ``opened``
    "holding",
    "test_lease_lets_one_of_two_processes_write_at_a_time",
    "test_lease_of_a_killed_process_ends_by_itself",
]

pytestmark = pytest.mark.engine("docker")

TWO_PARTS, THREE_PARTS = (5 << 20) + (64 << 10), (10 << 20) + (64 << 10)
RACES = {"only_if_absent_refuses_what_came_meanwhile", "only_if_absent_has_one_winner"}
BY_NAME: dict[str, Check] = {check.__name__: check for check in CHECKS}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRTOOL_TEST_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("DRTOOL_TEST_SECRET", SECRET_ACCESS_KEY)
    monkeypatch.setenv("DRTOOL_TEST_WRONG", "not-the-secret")


@functools.cache  # a boto3 client takes a quarter of a second to make
def _http(rgw: Rgw) -> Subject:
    return _s3(rgw.http, TWO_PARTS)


@functools.cache
def _https(rgw: Rgw) -> Subject:
    return _s3(rgw.https, THREE_PARTS)


def _s3(server: S3Server, big: int) -> Subject:
    return Subject(
        server.store(prefix="contract/here", page_size=7),
        elsewhere=server.store(bucket="missing"),
        stranger=server.store(prefix="contract/here", secret="not-the-secret"),
        big=big,
        ca_bundle=server.ca_bundle,
    )


@functools.cache
def _spaces(rgw: Rgw) -> Subject:
    table = SpacesStoreTable(
        kind="spaces",
        bucket=BUCKET,
        region="fra1",
        prefix="contract/spaces",
        endpoint=rgw.https.endpoint,
        access_key_id="env:DRTOOL_TEST_ID",
        secret_access_key="env:DRTOOL_TEST_SECRET",
        ca_bundle=rgw.https.ca_bundle,
    )

    def changed(**changes: str) -> Any:
        return open_store(table.model_copy(update=changes), small=True)

    return Subject(
        changed(),
        elsewhere=changed(bucket="missing"),
        stranger=changed(secret_access_key="env:DRTOOL_TEST_WRONG"),
        big=TWO_PARTS,
        ca_bundle=rgw.https.ca_bundle,
    )


@pytest.mark.parametrize("kind", [_http, _https, _spaces], ids=["s3-http", "s3-https", "spaces-https"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_store_keeps_the_contract(check: Check, kind: Callable[[Rgw], Subject], rgw: Rgw) -> None:
    subject = kind(rgw)
    with pytest.raises(NotApplicable) if check.__name__ in RACES else contextlib.nullcontext():
        check(subject)
    assert [*subject.store.list(subject.prefix)] == []


def test_the_contract_notices_that_rgw_completes_an_upload_against_its_condition(rgw: Rgw) -> None:
    subject = Subject(rgw.http.store(prefix="contract/bold", conditional_put=True), big=THREE_PARTS)
    with pytest.raises(ContractBroken, match=f"{THREE_PARTS} bytes that was overtaken succeeded"):
        BY_NAME["only_if_absent_refuses_what_came_meanwhile"](subject)


def _deep(folder: Path, server: S3Server, **changes: str) -> Report:
    """Try the server as ``check --deep`` does, from settings as the operator writes them."""
    table = {
        "kind": "s3",
        "bucket": BUCKET,
        "prefix": f"deep-{folder.name}",
        "endpoint": server.endpoint,
        "access_key_id": "env:DRTOOL_TEST_ID",
        "secret_access_key": "env:DRTOOL_TEST_SECRET",
        **({"ca_bundle": str(server.ca_bundle)} if server.ca_bundle else {}),
        **changes,
    }
    lines = "\n".join(f"{name} = {text if text in ('true', 'false') else repr(text)}" for name, text in table.items())
    config = folder / "drtool.toml"
    config.write_text(f'[[instance]]\nname = "gitlab"\nstore = "main"\n\n[store.main]\n{lines}\n')
    return try_out(load(config, None, ignore).trial_of(None))


def _rows(report: Report) -> dict[str, tuple[str, str]]:
    return {row.name: (row.seen, row.verdict) for row in report.capabilities}


@pytest.mark.parametrize("declared", [{"kind": "s3", "conditional_put": "false"}, {"kind": "spaces", "region": "fra1"}])
def test_a_deep_check_finds_all_well_where_the_settings_are_modest(
    rgw: Rgw, tmp_path: Path, declared: dict[str, str]
) -> None:
    report = _deep(tmp_path, rgw.https, **declared)

    assert (report.errors, report.left) == ((), ())
    assert {contract.name for contract in report.contracts if contract.not_asked} == RACES
    rows = _rows(report)
    assert rows["conditional put"] == ("only for objects in one piece", "ok")
    assert rows["multipart"] == ("as it should be", "ok")
    assert rows["lock"] == ("none", "ok")


def test_a_deep_check_finds_a_condition_that_uploads_in_parts_ignore(rgw: Rgw, tmp_path: Path) -> None:
    report = _deep(tmp_path, rgw.http, conditional_put="true")

    assert [contract.name for contract in report.contracts if contract.error] == [
        "only_if_absent_refuses_what_came_meanwhile"
    ]
    (error,) = report.errors
    assert isinstance(error, StoreError)
    assert "conditional_put = false" in error.hint
    assert _rows(report)["conditional put"][1] == "bad"
    assert report.left == ()


@pytest.fixture
def locked_bucket(rgw: Rgw, request: pytest.FixtureRequest) -> str:
    """A bucket made with object lock; with a default retention if the parameter says so."""
    client, default = rgw.http.store().client, getattr(request, "param", "none")
    name = f"locked-{default}"
    with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    if default == "governance":
        client.put_object_lock_configuration(
            Bucket=name,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
            },
        )
    return name


@pytest.mark.parametrize("locked_bucket", ["none", "governance"], indirect=True)
def test_a_lock_that_an_upload_in_parts_lost_is_an_error(rgw: Rgw, locked_bucket: str) -> None:
    store = rgw.http.store(bucket=locked_bucket, prefix="lost", object_lock="compliance")
    until = datetime.now(UTC) + timedelta(seconds=5)

    store.put("whole", forward_only(noise(10)), lock_until=until)
    with pytest.raises(StoreError, match="asked to be locked COMPLIANCE"):
        store.put("parts", forward_only(noise(TWO_PARTS)), lock_until=until)


def test_a_deep_check_finds_a_lock_that_is_not_kept(rgw: Rgw, locked_bucket: str, tmp_path: Path) -> None:
    declared = {"bucket": locked_bucket, "conditional_put": "false"}
    report = _deep(tmp_path, rgw.http, **declared, object_lock="governance")

    assert [row.name for row in report.capabilities if row.verdict == "bad"] == ["lock"]
    assert "asked to be locked GOVERNANCE" in str(report.errors[0])
    assert _rows(_deep(tmp_path, rgw.http, **declared))["lock"][1] == "note"


@pytest.fixture
def opened(rgw: Rgw) -> Opened:
    return Opened("s3", f"{rgw.http.endpoint}/{uuid.uuid4().hex[:8]}", conditional_put=False)


ALWAYS = {"delete", "change lifecycle", "change bucket policy", "open to the public", "change default encryption"}
OF_PLAIN = {*ALWAYS, "overwrite", "write for another instance"}
OF_LOCKED = {*ALWAYS, "write for another instance", "drop versioning", "shorten retention", "bypass retention"}


@pytest.mark.parametrize(("lock", "harm"), [(False, OF_PLAIN), (True, OF_LOCKED)], ids=["plain", "locked"])
def test_an_attack_finds_all_that_the_owner_of_the_bucket_may_do(rgw: Rgw, lock: bool, harm: set[str]) -> None:
    outcome = attack(place_of(_attacked(rgw, rgw.http.endpoint, lock=lock)))
    assert {each.name for each in outcome.allowed} == harm
    seen = {each.name: each.verdict for each in outcome.tried}
    assert (seen["delete a version"], seen["overwrite"]) == (("refused", "harmless") if lock else ("unseen", "allowed"))
    assert outcome.left == ()


def test_an_attack_that_is_refused_everything_finds_nothing(rgw: Rgw) -> None:
    with front_of(rgw.http.port) as front:
        front.denied = dict(RULES)
        outcome = attack(place_of(_attacked(rgw, front.endpoint, lock=True)))
    assert outcome.allowed == ()
    assert {each.name for each in outcome.tried if each.verdict == "refused"} >= {*OF_PLAIN, *OF_LOCKED}


def _attacked(rgw: Rgw, endpoint: str, *, lock: bool) -> S3Store:
    """A fresh bucket, as a thief with the owner's keys sees it through this endpoint."""
    bucket = f"attacked-{uuid.uuid4().hex[:12]}"
    rgw.http.store().client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
    if not lock:
        return rgw.http.store(bucket=bucket, endpoint=endpoint, prefix="dr")
    return rgw.http.store(bucket=bucket, endpoint=endpoint, prefix="dr", object_lock="governance", versioned=True)
