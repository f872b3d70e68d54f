"""``status`` as an operator and a monitoring system meet it, on stores in directories; which receipts count."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pytest

from drtool.capabilities import Facts
from drtool.catalog import Catalog
from drtool.core.marker import MARKER
from drtool.core.model import Manifest
from drtool.errors import StoreAccessDenied
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.journal import new_journal
from drtool.last_done import read_records
from drtool.policies import LockTable, Policy
from drtool.receipts import receipt_name
from drtool.signing import Signer
from drtool.status import Sources, status
from drtool.stores import Capabilities
from drtool.stores.faults import FaultyStore
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.oss_answers import WormState
from drtool.verify import Level
from tests import sets
from tests.contracts.test_keeping import Kept, lay_out
from tests.lives import DatedStore, clock, set_id, verifier, write_receipt
from tests.playground import Ran

POLICY = """\
[retention]
daily = 30
sets_a_day = 50
[objectives]
rpo = "26h"
rto = "4h"
drill_age = "100d"
[copies]
stores = 2
[verification]
digest = "7d"
"""
HOUR = timedelta(hours=1)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Four verified nights in two stores, a drill last week, and a policy that is kept."""
    made = lay_out(tmp_path, 4)
    (made.base / "policy.toml").write_text(POLICY)
    put_drill(made)
    return made


def put_drill(
    kept: Kept, *, seconds: float = 600, days: int = 7, signer: Signer | None = None, name: str = "", **more: object
) -> str:
    at = datetime.now(UTC) - timedelta(days=days)
    run_id = f"drill-{at:%Y%m%dT%H%M%SZ}-0000"
    receipt = {
        "format": 1,
        "run_id": run_id,
        "purpose": "drill",
        "instance": sets.INSTANCE,
        "set_id": kept.sets[0],
        "finished_at": at.isoformat(),
        "steps": [{"name": "send", "seconds": seconds / 2}, {"name": "restore", "seconds": seconds / 2}],
        **more,
    }
    return kept.catalog().put_receipt(name or run_id, json.dumps(receipt).encode(), signer or sets.keys().signer)


def instance(ran: Ran) -> dict[str, Any]:
    (found,) = ran.last["instances"]
    return dict(found)


def codes(ran: Ran) -> list[str]:
    """What was found, but for a timer: there is none on the machine of the tests."""
    return [found["code"] for found in instance(ran)["findings"] if found["code"] != "no-timer"]


def verdicts(ran: Ran) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in instance(ran)["objectives"]}


def test_status_of_an_instance_that_keeps_its_policy_is_0(kept: Kept) -> None:
    ran = kept.drtool("status", "--json")

    assert ran.status == ran.last["exit_status"] == 0
    assert {name for name, verdict in verdicts(ran).items() if verdict == "met"} == {
        "rpo", "rto", "drill_age", "digest", "copies", "removal",
    }  # fmt: skip
    found = instance(ran)
    assert found["last_restorable"]["set_id"] == found["last_verified"]["set_id"] == kept.sets[-1]
    assert found["restore"]["took"] == 600
    assert "All that is promised is kept." in kept.drtool("status").stdout
    assert kept.drtool("status", "--quiet").stdout == ""


def remove_newest(kept: Kept) -> None:
    for store in ("main", "copy"):
        for name in kept.sets[-2:]:
            catalog = kept.catalog(store)
            catalog.store.delete([info.key for info in catalog.store.list(catalog.key(name, ""))])


def remove_copy(kept: Kept) -> None:
    catalog = kept.catalog("copy")
    catalog.store.delete([info.key for info in catalog.store.list("")])


def remove_receipts(kept: Kept) -> None:
    catalog = kept.catalog()
    catalog.store.delete([info.key for info in catalog.store.list(f"{sets.INSTANCE}/receipts/")])


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (remove_newest, {"rpo"}),
        (remove_copy, {"copies"}),
        (remove_receipts, {"rto", "drill_age", "digest"}),
        (lambda kept: put_drill(kept, days=1, seconds=5 * 3600), {"rto"}),
    ],
)
def test_broken_promises_end_with_22_in_every_way_it_is_told(
    kept: Kept, harm: Callable[[Kept], object], broken: set[str]
) -> None:
    harm(kept)
    metrics = kept.base / "drtool.prom"

    ran = kept.drtool("status", "--json", "--prometheus", str(metrics))
    said = kept.drtool("status", "--quiet")

    assert (ran.status, said.status, ran.last["exit_status"]) == (22, 22, 22)
    assert {name for name, verdict in verdicts(ran).items() if verdict == "breached"} == broken
    assert said.stdout.count("breached") == len(broken)
    assert 'drtool_status_exit_status{instance="gitlab"} 22.0' in metrics.read_text()
    for name in broken:
        assert f'objective="{name}",verdict="breached"}} 1.0' in metrics.read_text()


def test_a_store_that_is_not_there_is_red_and_says_so_in_the_metrics_too(kept: Kept) -> None:
    (kept.base / "main").rename(kept.base / "away")
    metrics = kept.base / "drtool.prom"

    ran = kept.drtool("status", "--json", "--prometheus", str(metrics))

    assert ran.status == ran.last["exit_status"] == 12
    assert verdicts(ran)["rpo"] == "unknown"
    assert 'drtool_store_reachable{instance="gitlab"} 0.0' in metrics.read_text()
    assert "the store does not answer" in kept.drtool("status").stdout


def test_a_copy_that_is_not_there_is_red(kept: Kept) -> None:
    (kept.base / "copy").rename(kept.base / "away")
    ran = kept.drtool("status", "--json")
    assert ran.status == 12
    assert instance(ran)["copies"][0]["behind"] is None


def test_no_set_at_all_is_red_without_a_policy_too(tmp_path: Path) -> None:
    empty = lay_out(tmp_path, 0)
    empty.configure("")
    ran = empty.drtool("status", "--json")
    assert ran.status == 14
    assert codes(ran) == ["no-set"]


def test_an_unsigned_manifest_is_not_believed(kept: Kept) -> None:
    signature = kept.base / "main" / kept.catalog().key(kept.sets[0], "manifest.json.sig")
    signature.write_bytes(b"")
    ran = kept.drtool("status", "--json")
    assert ran.status == 21
    assert codes(ran) == ["not-believed"]


def test_a_restore_that_did_not_end_is_shown(kept: Kept) -> None:
    plan = {"instance": sets.INSTANCE, "steps": [{"name": "send"}, {"name": "restore"}]}
    journal = new_journal(kept.base / "state", "restore-20260113T031500Z-7f3a")
    journal.append("plan", plan=json.dumps(plan))
    journal.append("finished", step="send")
    ran = kept.drtool("status", "--json")
    assert codes(ran) == ["unfinished-restore"]
    assert ran.status == 0

    journal.append("finished", step="restore")
    assert codes(kept.drtool("status", "--json")) == []


def test_a_metrics_file_that_cannot_be_written_is_an_error(kept: Kept) -> None:
    assert kept.drtool("status", "--prometheus", str(kept.base / "nowhere/drtool.prom")).status == 3


# -- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        {"signer": "stranger"},
        {"instance": "another"},
        {"finished_at": "2026-01-01T00:00:00"},
        {"finished_at": "soon"},
        {"steps": "none"},
        {"name": "drill-20990101T000000Z-0000"},
    ],
)
def test_a_receipt_that_is_not_what_it_says_proves_nothing(tmp_path: Path, forged: dict[str, Any]) -> None:
    (tmp_path / "main").mkdir()
    kept = Kept(tmp_path, ["20260113T031500Z-7f3a"])
    put_drill(kept, **{**forged, **({"signer": sets.new_keys().signer} if "signer" in forged else {})})

    records = read_records(Catalog(LocalStore(tmp_path / "main"), sets.INSTANCE), sets.keys().verifier, ignore)

    assert (records.drill, records.restore) == (None, None)


@pytest.mark.parametrize("lacking", ["level", "signature", "problems", "set_id", "finished_at", "instance", "purpose"])
def test_a_receipt_of_a_verification_that_lacks_something_proves_nothing(lacking: str) -> None:
    catalog = Catalog(MemoryStore(), sets.INSTANCE)
    manifest = sets.commit(catalog.store).manifest
    key = write_receipt(catalog, manifest)
    assert read_records(catalog, verifier(), ignore).digest

    receipt = json.loads(catalog.read_receipt(key)[0])
    del receipt[lacking]
    run_id = key.rpartition("/")[2].removesuffix(".json")
    catalog.put_receipt(run_id, json.dumps(receipt).encode(), sets.keys().signer)

    records = read_records(catalog, verifier(), ignore)
    assert (records.digest, records.contents, records.problems) == (None, None, None)


def test_a_contents_verification_is_found_behind_a_thousand_digests_without_reading_them() -> None:
    catalog = Catalog(MemoryStore(), sets.INSTANCE)
    manifest = sets.commit(catalog.store).manifest
    at = datetime(2026, 1, 20, 3, 15, tzinfo=UTC)
    put_verification(catalog, manifest, "contents", at)
    for minute in range(1, 1000):  # signing takes time, and nobody is to read these
        put_verification(catalog, manifest, "digest", at + timedelta(minutes=minute), signed=False)
    put_verification(catalog, manifest, "digest", at + timedelta(minutes=1000))
    counted = FaultyStore(catalog.store)

    records = read_records(Catalog(counted, sets.INSTANCE), verifier(), ignore)

    assert records.contents and records.contents.finished_at == at
    assert records.digest and records.digest.finished_at == at + timedelta(minutes=1000)
    assert len(counted.calls) < 20


def test_a_receipt_under_the_name_of_another_level_proves_nothing() -> None:
    catalog = Catalog(MemoryStore(), sets.INSTANCE)
    manifest = sets.commit(catalog.store).manifest
    at = datetime(2026, 1, 20, 3, 15, tzinfo=UTC)
    put_verification(catalog, manifest, "digest", at, named="contents")
    records = read_records(catalog, verifier(), ignore)
    assert (records.digest, records.contents, records.problems) == (None, None, None)


def test_receipts_of_before_their_names_told_the_level_count_as_they_did() -> None:
    catalog = Catalog(MemoryStore(), sets.INSTANCE)
    manifest = sets.commit(catalog.store).manifest
    write_receipt(catalog, manifest, level="contents")
    records = read_records(catalog, verifier(), ignore)
    assert records.contents
    assert records.contents == records.digest


def put_verification(
    catalog: Catalog, manifest: Manifest, level: Level, at: datetime, *, named: Level | None = None, signed: bool = True
) -> None:
    """Leave what a verification leaves, under the name that it is given there."""
    run_id = receipt_name(manifest.set_id, named or level, at, "7f3a")
    receipt = {
        "purpose": "verify",
        "instance": sets.INSTANCE,
        "set_id": manifest.set_id,
        "level": level,
        "signature": "valid",
        "finished_at": at.isoformat(),
        "problems": 0,
    }
    catalog.put_receipt(run_id, json.dumps(receipt).encode(), sets.keys().signer if signed else None)


def test_the_newest_receipt_counts_and_a_restore_is_no_drill(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    kept = Kept(tmp_path, ["20260113T031500Z-7f3a"])
    put_drill(kept, days=9, seconds=60)
    put_drill(kept, days=5, seconds=120)
    at = datetime.now(UTC) - HOUR
    name = f"restore-{at:%Y%m%dT%H%M%SZ}-0000"
    put_drill(kept, name=name, run_id=name, purpose="restore", finished_at=at.isoformat(), seconds=180)

    records = read_records(kept.catalog(), sets.keys().verifier, ignore)

    assert records.drill and records.drill.took == timedelta(seconds=120)
    assert records.restore and records.restore.took == timedelta(seconds=180)


# -- locks and this host ---------------------------------------------------------------------------------------------


class Locking(DatedStore):
    """Says that it locks."""

    kind: Literal["object", "bucket"] = "object"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(lock=self.kind)


def sources(base: Path, facts: Callable[[], Facts], kind: Literal["object", "bucket"] = "object") -> Sources:
    """One night in a store that locks, and a host without GitLab below ``base``."""
    store = Locking(MemoryStore())
    store.kind = kind
    sets.commit(store, set_id=set_id(0))
    catalog = Catalog(store, sets.INSTANCE)
    policy = Policy(lock=LockTable(days=3))
    install = Omnibus(PurePosixPath(base))
    return Sources(
        sets.INSTANCE,
        ("main", lambda: catalog),
        [],
        facts,
        policy,
        verifier(),
        LocalRunner(),
        install,
        base / "state",
        clock(0),
        ignore,
    )


def refuse() -> Facts:
    raise StoreAccessDenied("not allowed to ask")


@pytest.mark.parametrize(
    ("facts", "kind", "verdict"),
    [
        (lambda: Facts(locked_until=lambda key: sets.NIGHT + timedelta(days=3)), "object", "met"),
        (lambda: Facts(locked_until=lambda key: sets.NIGHT + timedelta(days=2)), "object", "breached"),
        (lambda: Facts(locked_until=lambda key: None), "object", "breached"),
        (lambda: Facts(), "object", "unknown"),
        (refuse, "object", "unknown"),
        (lambda: Facts(worm_state=lambda: WormState("locked", timedelta(days=3))), "bucket", "met"),
        (lambda: Facts(worm_state=lambda: WormState("locked", timedelta(days=2))), "bucket", "breached"),
        (lambda: Facts(worm_state=lambda: WormState("in progress", timedelta(days=3))), "bucket", "breached"),
        (lambda: Facts(), "bucket", "breached"),
    ],
)
def test_a_lock_is_as_long_as_the_store_says_and_unknown_where_it_does_not(
    tmp_path: Path, facts: Callable[[], Facts], kind: Literal["object", "bucket"], verdict: str
) -> None:
    standing = status(sources(tmp_path, facts, kind))
    (found,) = [each for each in standing.objectives if each.name == "lock"]
    assert found.verdict == verdict
    assert standing.exit_status == (0 if verdict == "met" else 22)


def test_a_half_restored_host_and_one_that_cannot_be_looked_at_are_red(tmp_path: Path) -> None:
    met = sources(tmp_path, lambda: Facts(locked_until=lambda key: sets.NIGHT + timedelta(days=3)))
    version = tmp_path / "opt/gitlab/embedded/service/gitlab-rails/VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("18.9.0-ee\n")
    assert [found.code for found in status(met).findings if found.severity == "red"] == ["unseen"]

    backups = tmp_path / "var/opt/gitlab/backups"
    backups.mkdir(parents=True)
    assert status(met).exit_status == 0
    (backups / MARKER).write_text("not a mark")
    assert status(met).exit_status == 6


def put_cutover(kept: Kept, *, hours: float, result: str, to: str = "new-host") -> str:
    """A receipt as a cut-over leaves it, that many hours ago."""
    at = datetime.now(UTC) - timedelta(hours=hours)
    run_id = f"cutover-{at:%Y%m%dT%H%M%SZ}-0000"
    receipt = {
        "run_id": run_id,
        "purpose": "cutover",
        "instance": sets.INSTANCE,
        "result": result,
        "to": to,
        "finished_at": at.isoformat(),
        "steps": [{"name": "move", "host": None, "seconds": 1.0}],
    }
    name = f"{run_id}-{result.replace(' ', '-')}"
    return kept.catalog().put_receipt(name, json.dumps(receipt).encode(), sets.keys().signer)


def test_the_last_cut_over_tells_where_the_address_is(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    kept = Kept(tmp_path, ["20260113T031500Z-7f3a"])
    assert read_records(kept.catalog(), verifier(), ignore).moved is None
    put_cutover(kept, hours=3, result="committed", to="elsewhere")
    put_cutover(kept, hours=2, result="committed")
    moved = read_records(kept.catalog(), verifier(), ignore).moved
    assert moved
    assert moved.to == "new-host"
    put_cutover(kept, hours=1, result="rolled back")
    assert read_records(kept.catalog(), verifier(), ignore).moved is None
