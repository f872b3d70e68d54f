"""A backup that dies at any of its calls is finished, or made anew, by the same command (I2, I3, I5, I9)."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

import pytest

from drtool import backup
from drtool.core.command import Command
from drtool.errors import CommandFailed, DrtoolError, StoreFull, StoreTransient
from drtool.events import Waiting, ignore
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal, new_journal
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from drtool.verify import verify
from tests.runners import ENOUGH, WHENS, FaultyRunner, JournalFault, When, worth_dying_in
from tests.toyhost import INSTANCE, LOOSE, Bench, make_bench, read_members


class Trial:
    """One bench, whose backup is broken again and again; after each time the plain command must make it good."""

    def __init__(self, base: Path) -> None:
        self.bench = make_bench(base, MemoryStore())
        self.good = [self.bench.back_up().manifest.set_id]
        self.members = self._members(self.good[0])

    def converges(self) -> backup.Outcome:
        """Look at what the broken run left, then run the same command again: it must end well."""
        self._sets_are_whole()
        runner, store = FaultyRunner(LocalRunner()), FaultyStore(self.bench.store)
        outcome = self.bench.back_up(runner=runner, store=store)
        self.is_good(outcome.manifest.set_id)
        deletes_only_loose_members(self.bench, runner, store)
        return outcome

    def is_good(self, set_id: str) -> None:
        assert self.bench.problems(set_id) == []
        assert self._members(set_id) == self.members
        assert self.bench.host.staged() == []
        self._sets_are_whole()

    def _members(self, set_id: str) -> list[list[str]]:
        opened = self.bench.open(set_id)
        names = (read_members(opened, archive.name) for archive in opened.manifest.archives)
        return [[name.replace(set_id, "ID") for name in found] for found in names]

    def _sets_are_whole(self) -> None:
        """Every set that is listed verifies; none that was there is gone. Old ones are looked at by turns."""
        known = self.bench.catalog().set_ids()
        assert set(self.good) <= set(known)
        for set_id in (*(set(known) - set(self.good)), self.good[0], self.good[-1]):
            opened = self.bench.open(set_id)
            assert verify(opened, "digest", signed=True, clock=self.bench.clock, emit=ignore).problems == ()
        self.good = known


def deletes_only_loose_members(bench: Bench, runner: FaultyRunner, store: FaultyStore) -> None:
    assert not [call for call in store.calls if call.method == "delete"]
    for call in runner.calls:
        if call.program == "rm":
            operands = [PurePath(word) for word in call.command.argv[call.command.argv.index("--") + 1 :]]
            assert all(path.parent == PurePath(bench.host.backups) and path.name in LOOSE for path in operands)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path / "bench")


@pytest.mark.parametrize("when", ENOUGH)
def test_backup_that_dies_at_any_store_call_converges(trial: Trial, when: When) -> None:
    for nth in itertools.count(1):
        store = FaultyStore(trial.bench.store)
        store.fail_at(nth, when, Crash())
        died = _dies(partial(trial.bench.back_up, store=store))
        if not store.fired:
            break
        if died:  # after a call that failed by itself there is nothing to crash
            trial.converges()
    assert nth > 8


@pytest.mark.parametrize("when", ENOUGH)
def test_backup_that_dies_at_any_command_converges(trial: Trial, when: When) -> None:
    undisturbed = FaultyRunner(LocalRunner())
    trial.bench.back_up(runner=undisturbed)
    moments = worth_dying_in(undisturbed.calls, when)
    for nth in moments:
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, when, Crash())
        assert _dies(partial(trial.bench.back_up, runner=runner))
        deletes_only_loose_members(trial.bench, runner, FaultyStore(trial.bench.store))
        trial.converges()
    assert len(moments) > (12 if when == "after" else 4)
    again = FaultyRunner(LocalRunner())
    trial.bench.back_up(runner=again)
    assert [call.program for call in again.calls] == [call.program for call in undisturbed.calls]


@pytest.mark.parametrize("when", ENOUGH)
def test_backup_that_dies_at_any_line_of_its_journal_converges(trial: Trial, when: When) -> None:
    for nth in itertools.count(1):
        fault = JournalFault(nth, when)
        with fault.in_force():
            if not _dies(trial.bench.back_up):
                break
        trial.converges()
    assert nth > 7


@pytest.mark.parametrize("when", WHENS)
def test_backup_says_what_the_store_said_and_converges(trial: Trial, when: When) -> None:
    """One error that is tried again, and one that is not: in turn, beginning with either at some ``when``."""
    errors = itertools.cycle([StoreFull("the store is full"), StoreTransient("the line is dead")])
    if when == "during":
        next(errors)
    for nth in itertools.count(1):
        error, store = next(errors), FaultyStore(trial.bench.store)
        store.fail_at(nth, when, error)
        try:
            outcome = trial.bench.back_up(store=store)
        except type(error) as raised:
            assert raised is error
            trial.converges()
            continue
        trial.is_good(outcome.manifest.set_id)
        if not store.fired:
            break
    assert nth > 8


@pytest.mark.parametrize("when", ENOUGH)
def test_backup_is_an_error_or_complete_whatever_command_fails(trial: Trial, when: When) -> None:
    failed = 0
    for nth in itertools.count(1):
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, when, CommandFailed("the host says no", status=1))
        try:
            outcome = trial.bench.back_up(runner=runner)
        except DrtoolError:
            failed += 1
            trial.converges()
            continue
        trial.is_good(outcome.manifest.set_id)
        if not runner.fired:
            break
    assert failed > 8


def test_backup_that_dies_twice_in_its_commit_hurts_no_set(trial: Trial) -> None:
    """The second run meets a set whose manifest is stored already, and must not write into it."""
    for first, second in itertools.product(range(8, 11), range(6, 13)):
        for nth in (first, second):
            store = FaultyStore(trial.bench.store)
            store.fail_at(nth, "after", Crash())
            _dies(partial(trial.bench.back_up, store=store))
        trial.converges()


def test_interrupted_backup_is_continued_and_sends_no_volume_twice(trial: Trial) -> None:
    broken = FaultyStore(trial.bench.store)
    broken.fail_at(6, "before", Crash(), method="put")  # after the lease and the application's four volumes
    assert _dies(lambda: trial.bench.back_up(store=broken))
    sent = [call.key for call in broken.calls if call.method == "put"][1:5]
    assert all("application" in key for key in sent)
    runner, store = FaultyRunner(LocalRunner()), FaultyStore(trial.bench.store)
    outcome = trial.bench.back_up(runner=runner, store=store)
    assert outcome.continued
    assert "gitlab-backup" not in [call.program for call in runner.calls]
    assert not [call for call in store.calls if call.method == "put" and call.key in sent]
    trial.is_good(outcome.manifest.set_id)


def test_backup_is_not_continued_with_other_staged_bytes(trial: Trial) -> None:
    broken = FaultyStore(trial.bench.store)
    broken.fail_at(5, "before", Crash())
    assert _dies(lambda: trial.bench.back_up(store=broken))
    staged = trial.bench.host.backups / "uploads.tar.gz"
    staged.write_bytes(staged.read_bytes()[:-1] + b"?")
    outcome = trial.converges()
    assert not outcome.continued


def test_backup_waits_for_a_task_that_takes_the_lock_late(trial: Trial) -> None:
    """An orphaned gitlab-backup may still be starting when the next run looks: then there is no lock yet."""
    host, clock = trial.bench.host, trial.bench.clock
    lock = host.root / "opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid"
    with subprocess.Popen(["sleep", "600"]) as orphan:

        def end_orphan() -> None:
            if lock.exists():
                orphan.kill()
                orphan.wait()

        clock.meanwhile = end_orphan
        outcome = trial.bench.back_up(runner=LateLock(LocalRunner(), lock, orphan.pid))
    trial.is_good(outcome.manifest.set_id)
    assert any(isinstance(event, Waiting) for event in trial.bench.events)


def test_backup_leaves_the_journal_of_an_instance_with_a_longer_name_alone(trial: Trial) -> None:
    longer = new_journal(trial.bench.state, f"backup-{INSTANCE}-two-20260113T031500Z-7f3a")
    longer.append("begin", set_id="20260113T031500Z-7f3a", at="2026-01-13T03:15:00+00:00", terms="others")
    trial.bench.back_up()
    assert [entry["what"] for entry in Journal(longer.path).entries] == ["begin"]


class LateLock(FaultyRunner):
    """Somebody takes GitLab's lock at the moment when gitlab-backup starts."""

    def __init__(self, inner: Runner, lock: Path, pid: int) -> None:
        super().__init__(inner)
        self._lock = lock
        self._pid = pid

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        if command.argv[0].endswith("gitlab-backup") and "gitlab-backup" not in [call.program for call in self.calls]:
            self._lock.write_text(f"{self._pid}\n")
        return super().read_from(command)


def _dies(run: Callable[[], object]) -> bool:
    """Whether the run met its Crash; False when it came to its end without."""
    try:
        run()
    except Crash:
        return True
    return False
