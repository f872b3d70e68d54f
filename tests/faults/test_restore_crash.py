"""A restore that dies at any of its calls is taken up by the same command, and ends as if nothing had been (I5, I7)."""

from __future__ import annotations

import dataclasses
import itertools
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath

import pytest

from drtool.core.marker import MARKER
from drtool.core.plan import parse_plan
from drtool.errors import CommandFailed, DrtoolError, RestoreFailed, StoreFull, StoreTransient, TargetHoldsData
from drtool.events import Waiting
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal, journals
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from tests.runners import ENOUGH, FaultyRunner, JournalFault, When, worth_dying_in
from tests.toyhost import LOOSE, Bench, ToyHost, make_bench

HOSTNAME = platform.node()


class Trial:
    """One set, restored onto a fresh host again and again, each time broken at another place."""

    def __init__(self, base: Path, *, onto_data: bool) -> None:
        self.base = base
        self.source = make_bench(base / "source", MemoryStore())
        self.set_id = self.source.back_up().manifest.set_id
        self.onto_data = onto_data
        self.count = 0
        self.bench, self.host = self.anew()
        self.restore()
        self.census = self.host.census()
        self.objects = self._objects()

    def anew(self) -> tuple[Bench, ToyHost]:
        """Another host, with other data on it if it is to hold any, and nothing in the state directory."""
        self.count += 1
        self.host = ToyHost(self.base / f"host-{self.count}")
        self.bench = dataclasses.replace(self.source, base=self.base / f"bench-{self.count}", host=self.host)
        (self.host.etc / "gitlab-secrets.json").write_text("{}\n")
        if self.onto_data:
            (self.host.restored / "db").mkdir(parents=True)
            (self.host.restored / "db/older").write_text("older data\n")
        return self.bench, self.host

    def restore(self, *, runner: FaultyRunner | None = None, store: FaultyStore | None = None) -> None:
        replace = HOSTNAME if self.onto_data else None
        self.bench.restore(self.host, self.set_id, runner=runner, store=store, replace=replace)

    def converges(self) -> None:
        """Run the same command again: it ends well, and does nothing twice that is done for good."""
        done = self._done_for_good()
        runner, store = FaultyRunner(LocalRunner()), FaultyStore(self.bench.store)
        if not self._ended():
            self.restore(runner=runner, store=store)
        self.is_restored()
        assert {step: self._starts(step) for step in done} == done
        deletes_only_what_it_may(self.host, runner, store)

    def is_restored(self) -> None:
        assert self.host.census() == self.census
        assert self.host.staged() == []
        assert {path.name: path.read_text() for path in self.host.services.iterdir()}["puma"] == "run\n"
        assert self._objects() == self.objects

    @property
    def journal(self) -> Journal | None:
        found = journals(self.bench.state, "restore-")
        assert len(found) <= 1, "every try belongs to one run"
        return found[0] if found else None

    def _ended(self) -> bool:
        """Whether the broken run had written its last line: then there is nothing to take up."""
        return self.journal is not None and any(entry["step"] == "receipt" for entry in self.journal.all("finished"))

    def _done_for_good(self) -> dict[str, int]:
        """How often each step was begun that is done, and whose effect outlives an interruption."""
        if self.journal is None or (entry := self.journal.find("plan")) is None:
            return {}
        lasting = {step.name for step in parse_plan(entry["plan"]).steps if step.lasting}
        finished = {entry["step"] for entry in self.journal.all("finished")}
        return {name: self._starts(name) for name in finished & lasting}

    def _starts(self, step: str) -> int:
        assert self.journal is not None
        return sum(entry["step"] == step for entry in self.journal.all("started"))

    def _objects(self) -> dict[str, bytes]:
        store = self.source.store
        objects = {}
        for info in store.list("toy/sets/"):
            with store.open(info.key) as body:
                objects[info.key] = body.read()
        return objects


def deletes_only_what_it_may(host: ToyHost, runner: FaultyRunner, store: FaultyStore) -> None:
    assert not [call for call in store.calls if call.method == "delete"]
    for call in runner.calls:
        if call.program == "rm":
            for word in call.command.argv[call.command.argv.index("--") + 1 :]:
                path = PurePath(word)
                assert path.parent == PurePath(host.backups)
                assert path.name in {*LOOSE, MARKER} or path.name.startswith(".drtool-restore-")


@pytest.fixture(params=["empty", "with data"])
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    return Trial(tmp_path, onto_data=request.param == "with data")


@pytest.fixture
def onto_data(tmp_path: Path) -> Trial:
    return Trial(tmp_path, onto_data=True)


@pytest.mark.parametrize("when", ENOUGH)
def test_restore_that_dies_at_any_store_call_converges(onto_data: Trial, when: When) -> None:
    trial = onto_data
    for nth in itertools.count(1):
        trial.anew()
        store = FaultyStore(trial.bench.store)
        store.fail_at(nth, when, Crash())
        if not _dies(partial(trial.restore, store=store)):
            break
        trial.converges()
    assert nth > 20


@pytest.mark.parametrize("when", ENOUGH)
def test_restore_that_dies_at_any_command_converges(onto_data: Trial, when: When) -> None:
    """Every second time the host starts anew in between, with all its services up."""
    trial, undisturbed = onto_data, FaultyRunner(LocalRunner())
    trial.anew()
    trial.restore(runner=undisturbed)
    moments = worth_dying_in(undisturbed.calls, when)
    for number, nth in enumerate(moments):
        trial.anew()
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, when, Crash())
        assert _dies(partial(trial.restore, runner=runner))
        deletes_only_what_it_may(trial.host, runner, FaultyStore(trial.bench.store))
        if number % 2:
            trial.host.reboot()
        trial.converges()
    assert len(moments) > (30 if when == "after" else 5)


@pytest.mark.parametrize("when", ENOUGH)
def test_restore_that_dies_at_any_line_of_its_journal_converges(onto_data: Trial, when: When) -> None:
    """Half a line is the same wherever it is torn, as if it had not been begun: so every third."""
    trial = onto_data
    for nth in itertools.count(1, 1 if when == "after" else 3):
        trial.anew()
        fault = JournalFault(nth, when)
        with fault.in_force():
            if not _dies(trial.restore):
                break
        if nth % 2:
            trial.host.reboot()
        trial.converges()
    assert nth > 30


def test_restore_says_what_the_store_said_and_converges(onto_data: Trial) -> None:
    trial, errors = onto_data, itertools.cycle([StoreFull("the store is full"), StoreTransient("the line is dead")])
    for nth, error in enumerate(errors, 1):
        trial.anew()
        store = FaultyStore(trial.bench.store)
        store.fail_at(nth, "during", error)
        try:
            trial.restore(store=store)
        except type(error) as raised:
            assert raised is error
            trial.converges()
            continue
        trial.is_restored()
        if not store.fired:
            break
    assert nth > 20


@pytest.mark.parametrize("when", ENOUGH)
def test_restore_is_an_error_or_complete_whatever_command_fails(onto_data: Trial, when: When) -> None:
    """Every command fails without its effect; every second one also after it, which a crash there shows as well."""
    trial = onto_data
    failed = 0
    for nth in itertools.count(1, 1 if when == "during" else 2):
        trial.anew()
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, when, CommandFailed("the host says no", status=1))
        try:
            trial.restore(runner=runner)
        except DrtoolError:
            failed += 1
            trial.converges()
            continue
        trial.is_restored()
        if not runner.fired:
            break
    assert failed > (20 if when == "during" else 10)


def test_restore_is_not_made_from_another_archive_when_its_members_are_gone(onto_data: Trial) -> None:
    """GitLab takes the only archive if nothing lies loose: the safety copy, of the data that was to be replaced."""
    trial = onto_data
    trial.anew()
    program = trial.host.root / "opt/gitlab/bin/gitlab-backup"
    script = program.read_text()
    program.write_text(script.replace("restore() {", "restore() { clean; exit 1"))
    with pytest.raises(RestoreFailed):
        trial.restore()
    assert list(trial.host.backups.glob("*_gitlab_backup.tar")), "the safety copy"
    program.write_text(script)
    trial.converges()


@pytest.mark.parametrize("skip", ["", "tar"])
def test_restore_is_taken_up_after_another_backup_wrote_over_its_members(onto_data: Trial, skip: str) -> None:
    """A nightly backup that nobody switched off: it writes the same names, and removes them if it packs them."""
    trial = onto_data
    runner = FaultyRunner(LocalRunner())
    runner.fail_at(_call_of(trial, "gitlab-backup", "restore"), "before", Crash())
    assert _dies(partial(trial.restore, runner=runner))
    canned = trial.host.root / "canned/uploads.tar.gz"
    kept = canned.read_bytes()
    canned.write_bytes(b"the uploads of another night")
    program = trial.host.root / "opt/gitlab/bin/gitlab-backup"
    subprocess.run([program, "create", "BACKUP=nightly", f"SKIP={skip}"], check=True, stdout=subprocess.DEVNULL)
    canned.write_bytes(kept)
    trial.converges()


def test_restore_waits_for_the_task_that_a_killed_run_left_behind(onto_data: Trial) -> None:
    trial = onto_data
    trial.anew()
    runner = FaultyRunner(LocalRunner())
    runner.fail_at(_call_of(trial, "gitlab-backup", "restore"), "before", Crash())
    assert _dies(partial(trial.restore, runner=runner))
    lock = trial.host.root / "opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid"
    with subprocess.Popen(["sleep", "600"]) as orphan:
        lock.write_text(f"{orphan.pid}\n")

        def end_orphan() -> None:
            orphan.kill()
            orphan.wait()
            for name in LOOSE & set(trial.host.staged()):  # as a backup of GitLab's own does at its end
                subprocess.run(["rm", "-rf", str(trial.host.backups / name)], check=True)

        trial.bench.clock.meanwhile = end_orphan
        waited = len([event for event in trial.bench.events if isinstance(event, Waiting)])
        try:
            trial.converges()
        finally:
            trial.bench.clock.meanwhile = int
        assert len([event for event in trial.bench.events if isinstance(event, Waiting)]) > waited


def test_finished_restore_is_not_taken_up_again(trial: Trial) -> None:
    with pytest.raises(TargetHoldsData):
        trial.bench.restore(trial.host, trial.set_id)
    trial.is_restored()


def _call_of(trial: Trial, program: str, word: str) -> int:
    """Which call of a restore starts this program, counted from 1."""
    runner = FaultyRunner(LocalRunner())
    trial.restore(runner=runner)
    trial.anew()
    found = (number for number, call in enumerate(runner.calls, 1) if call.program == program)
    return next(number for number in found if runner.calls[number - 1].command.argv[1] == word)


def _dies(run: Callable[[], None]) -> bool:
    """Whether the run met its Crash; False when it came to its end without."""
    try:
        run()
    except Crash:
        return True
    return False
