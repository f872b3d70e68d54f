"""A journal tells what a run did; only the host tells whether that is still so."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from drtool.errors import HostUnfit, TargetHoldsData
from drtool.hosts.local import LocalRunner
from drtool.stores.faults import Crash
from drtool.stores.memory import MemoryStore
from tests.faults.test_restore_target import die_before, undo
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
    """A host with data and a configuration of its own."""
    host = ToyHost(tmp_path / "target")
    hold_data(host, "older")
    (host.etc / "gitlab-secrets.json").write_text('{"target": "own"}\n')
    return host


def hold_data(host: ToyHost, name: str) -> None:
    (host.restored / "db").mkdir(parents=True, exist_ok=True)
    (host.restored / "db" / name).write_text(f"{name} data\n")


def die_in_undo(bench: Bench, target: ToyHost, run_id: str, words: str) -> None:
    runner = FaultyRunner(LocalRunner())
    runner.fail_on(words, Crash())
    with pytest.raises(Crash):
        undo(bench, target, run_id, runner)


# -- runs that had taken their mark off ------------------------------------------------------------------------------


def test_a_restore_that_lacked_only_its_receipt_is_not_taken_for_one_of_a_new_machine_of_that_name(
    bench: Bench, set_id: str, tmp_path: Path
) -> None:
    run_id = die_before(bench, ToyHost(tmp_path / "first"), set_id, "-Y sign")
    second = ToyHost(tmp_path / "second")

    outcome = bench.restore(second, set_id)

    assert outcome.run_id != run_id
    assert (second.restored / "db").exists()


def test_a_restore_that_lacked_only_its_receipt_is_taken_up_where_it_was(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    run_id = die_before(bench, target, set_id, "-Y sign")

    assert bench.restore(target, set_id).run_id == run_id


def test_a_restore_that_lacked_only_its_receipt_is_over_once_another_set_was_restored(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    die_before(bench, target, set_id, "-Y sign")
    later = bench.back_up().manifest.set_id
    bench.restore(target, later, replace=HOSTNAME)

    with pytest.raises(TargetHoldsData):
        bench.restore(target, set_id)


@pytest.mark.parametrize("words", ["gitlab-healthcheck", "-Y sign"], ids=["marked", "unmarked"])
def test_an_undo_that_broke_off_is_over_once_another_set_was_restored(
    bench: Bench, target: ToyHost, set_id: str, words: str
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    die_in_undo(bench, target, run_id, words)
    later = bench.restore(target, bench.back_up().manifest.set_id, replace=HOSTNAME).run_id
    hold_data(target, "newer")

    undo(bench, target, later)

    assert not (target.restored / "db/newer").exists()


def test_an_undo_is_not_taken_up_on_another_machine_of_the_same_name(
    bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    die_in_undo(bench, target, run_id, "gitlab-healthcheck")

    with pytest.raises(HostUnfit, match="no copy"):
        undo(bench, ToyHost(tmp_path / "other"), run_id)


# -- what was agreed to, and what was asked --------------------------------------------------------------------------


def test_a_run_that_left_no_mark_yet_takes_its_consent_to_no_other_host(
    bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    die_before(bench, target, set_id, "mkdir --parents")  # it proved the set, and did nothing else
    other = ToyHost(tmp_path / "other")
    hold_data(other, "precious")

    with pytest.raises(TargetHoldsData):
        bench.restore(other, set_id)
