"""Every kind of step fails when the host, the store or the journal does not show what it must."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from drtool import restore
from drtool.core.census import Files, compare
from drtool.core.command import Command
from drtool.core.marker import parse_marker
from drtool.core.plan import Clone, Compare, Expect, Plan, Prove, Run, Send, Step, Wait
from drtool.counting import as_a_backup_would
from drtool.engine import Site, execute
from drtool.errors import Busy, CommandFailed, DrtoolError, HostUnfit, RestoreFailed, ResumeError, SetDamaged
from drtool.holding import only_restore_onto
from drtool.hosts.local import LocalRunner
from drtool.journal import new_journal
from drtool.report import restored_text
from drtool.restore_plan import Wanted
from drtool.stores.memory import MemoryStore
from tests.runners import FaultyRunner
from tests.toyhost import INSTANCE, Bench, ToyHost, make_bench

FAILING = Command(("false",))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, str]:
    bench = make_bench(tmp_path_factory.mktemp("steps") / "source", MemoryStore())
    return bench, bench.back_up().manifest.set_id


@pytest.fixture
def bench(source: tuple[Bench, str]) -> Bench:
    return source[0]


@pytest.fixture
def set_id(source: tuple[Bench, str]) -> str:
    return source[1]


@pytest.fixture
def target(tmp_path: Path) -> ToyHost:
    host = ToyHost(tmp_path / "target")
    Path(host.install.repositories_path).mkdir(parents=True)
    return host


def do(step: Step, bench: Bench, target: ToyHost, set_id: str, tmp_path: Path, *, started: bool = False) -> None:
    """Let the engine do a plan of this one step."""
    plan = Plan("restore-20260113T031500Z-0001", "restore", INSTANCE, set_id, "local", (step,), "", "main")
    journal = new_journal(tmp_path / "state", plan.run_id)
    if started:
        journal.append("started", step=step.name, at=bench.clock.now().isoformat())
    site = Site(LocalRunner(), target.install, bench.open(set_id), None, bench.clock, bench.events.append)
    execute(plan, site, journal)


STEPS: dict[str, tuple[Step, type[DrtoolError], str]] = {
    "a command": (Run("run", "Run", (FAILING,)), CommandFailed, "false"),
    "a wait": (
        Wait("wait", "Wait", FAILING, Expect.SUCCESS, timedelta(seconds=4)),
        HostUnfit,
        "not within 0:00:04: false",
    ),
    "a count": (Compare("compare", "Count"), RestoreFailed, "does not hold what the set does"),
    "a clone": (Clone("clone", "Clone", 5), RestoreFailed, "cannot be read by git"),
    "a fetch by a host without a key": (
        Send("stage", "Stage", "application", (), FAILING, PurePosixPath("/nowhere"), via="signed-url"),
        ResumeError,
        "--via signed-url",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_step_that_does_not_show_what_it_must_ends_the_run(
    name: str, bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    step, error, said = STEPS[name]
    with pytest.raises(error, match=said):
        do(step, bench, target, set_id, tmp_path)


def test_proof_of_a_set_that_lacks_a_volume_ends_the_run(bench: Bench, target: ToyHost, tmp_path: Path) -> None:
    set_id = bench.back_up().manifest.set_id
    bench.store.delete([next(info.key for info in bench.store.list("") if f"{set_id}/application-" in info.key)])

    with pytest.raises(SetDamaged):
        do(Prove("prove", "Prove"), bench, target, set_id, tmp_path)


def test_step_that_must_not_be_done_twice_is_not_done_twice(
    bench: Bench, target: ToyHost, set_id: str, tmp_path: Path
) -> None:
    step = Run("once", "Once", (Command(("touch", str(tmp_path / "done"))),), repeatable=False)

    with pytest.raises(ResumeError, match="inside 'once'"):
        do(step, bench, target, set_id, tmp_path, started=True)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"run_id": 1}'])
def test_mark_that_cannot_be_read_is_no_mark_of_a_known_run(content: bytes) -> None:
    with pytest.raises(HostUnfit, match="cannot be read"):
        parse_marker(content)


def test_lock_of_a_target_is_for_one(target: ToyHost) -> None:
    """What flock says at once the runner is told; real holders are in test_restore_target."""
    runner = FaultyRunner(LocalRunner())
    runner.fail_at(2, error=CommandFailed("taken", status=75))
    lock = Path(target.install.restore_lock)
    lock.parent.mkdir()
    lock.write_text("restore-1 (there)\n")

    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # else the holder that was started overwrites what is to be told
        with pytest.raises(Busy, match=r"restore-1 \(there\)"), only_restore_onto(runner, target.install, "us"):
            pass


def test_run_that_nobody_began_is_not_taken_up(bench: Bench, target: ToyHost, set_id: str) -> None:
    request = restore.Request(INSTANCE, target.install, Wanted(count=False), resume="restore-20260101T000000Z-aaaa")
    place = restore.Place(
        LocalRunner(), bench.open(set_id), None, bench.state, bench.clock, bench.events.append, lambda: "0001"
    )
    with pytest.raises(ResumeError, match="no unfinished restore restore-20260101T000000Z-aaaa"):
        restore.prepare(request, place)


def test_files_of_a_component_that_is_switched_off_in_the_set_are_no_difference(bench: Bench, set_id: str) -> None:
    """GitLab's restore leaves them where they are, so that a count that minds them never ends well."""
    opened = bench.open(set_id)
    then = opened.read_census()
    now = replace(then, components={**then.components, "registry": Files(12, 3400)})

    assert compare(then, as_a_backup_would(now, then, opened.manifest.gitlab.disabled)) == ()
    assert compare(then, as_a_backup_would(now, then, ())) != ()


def test_restore_that_was_not_counted_says_so(bench: Bench, target: ToyHost, set_id: str) -> None:
    request = restore.Request(INSTANCE, target.install, Wanted(count=False))
    place = restore.Place(
        LocalRunner(), bench.open(set_id), None, bench.state, bench.clock, bench.events.append, lambda: "0001"
    )
    prepared = restore.prepare(request, place)
    outcome = restore.Outcome(prepared.plan.run_id, set_id, False, ())

    assert "was not counted" in restored_text(outcome, prepared, place.backup_set.manifest)


def test_lock_that_was_lost_on_the_way_is_noticed(target: ToyHost) -> None:
    runner = FaultyRunner(LocalRunner())
    with only_restore_onto(runner, target.install, "us") as still_held:
        still_held()
        runner.fail_at(len(runner.calls) + 1, error=CommandFailed("another host", status=1))
        with pytest.raises(CommandFailed, match="the lock of this restore is lost"):
            still_held()
