"""The lease on real stores, between real processes: one at a time, and whoever dies is followed by the next."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from drtool.catalog import Catalog
from drtool.claims import Terms
from drtool.clock import SystemClock
from drtool.core.model import Manifest
from drtool.errors import Busy, ObjectMissing, StoreTransient
from drtool.events import Event as Told
from drtool.events import Waiting, ignore
from drtool.lease import LeaseLost, leased
from drtool.stores import Store
from drtool.stores.faults import FaultyStore
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.servers import S3Server

QUICK = Terms(
    time_to_live=timedelta(seconds=4),
    sure_for=timedelta(seconds=2),
    beat=timedelta(milliseconds=300),
    patience=timedelta(seconds=40),
    poll=timedelta(milliseconds=100),
    settle=timedelta(milliseconds=50),
)
IMPATIENT = Terms(patience=timedelta(0), settle=timedelta(0))
_FORK = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Opened:
    """How another process opens the same store."""

    kind: str
    where: str
    conditional_put: bool = True

    def store(self) -> Store:
        if self.kind == "local":
            return LocalStore(Path(self.where))
        from drtool.stores.s3 import S3Store
        from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY

        return S3Store(
            BUCKET,
            prefix=f"lease-{os.path.basename(self.where)}",
            endpoint=self.where.rpartition("/")[0],
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            conditional_put=self.conditional_put,
        )


@pytest.fixture(
    params=[
        "local",
        pytest.param("s3", marks=pytest.mark.engine("seaweedfs")),
        pytest.param("s3-unconditional", marks=pytest.mark.engine("seaweedfs")),
    ]
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    if request.param == "local":
        (tmp_path / "store").mkdir()
        return Opened("local", str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_http")
    return Opened("s3", f"{server.endpoint}/{os.urandom(4).hex()}", request.param == "s3")


def _count_up(opened: Opened, state: Path, times: int) -> None:
    """Read a number and write one more, which two at once would get wrong."""
    for _ in range(times):
        catalog = Catalog(opened.store(), "gitlab")
        with leased(catalog, state, purpose="a count", clock=SystemClock(), emit=ignore, terms=QUICK) as held:
            try:
                number = int(held.read_bytes("gitlab/number"))
            except ObjectMissing:
                number = 0
            time.sleep(0.05)
            held.fence.check_now()
            held.put_bytes("gitlab/number", str(number + 1).encode())


def _hold(opened: Opened, state: Path, has_it: Event) -> None:
    catalog = Catalog(opened.store(), "gitlab")
    with leased(catalog, state, purpose="a backup", clock=SystemClock(), emit=ignore, terms=QUICK):
        has_it.set()
        time.sleep(600)


def test_lease_lets_one_of_two_processes_write_at_a_time(opened: Opened, tmp_path: Path) -> None:
    workers = [_FORK.Process(target=_count_up, args=(opened, tmp_path / f"state-{name}", 4)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert Catalog(opened.store(), "gitlab").read_bytes("gitlab/number") == b"8"


@pytest.fixture
def holding(opened: Opened, tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Start another process that holds the lease, as a run on another host does; gives its id."""
    has_it = _FORK.Event()
    worker = _FORK.Process(target=_hold, args=(opened, tmp_path / "state-other", has_it))
    worker.start()
    assert has_it.wait(60)
    assert worker.pid
    pid = worker.pid
    yield lambda: pid
    worker.kill()
    worker.join()


def _take(opened: Opened, state: Path, terms: Terms, told: Callable[[Told], None] = ignore) -> list[str]:
    catalog = Catalog(opened.store(), "gitlab")
    with leased(catalog, state, purpose="a prune", clock=SystemClock(), emit=told, terms=terms) as held:
        held.fence.check_now()
        return [info.key.rpartition("/")[2] for info in held.store.list(held.lease_folder)]


def test_lease_of_a_killed_process_ends_by_itself(opened: Opened, holding: Callable[[], int], tmp_path: Path) -> None:
    os.kill(holding(), signal.SIGKILL)
    names = _take(opened, tmp_path / "state", QUICK)
    assert any(name.startswith("000000000002") for name in names)


def test_lease_of_a_living_process_is_waited_for_and_named(
    opened: Opened, holding: Callable[[], int], tmp_path: Path
) -> None:
    told: list[Told] = []
    terms = Terms(patience=timedelta(seconds=6), poll=timedelta(seconds=1), time_to_live=timedelta(seconds=4))
    with pytest.raises(Busy, match=rf"a backup on .* \(process {holding()}, since .*Z\) is at work") as busy:
        _take(opened, tmp_path / "state", terms, told.append)
    assert not isinstance(busy.value, LeaseLost)
    assert len([event for event in told if isinstance(event, Waiting)]) >= 3


def test_lease_of_a_dead_run_under_the_same_state_directory_is_not_waited_for(
    opened: Opened, holding: Callable[[], int], tmp_path: Path
) -> None:
    os.kill(holding(), signal.SIGKILL)
    time.sleep(0.5)  # the kernel lets go of its lock
    _take(opened, tmp_path / "state-other", IMPATIENT)


def test_lease_that_a_stopped_process_lost_keeps_it_from_committing(opened: Opened, tmp_path: Path) -> None:
    """It slept through everything, as a machine does that was suspended, and believes in itself."""
    catalog = Catalog(opened.store(), sets.INSTANCE)
    committed = sets.commit(MemoryStore())
    commit = committed.catalog.read_commit(committed.manifest.set_id)
    forgetful = Terms(time_to_live=timedelta(seconds=2), sure_for=timedelta(hours=1), beat=timedelta(hours=1))
    with leased(
        catalog, tmp_path / "sleeper", purpose="a backup", clock=SystemClock(), emit=ignore, terms=forgetful
    ) as sleeper:
        _take_after(opened, tmp_path, timedelta(seconds=3))
        with pytest.raises(LeaseLost, match="it was taken over by a prune on"):
            sleeper.put_commit(committed.manifest.set_id, commit)
    assert catalog.set_ids() == []


def _take_after(opened: Opened, tmp_path: Path, wait: timedelta) -> None:
    time.sleep(wait.total_seconds())
    terms = Terms(time_to_live=timedelta(seconds=2), patience=timedelta(seconds=20), poll=timedelta(milliseconds=200))
    catalog = Catalog(opened.store(), sets.INSTANCE)
    with leased(catalog, tmp_path / "next", purpose="a prune", clock=SystemClock(), emit=ignore, terms=terms):
        pass


# What happens inside of one process


def _leased(store: Store, state: Path, terms: Terms = IMPATIENT) -> Catalog:
    catalog = Catalog(store, sets.INSTANCE)
    with leased(catalog, state, purpose="a backup", clock=SystemClock(), emit=ignore, terms=terms) as held:
        return held


def test_lease_writes_three_objects_and_deletes_none(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    for _ in range(3):
        _leased(store, tmp_path / "state")
    assert {call.method for call in store.calls} <= {"put", "list", "open"}
    assert [info.key for info in store.list("")] == [
        f"gitlab/lease/00000000000{number}{what}" for number in (1, 2, 3) for what in ("", "-released")
    ]
    (claim, *_) = [info.key for info in store.list("")]
    with store.open(claim) as body:
        assert json.loads(body.read())["purpose"] == "a backup"


def test_lease_of_one_who_cannot_look_after_its_claim_is_released(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    store.fail_at(2, "before", StoreTransient("gone"), method="list")
    with pytest.raises(StoreTransient):
        _leased(store, tmp_path / "state")
    _leased(store, tmp_path / "another-host")  # without waiting


def test_lease_that_cannot_be_released_fails_no_work(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    store.fail_at(2, "before", StoreTransient("gone"), method="put")
    _leased(store, tmp_path / "state")
    assert store.fired


def test_lease_whose_heartbeats_fail_stops_the_work_at_its_next_safe_point(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    for nth in range(2, 40):
        store.fail_at(nth, "before", StoreTransient("no route"), method="put")
    terms = Terms(sure_for=timedelta(seconds=1), beat=timedelta(milliseconds=100))
    catalog = Catalog(store, sets.INSTANCE)
    with leased(catalog, tmp_path, purpose="a backup", clock=SystemClock(), emit=ignore, terms=terms) as held:
        held.fence.check()
        time.sleep(1.2)
        with pytest.raises(LeaseLost, match="no heartbeat came through for 1 seconds: no route"):
            held.fence.check()
        with pytest.raises(LeaseLost):
            held.put_index(sets.SET_ID, {}, ())


def test_lease_stays_while_single_heartbeats_fail(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    for nth in (2, 3, 5, 6):
        store.fail_at(nth, "before", StoreTransient("no route"), method="put")
    terms = Terms(sure_for=timedelta(seconds=1), beat=timedelta(milliseconds=100))
    catalog = Catalog(store, sets.INSTANCE)
    with leased(catalog, tmp_path, purpose="a backup", clock=SystemClock(), emit=ignore, terms=terms) as held:
        time.sleep(1.5)
        held.fence.check_now()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"time_to_live": 1e308}', b"[" * 100_000])
def test_lease_with_words_that_nobody_understands_still_ends(text: bytes, tmp_path: Path) -> None:
    store = MemoryStore()
    Catalog(store, sets.INSTANCE).put_bytes("gitlab/lease/000000000007", text)
    Catalog(store, sets.INSTANCE).put_bytes("gitlab/lease/by-hand.txt", b"somebody's note")
    with pytest.raises(Busy, match="another run is at work"):
        _leased(store, tmp_path / "state")
    short = Terms(time_to_live=timedelta(seconds=1), patience=timedelta(seconds=20), poll=timedelta(milliseconds=100))
    _leased(store, tmp_path / "state", short)
    assert "gitlab/lease/000000000008" in [info.key for info in store.list("")]


def test_lease_of_one_instance_is_no_other_ones(tmp_path: Path) -> None:
    store = MemoryStore()
    with leased(
        Catalog(store, "gitlab"), tmp_path, purpose="a backup", clock=SystemClock(), emit=ignore, terms=IMPATIENT
    ):
        other = Catalog(store, "gitlab-eu")
        with leased(other, tmp_path, purpose="a backup", clock=SystemClock(), emit=ignore, terms=IMPATIENT):
            pass


def test_commit_without_a_lease_needs_none() -> None:
    committed: Manifest = sets.commit(MemoryStore()).manifest
    assert committed.verdict != "red"
