"""What a target tells about restores: its mark, its lock, and the copies of what it held before."""

from __future__ import annotations

import gzip
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drtool import restore
from drtool.core.marker import MARKER, Marker, parse_marker, render_marker
from drtool.errors import Busy, DrtoolError, HostUnfit, ResumeError, TargetHoldsData
from drtool.holding import only_restore_onto
from drtool.hosts.local import LocalRunner
from drtool.journal import journals
from drtool.restore_plan import Wanted
from drtool.signing import Signer
from drtool.stores.faults import Crash
from drtool.stores.memory import MemoryStore
from drtool.undo import find_restore, forget, prepare_undo
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
    (host.etc / "gitlab-secrets.json").write_text('{"target": "own"}\n')
    (host.restored / "db").mkdir(parents=True)
    (host.restored / "db/older").write_text("older data\n")
    return host


def place(bench: Bench, set_id: str, runner: FaultyRunner | LocalRunner | None = None) -> restore.Place:
    runner = runner or LocalRunner()
    signer = Signer(bench.signing_key, runner)
    return restore.Place(
        runner, bench.open(set_id), signer, bench.state, bench.clock, bench.events.append, bench._token, "here"
    )


def request(target: ToyHost, *, anew: bool = False, resume: str | None = None) -> restore.Request:
    return restore.Request(INSTANCE, target.install, Wanted(count=False, replace=HOSTNAME), resume, anew)


def mark(bench: Bench, target: ToyHost, **changes: object) -> Marker:
    """Leave the mark of somebody else's restore on a host."""
    fields: dict[str, object] = {
        "run_id": "restore-20260101T000000Z-aaaa",
        "set_id": "20251231T031500Z-bbbb",
        "started_at": bench.clock.now(),
        "by": "another-machine",
        "phase": "replacing",
        "copies": "restore-20260101T000000Z-aaaa",
        "had_data": True,
        **changes,
    }
    marker = Marker(**fields)  # type: ignore[arg-type]  # a test says which
    (target.backups / MARKER).write_text(render_marker(marker))
    return marker


def found_mark(target: ToyHost) -> Marker:
    return parse_marker((target.backups / MARKER).read_bytes())


def die_before(bench: Bench, target: ToyHost, set_id: str, words: str) -> str:
    """Let a restore die right before the first command with these words; return the run."""

    runner = FaultyRunner(LocalRunner())
    runner.fail_on(words, Crash())
    with pytest.raises(Crash):
        bench.restore(target, set_id, runner=runner, replace=HOSTNAME)
    return journals(bench.state, "restore-")[-1].run_id


def test_a_finished_restore_leaves_no_mark_and_keeps_what_it_replaced(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    outcome = bench.restore(target, set_id, replace=HOSTNAME)

    assert not (target.backups / MARKER).exists()
    kept = target.etc / "config_backup" / f"drtool-{outcome.run_id}.tar.gz"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert b'{"target": "own"}' in gzip.decompress(kept.read_bytes())


def test_an_unfinished_restore_is_told_by_backup_and_by_the_next_restore(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    run_id = die_before(bench, target, set_id, "gitlab-backup restore")
    bench.host = target

    with pytest.raises(HostUnfit, match=run_id):
        bench.back_up()
    assert found_mark(target).phase == "replacing"


def test_a_restore_that_replaced_nothing_yet_says_so(bench: Bench, target: ToyHost, set_id: str) -> None:
    die_before(bench, target, set_id, "gitlab-backup create")

    assert found_mark(target).phase == "staging"


def test_a_target_that_somebody_else_half_restored_is_replaced_only_on_request_and_its_first_copies_are_kept(
    bench: Bench, target: ToyHost, set_id: str
) -> None:
    marker = mark(bench, target)

    with pytest.raises(TargetHoldsData, match="restore-20260101T000000Z-aaaa"):
        bench.restore(target, set_id)
    assert found_mark(target) == marker

    runner = FaultyRunner(LocalRunner())
    outcome = bench.restore(target, set_id, runner=runner, replace=HOSTNAME)

    assert not [call for call in runner.calls if "gitlab-backup create" in str(call.command)]
    assert find_restore(bench.state, outcome.run_id).copies == marker.copies


def test_a_mark_of_a_restore_that_replaced_nothing_stands_in_nobodys_way(
    bench: Bench, tmp_path: Path, set_id: str
) -> None:
    empty = ToyHost(tmp_path / "empty")
    mark(bench, empty, phase="staging", had_data=False)

    bench.restore(empty, set_id)

    assert not (empty.backups / MARKER).exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run_id": 1}', "\x00"])
def test_a_mark_that_cannot_be_read_is_not_overlooked(bench: Bench, target: ToyHost, set_id: str, content: str) -> None:
    (target.backups / MARKER).write_text(content)

    with pytest.raises(HostUnfit, match="its mark cannot be read"):
        bench.restore(target, set_id, replace=HOSTNAME)


def test_a_run_is_not_taken_up_on_another_machine_of_the_same_name(
    bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    run_id = die_before(bench, target, set_id, "gitlab-backup create")
    other = ToyHost(tmp_path / "other")

    with pytest.raises(ResumeError, match="mark"):
        bench.restore(other, set_id, resume=run_id)
    outcome = bench.restore(other, set_id)

    assert outcome.run_id != run_id
    assert not outcome.resumed


def test_a_run_is_begun_anew_on_request(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = die_before(bench, target, set_id, "gitlab-backup restore")
    wanted, where = request(target, anew=True), place(bench, set_id)

    outcome = restore.carry_out(restore.prepare(wanted, where), wanted, where)

    assert outcome.run_id != run_id
    assert find_restore(bench.state, outcome.run_id).copies == run_id


def test_two_restores_at_once_are_one_too_many(bench: Bench, target: ToyHost, set_id: str) -> None:
    with (
        only_restore_onto(LocalRunner(), target.install, "restore-1 (another machine)"),
        pytest.raises(Busy, match=r"restore-1 \(another machine\)"),
    ):
        bench.restore(target, set_id, replace=HOSTNAME)

    bench.restore(target, set_id, replace=HOSTNAME)


HOLD = """
import sys, time
from pathlib import PurePosixPath
from drtool.holding import only_restore_onto
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
with only_restore_onto(LocalRunner(), Omnibus(PurePosixPath(sys.argv[1])), "a run that dies"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_restore_needs_nobody(bench: Bench, target: ToyHost, set_id: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)

    bench.restore(target, set_id, replace=HOSTNAME)


def test_the_lock_of_a_restore_outlasts_a_long_step_and_not_a_silent_line(target: ToyHost) -> None:
    """A run that lives tells so; one that was stopped in the middle is what a line looks like that went silent."""
    first = "restore-1 (another machine)"
    program = HOLD.replace('"a run that dies"', f'"{first}", silence=timedelta(seconds=2)')
    program = program.replace("import sys, time", "import sys, time\nfrom datetime import timedelta")
    with subprocess.Popen([sys.executable, "-c", program, str(target.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        time.sleep(4)
        with pytest.raises(Busy, match="restore-1"), only_restore_onto(LocalRunner(), target.install, "restore-2"):
            pass
        holder.send_signal(signal.SIGSTOP)
        try:
            _await_lock(target)
        finally:
            holder.kill()


def _await_lock(target: ToyHost) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with only_restore_onto(LocalRunner(), target.install, "restore-2 (this machine)"):
                return
        except Busy:
            assert time.monotonic() < deadline
            time.sleep(0.2)


# -- undoing ---------------------------------------------------------------------------------------------------------


def undo(bench: Bench, target: ToyHost, run_id: str, runner: FaultyRunner | None = None) -> restore.Outcome:
    restored = find_restore(bench.state, run_id)
    where, wanted = place(bench, restored.set_id, runner), request(target)
    outcome = restore.carry_out(prepare_undo(restored, wanted, where), wanted, where)
    forget(restored, where)
    return outcome


def is_undone(target: ToyHost) -> None:
    assert (target.etc / "gitlab-secrets.json").read_text() == '{"target": "own"}\n'
    assert not (target.etc / "added").exists()
    assert target.staged() == []
    assert not (target.backups / MARKER).exists()
    assert {path.read_text() for path in target.services.iterdir()} == {"run\n"}


def test_undo_brings_back_what_was_there(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    (target.etc / "added").write_text("by the set\n")
    (target.restored / "db/newer").write_text("of the set\n")
    runner = FaultyRunner(LocalRunner())

    undo(bench, target, run_id, runner)

    is_undone(target)
    assert not (target.restored / "db/newer").exists()
    assert any("BACKUP=drtool-safety-" in str(call.command) for call in runner.calls)


def test_undo_that_dies_at_any_command_converges(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = die_before(bench, target, set_id, "gitlab-rake gitlab:check")
    number = 0
    while True:
        number += 1
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(number, "before", Crash())
        try:
            undo(bench, target, run_id, runner)
        except Crash:
            undo(bench, target, run_id)
            is_undone(target)
        else:
            break
    assert number > 15


def test_an_undone_restore_is_not_taken_up_again(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = die_before(bench, target, set_id, "gitlab-backup restore")
    undo(bench, target, run_id)

    outcome = bench.restore(target, set_id, replace=HOSTNAME)

    assert outcome.run_id != run_id
    assert not outcome.resumed


def test_undo_without_copies_says_so_and_touches_nothing(bench: Bench, set_id: str, tmp_path: Path) -> None:
    empty = ToyHost(tmp_path / "empty")
    run_id = bench.restore(empty, set_id).run_id
    before = empty.census()

    with pytest.raises(HostUnfit, match="no copy"):
        undo(bench, empty, run_id)
    assert empty.census() == before


@pytest.mark.parametrize("lost", ["config", "backup"])
def test_undo_reads_its_copies_before_it_replaces_anything(
    bench: Bench, target: ToyHost, set_id: str, lost: str
) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    copies = {
        "config": target.etc / "config_backup" / f"drtool-{run_id}.tar.gz",
        "backup": next(target.backups.glob("drtool-safety-*_gitlab_backup.tar")),
    }
    whole = copies[lost].read_bytes()
    copies[lost].write_bytes(whole[: len(whole) // 3])
    before = target.census()

    with pytest.raises(DrtoolError):
        undo(bench, target, run_id)
    assert target.census() == before


def test_undo_of_another_restore_than_the_one_under_way_is_refused(bench: Bench, target: ToyHost, set_id: str) -> None:
    run_id = bench.restore(target, set_id, replace=HOSTNAME).run_id
    mark(bench, target)

    with pytest.raises(HostUnfit, match="aaaa"):
        undo(bench, target, run_id)


def test_undo_of_a_run_that_nobody_knows_says_where_to_look(bench: Bench) -> None:
    with pytest.raises(ResumeError, match="restore-20260101T000000Z-aaaa"):
        find_restore(bench.state, "restore-20260101T000000Z-aaaa")
