"""A journal tells what a run did; only the host tells whether that is still so."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from drtool import restore
from drtool.core.marker import MARKER
from drtool.errors import CommandFailed, HostUnfit, ResumeError, TargetHoldsData, VersionMismatch
from drtool.hosts.local import LocalRunner
from drtool.installs.isolation import hold_service
from drtool.restore_plan import Wanted
from drtool.stores.faults import Crash
from drtool.stores.memory import MemoryStore
from tests.faults.test_restore_target import die_before, found_mark, is_undone, place, undo
from tests.runners import FaultyRunner
from tests.toyhost import INSTANCE, Bench, ToyHost, make_bench

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


def test_a_run_that_was_begun_without_isolation_is_not_taken_up_as_an_isolated_one(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    die_before(bench, target, set_id, "gitlab-backup restore")
    wanted = Wanted(count=False, replace=HOSTNAME, isolate=True)

    with pytest.raises(ResumeError, match="--isolate"):
        restore.prepare(restore.Request(INSTANCE, target.install, wanted), place(bench, set_id))


def test_a_target_that_was_put_to_work_while_somebody_was_asked_is_not_replaced(
    bench: Bench, set_id: str, tmp_path: Path
) -> None:
    empty = ToyHost(tmp_path / "empty")
    wanted, where = restore.Request(INSTANCE, empty.install, Wanted(count=False)), place(bench, set_id)
    prepared = restore.prepare(wanted, where)
    hold_data(empty, "precious")

    with pytest.raises(HostUnfit, match="since it was looked at"):
        restore.carry_out(prepared, wanted, where)

    assert (empty.restored / "db/precious").exists()


# -- no run is stuck -------------------------------------------------------------------------------------------------


def no_database(host: ToyHost, *, unless: str) -> None:
    program = host.root / "opt/gitlab/bin/gitlab-psql"
    head, rest = program.read_text().split("\n", 1)
    program.write_text(f"{head}\n[ -e '{host.root / unless}' ] || exit 2\n{rest}")


def test_a_gitlab_that_was_installed_and_never_configured_is_an_empty_target_at_every_try(
    bench: Bench, set_id: str, tmp_path: Path
) -> None:
    fresh = ToyHost(tmp_path / "fresh")
    no_database(fresh, unless="reconfigured")
    runner = FaultyRunner(LocalRunner())
    runner.fail_on("gitlab-ctl reconfigure", Crash())
    with pytest.raises(Crash):
        bench.restore(fresh, set_id, runner=runner)

    bench.restore(fresh, set_id)

    assert (fresh.restored / "db").exists()


def test_a_restore_that_died_while_the_database_was_down_goes_on(bench: Bench, set_id: str, tmp_path: Path) -> None:
    empty = ToyHost(tmp_path / "empty")
    cluster = empty.root / "var/opt/gitlab/postgresql/data"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("17\n")
    runner = FaultyRunner(LocalRunner())
    runner.fail_on("gitlab-ctl reconfigure", Crash())
    with pytest.raises(Crash):
        bench.restore(empty, set_id, runner=runner)
    no_database(empty, unless="reconfigured")

    bench.restore(empty, set_id)

    assert (empty.restored / "db").exists()


@pytest.mark.parametrize("words", ["tar --directory", "gitlab-backup create", "config_backup"])
def test_undo_of_a_run_that_replaced_nothing_takes_its_traces_off(
    bench: Bench, target: ToyHost, set_id: str, words: str
) -> None:
    run_id = die_before(bench, target, set_id, words)
    before = target.census()
    Path(target.install.version_file).write_text("18.10.0-ee\n")  # people went on with it
    runner = FaultyRunner(LocalRunner())

    undo(bench, target, run_id, runner)

    assert target.census() == before
    assert target.staged() == []
    assert not [call for call in runner.calls if call.program in ("gitlab-ctl", "gitlab-backup")]


# -- undoing brings all of it back, or nothing -----------------------------------------------------------------------


def test_undo_onto_another_version_than_its_copies_are_of_is_refused_before_it_begins(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    Path(target.install.version_file).write_text("18.10.0-ee\n")
    before = target.census()

    with pytest.raises(VersionMismatch):
        undo(bench, target, run_id)

    assert target.census() == before
    assert not (target.backups / MARKER).exists()


def test_undo_brings_back_a_configuration_that_lies_elsewhere_behind_a_link(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    elsewhere = target.root / "srv/gitlab-config"
    elsewhere.parent.mkdir()
    target.etc.rename(elsewhere)
    target.etc.symlink_to(elsewhere)
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    assert (elsewhere / "gitlab-secrets.json").read_text() != '{"target": "own"}\n'
    (target.etc / "added").write_text("by the set\n")

    undo(bench, target, run_id)

    is_undone(target)
    assert target.etc.is_symlink()


def test_a_safety_copy_that_lies_elsewhere_than_undo_will_look_stops_the_restore(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    program = target.root / "opt/gitlab/bin/gitlab-backup"
    done = 'say "Backup $id is done."'
    program.write_text(program.read_text().replace(done, f'mv "$backups"/*.tar "$root"; {done}'))
    before = target.census()

    with pytest.raises(CommandFailed, match="drtool-safety-"):
        bench.restore(target, set_id, replace=HOSTNAME)

    assert target.census() == before


def test_undo_lets_start_with_the_host_what_an_isolated_restore_kept_from_it(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    runner = FaultyRunner(LocalRunner())

    undo(bench, target, run_id, runner)

    let_go = [hold_service(target.install, service)[1] for service in ("puma", "sidekiq")]
    assert [call.command for call in runner.calls if call.command in let_go] == let_go


def test_undo_removes_no_loose_members_that_are_somebody_elses(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    program = target.root / "opt/gitlab/bin/gitlab-backup"
    subprocess.run([program, "create", "BACKUP=mine", "SKIP=tar"], check=True, stdout=subprocess.DEVNULL)
    before = target.staged()

    with pytest.raises(HostUnfit, match="loose members of backup mine"):
        undo(bench, target, run_id)

    assert target.staged() == before


def test_loose_members_of_a_safety_copy_that_was_broken_off_are_in_nobodys_way(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    program = target.root / "opt/gitlab/bin/gitlab-backup"
    command = [str(program), "create", "BACKUP=drtool-safety-20260101T000000Z-aaaa", "SKIP=tar"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    bench.restore(target, set_id, replace=HOSTNAME)

    assert target.staged() == []


def test_a_host_that_another_run_half_replaced_stays_so_while_the_next_one_stages(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    first = die_before(bench, target, set_id, "gitlab-backup restore")
    later = bench.back_up().manifest.set_id

    second = die_before(bench, target, later, "tar --directory")

    assert found_mark(target).phase == "replacing"
    undo(bench, target, second)
    is_undone(target)
    assert first != second


def test_undo_without_the_copy_of_the_configuration_is_refused_before_it_begins(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    Path(target.install.kept_config(run_id)).unlink()
    before = target.census()

    with pytest.raises(HostUnfit, match="the copy of its configuration is not there"):
        undo(bench, target, run_id)

    assert target.census() == before
