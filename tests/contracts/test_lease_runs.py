"""What holds the lease: a backup of another host waits, a copy and a prune stop when it is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from drtool.catalog import Catalog
from drtool.claims import Terms
from drtool.clock import SystemClock
from drtool.copy import copy
from drtool.errors import Busy
from drtool.events import ignore
from drtool.lease import LeaseLost, leased
from drtool.stores import ObjectInfo
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.oss_server import OssServer
from tests.toyhost import INSTANCE, make_bench

NOW = Terms(patience=timedelta(0), settle=timedelta(0))


class Overtaken(MemoryStore):
    """A store in which another run takes over before the first key with this in its name is put."""

    before = "nothing"

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        if self.before in key:
            self.before = "nothing"
            claim = {"host": "another", "purpose": "a backup", "process": 1, "identity": "x", "time_to_live": 1}
            text = json.dumps({**claim, "at": "2026-01-13T03:15:00"}).encode()
            instance = key.partition("/")[0]
            Catalog(self, instance).put_bytes(f"{instance}/lease/000000000099", text)
        return super().put(key, source, size_hint=size_hint, lock_until=lock_until, only_if_absent=only_if_absent)


def test_backup_waits_for_the_run_of_another_host_and_names_it(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "bench", MemoryStore())
    terms = Terms(time_to_live=timedelta(hours=1))  # the bench's clock runs when it waits, the holder's does not
    with (
        leased(bench.catalog(), tmp_path / "other", purpose="a prune", clock=SystemClock(), emit=ignore, terms=terms),
        pytest.raises(Busy, match=r"a prune on .* is at work"),
    ):
        bench.back_up()
    assert bench.catalog().set_ids() == []
    assert bench.host.staged() == []

    set_id = bench.back_up().manifest.set_id
    assert bench.catalog().set_ids() == [set_id]


@pytest.mark.parametrize("before", ["config-", "manifest.json.sig"])
def test_backup_that_was_overtaken_commits_nothing_and_is_continued_later(before: str, tmp_path: Path) -> None:
    store = Overtaken()
    bench = make_bench(tmp_path / "bench", store)
    store.before = before

    with pytest.raises(LeaseLost, match="it was taken over by a backup on another"):
        bench.back_up()
    assert bench.catalog().set_ids() == []

    store.delete([f"{INSTANCE}/lease/000000000099"])  # it ended long ago: its time to live is another test's
    outcome = bench.back_up()
    assert outcome.continued
    assert bench.problems(outcome.manifest.set_id) == []


def test_copy_that_was_overtaken_is_no_set(tmp_path: Path) -> None:
    committed, store = sets.commit(MemoryStore()), Overtaken()
    store.before = "manifest.json.sig"
    target = Catalog(store, sets.INSTANCE)
    with (
        pytest.raises(LeaseLost),
        leased(target, tmp_path, purpose="a copy", clock=SystemClock(), emit=ignore, terms=NOW) as held,
    ):
        copy(committed.open(), held, clock=sets.StillClock(), emit=ignore)
    assert target.set_ids() == []


# Where nothing may be replaced or deleted


@pytest.fixture
def oss(oss_http: OssServer) -> Iterator[Callable[[], OssServer]]:
    oss_http.reset()
    yield lambda: oss_http
    oss_http.reset()


def test_lease_is_kept_where_a_retention_policy_lets_nothing_be_replaced(
    oss: Callable[[], OssServer], tmp_path: Path
) -> None:
    client = oss().store().client
    client.complete_bucket_worm(client.init_bucket_worm(1).worm_id)
    terms = Terms(
        time_to_live=timedelta(seconds=3),
        sure_for=timedelta(seconds=2),
        beat=timedelta(milliseconds=200),
        patience=timedelta(seconds=1),
        poll=timedelta(milliseconds=300),
    )
    catalog = Catalog(oss().store(), INSTANCE)
    with leased(catalog, tmp_path / "one", purpose="a backup", clock=SystemClock(), emit=ignore, terms=terms) as held:
        time.sleep(2.5)
        held.fence.check_now()
        with (
            pytest.raises(Busy, match=r"a backup on .* is at work"),
            leased(catalog, tmp_path / "two", purpose="a prune", clock=SystemClock(), emit=ignore, terms=terms),
        ):
            pass
    names = [info.key.rpartition("/")[2] for info in catalog.store.list(catalog.lease_folder)]
    assert "000000000001-alive-2" in names
    assert "000000000001-released" in [name[:21] for name in names]
    with leased(catalog, tmp_path / "two", purpose="a prune", clock=SystemClock(), emit=ignore, terms=terms):
        pass
