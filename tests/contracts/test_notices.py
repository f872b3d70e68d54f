"""What is told of a run that goes on all the same: said nowhere else in time, so nobody else would know."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Literal

import pytest

from drtool.catalog import TOMBSTONE, BackupSet, Catalog
from drtool.core.plan import Isolate, Plan
from drtool.engine import Site, execute
from drtool.errors import RestoreFailed, SetDamaged
from drtool.events import Event, Noticed
from drtool.journal import Journal
from drtool.prune import pin
from drtool.prune_plan import Removal
from drtool.removing import remove
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.lives import DatedStore, clock
from tests.toyhost import Bench, make_bench
from tests.unit.test_isolating import INSTALL, Told


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MemoryStore())


def notices(events: list[Event]) -> dict[str, Noticed]:
    return {event.code: event for event in events if isinstance(event, Noticed)}


def test_backup_tells_each_finding_and_which_members_it_is_about(bench: Bench) -> None:
    damaged = bench.host.root / "canned/uploads.tar.gz"
    damaged.write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(SetDamaged):
        bench.back_up()
    told = notices(bench.events)
    _, (set_id,) = bench.catalog().recorded()
    findings = bench.catalog().read_manifest(set_id, None).findings
    assert {finding.code: finding.message for finding in findings}.items() <= {
        code: notice.message for code, notice in told.items()
    }.items()
    assert findings
    assert "uploads" in " ".join(told["details"].details)


def test_backup_tells_that_it_was_compared_with_none_before_it(bench: Bench) -> None:
    before = bench.back_up().manifest.set_id
    bench.events.clear()
    bench.back_up()
    assert "set-before" not in notices(bench.events)
    (newest,) = set(bench.catalog().set_ids()) - {before}
    bench.store.put(bench.catalog().key(newest, "manifest.json"), io.BytesIO(b"{"))
    bench.back_up()
    assert newest in notices(bench.events)["set-before"].message


def test_removal_of_a_set_that_was_pinned_meanwhile_is_told_and_does_not_happen() -> None:
    made = sets.commit(MemoryStore())
    catalog, set_id = made.catalog, made.manifest.set_id
    pin(catalog, set_id, reason="evidence", by="a test", clock=clock(0))
    events: list[Event] = []
    assert not remove(catalog, removal(catalog, set_id), clock(0), events.append)
    assert set_id in notices(events)["pinned-meanwhile"].message
    assert catalog.set_ids() == [set_id]


def test_tombstone_that_is_locked_itself_is_told_and_the_set_is_gone() -> None:
    made = sets.commit(MemoryStore())
    set_id = made.manifest.set_id
    locked = DatedStore(made.catalog.store)
    locked.refused = lambda key: key.endswith(TOMBSTONE)
    events: list[Event] = []
    assert remove(Catalog(locked, sets.INSTANCE), removal(made.catalog, set_id), clock(0), events.append)
    assert set_id in notices(events)["tombstone-stays"].message
    assert made.catalog.set_ids() == []


@pytest.mark.parametrize("purpose", ["restore", "drill"])
def test_restore_tells_what_is_not_isolated_and_a_drill_ends_there(
    tmp_path: Path, purpose: Literal["restore", "drill"]
) -> None:
    made = sets.commit(MemoryStore())
    step = Isolate("isolate-database", "Stop what the database sends", "database")
    plan = Plan("restore-1", purpose, sets.INSTANCE, made.manifest.set_id, "host", (step,), "restore-1", "")
    events: list[Event] = []
    host = Told(**{"gitlab.yml": "production: {}"})
    site = Site(host, INSTALL, BackupSet(made.catalog, made.manifest), None, clock(0), events.append)
    journal = Journal(tmp_path / "restore-1.jsonl")
    if purpose == "drill":
        with pytest.raises(RestoreFailed, match="mail from GitLab is on"):
            execute(plan, site, journal)
    else:
        execute(plan, site, journal)
        assert "mail from GitLab is on" in notices(events)["not-isolated"].message


def removal(catalog: Catalog, set_id: str) -> Removal:
    """All of a set, as a prune would take it away."""
    keys = [info.key for info in catalog.store.list(catalog.key(set_id, ""))]
    return Removal(set_id, ("old",), (), tuple(sorted(keys, reverse=True)), 0, begun=False)
