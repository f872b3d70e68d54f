"""What a restore must never do: replace before it has proof, or overwrite a host that went back to work."""

from __future__ import annotations

import platform
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.errors import BucketMissing, ResumeError, SetDamaged, TargetHoldsData
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal, journals
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.runners import FaultyRunner
from tests.toyhost import Bench, ToyHost, make_bench

HOSTNAME = platform.node()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path / "source", MemoryStore())


@pytest.fixture
def set_id(bench: Bench) -> str:
    return bench.back_up().manifest.set_id


@pytest.fixture
def target(tmp_path: Path) -> ToyHost:
    host = ToyHost(tmp_path / "target")
    (host.etc / "gitlab-secrets.json").write_text('{"target": "own"}\n')
    return host


def _interrupted(bench: Bench, target: ToyHost, set_id: str, program: str) -> Journal:
    """Let a restore die right before the first run of a program."""
    counting = FaultyRunner(LocalRunner())
    probe = ToyHost(target.root.with_name("probe"))
    bench.restore(probe, set_id, runner=counting)
    number = next(place for place, call in enumerate(counting.calls, 1) if program in str(call.command))
    for journal in journals(bench.state, "restore-"):
        journal.path.unlink()
    runner = FaultyRunner(LocalRunner())
    runner.fail_at(number, "before", Crash())
    with pytest.raises(Crash):
        bench.restore(target, set_id, runner=runner)
    (journal,) = journals(bench.state, "restore-")
    return journal


def _put_to_work(target: ToyHost) -> None:
    (target.restored / "db").mkdir(parents=True, exist_ok=True)
    (target.restored / "db/newer").write_text("what people did meanwhile\n")


def test_a_damaged_configuration_replaces_nothing_on_the_target(bench: Bench, target: ToyHost, set_id: str) -> None:
    (key,) = (info.key for info in bench.store.list("") if "/config-" in info.key)
    whole = sets.content(bench.store, key)
    sets.replace(bench.store, key, whole[:-1] + bytes([whole[-1] ^ 1]))
    before = target.census()

    with pytest.raises(SetDamaged, match="config-0000"):
        bench.restore(target, set_id)

    assert target.census() == before
    assert (target.etc / "gitlab-secrets.json").read_text() == '{"target": "own"}\n'


def test_an_interrupted_restore_is_not_taken_up_onto_a_host_that_was_put_to_work_before_gitlab_restored(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    _interrupted(bench, target, set_id, "config_backup")
    _put_to_work(target)

    with pytest.raises(TargetHoldsData, match=HOSTNAME):
        bench.restore(target, set_id)

    assert (target.restored / "db/newer").exists()


def test_a_forgotten_journal_does_not_overwrite_a_host_that_went_back_to_work(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    journal = _interrupted(bench, target, set_id, "gitlab-backup restore")
    _put_to_work(target)
    bench.clock.advance(timedelta(days=1, minutes=1))

    with pytest.raises(TargetHoldsData):
        bench.restore(target, set_id)
    assert (target.restored / "db/newer").exists()

    bench.restore(target, set_id, resume=journal.run_id)  # said in so many words
    assert not (target.restored / "db/newer").exists()


def test_a_journal_of_another_drtool_does_not_stand_in_the_way_once_its_run_has_ended(
    bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    bench.restore(target, set_id)
    (journal,) = journals(bench.state, "restore-")
    journal.path.write_text(journal.path.read_text().replace('\\"kind\\":\\"prove\\"', '\\"kind\\":\\"older\\"'))

    bench.restore(ToyHost(tmp_path / "another"), set_id)


def test_an_unfinished_journal_of_another_drtool_says_what_to_do_with_it(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    journal = _interrupted(bench, target, set_id, "gitlab-backup restore")
    journal.path.write_text(journal.path.read_text().replace('\\"kind\\":\\"prove\\"', '\\"kind\\":\\"older\\"'))

    with pytest.raises(ResumeError, match=journal.path.name) as raised:
        bench.restore(target, set_id, resume=journal.run_id)
    assert "Move the file away" in raised.value.hint


def test_a_store_that_is_not_there_is_noticed_before_gitlab_writes_its_backup(bench: Bench) -> None:
    store = FaultyStore(bench.store)
    store.fail_at(1, "before", BucketMissing("it is not there"), method="stat")
    runner = FaultyRunner(LocalRunner())

    with pytest.raises(BucketMissing):
        bench.back_up(runner=runner, store=store)

    assert not [call for call in runner.calls if "create" in str(call.command)]
