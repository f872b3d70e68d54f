"""What use cases do step by step on a host: tell phases, collect what commands say, wait for who is at work there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO, TypeVar

from drtool.clock import Clock
from drtool.core.command import Command
from drtool.errors import Busy, CommandFailed, UnsafeMember
from drtool.events import Emit, HostSaid, PhaseFinished, PhaseStarted, Waiting
from drtool.gitlab.archive import TarScanner
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.streams import CHUNK
from drtool.survey import at_work

_Result = TypeVar("_Result")
_LOCKED_OUT = 3  # tries
_TASK_PAUSE = timedelta(seconds=2)


@contextmanager
def phase(name: str, title: str, clock: Clock, emit: Emit) -> Iterator[Callable[[], float]]:
    """Tell when a phase starts and ends; gives a function that says how many seconds it took so far."""
    begun = clock.monotonic()
    emit(PhaseStarted(name, title))
    yield lambda: clock.monotonic() - begun
    emit(PhaseFinished(name, round(clock.monotonic() - begun, 3)))


def say_and_collect(runner: Runner, command: Command, phase_name: str, emit: Emit) -> list[str]:
    """Run a command, tell each line as it comes, return them all. Raises CommandFailed."""
    lines, failure = try_and_collect(runner, command, phase_name, emit)
    if failure:
        raise failure
    return lines


def try_and_collect(
    runner: Runner, command: Command, phase_name: str, emit: Emit
) -> tuple[list[str], CommandFailed | None]:
    """Like ``say_and_collect``, for commands whose output tells more than their exit status."""
    lines: list[str] = []
    try:
        with runner.read_from(command) as output:
            for line in _lines(output):
                lines.append(line)
                emit(HostSaid(phase_name, line))
    except CommandFailed as failure:
        return lines, failure
    return lines, None


def _lines(stream: BinaryIO) -> Iterator[str]:
    rest = b""
    while chunk := stream.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace").rstrip("\r")


def copy_scanned(source: BinaryIO, sink: BinaryIO, archive: str) -> Iterator[int]:
    """Copy a tar, each chunk judged before it is passed on; yields the bytes done so far.

    ``archive`` names it in what this raises: SetDamaged, UnsafeMember, and what source and sink raise.
    """
    scanner = TarScanner()
    done = 0
    try:
        while chunk := source.read(CHUNK):
            scanner.feed(chunk)
            sink.write(chunk)
            done += len(chunk)
            yield done
        scanner.close()
    except UnsafeMember as problem:
        raise UnsafeMember(
            f"the {archive} archive: {problem}",
            hint="Do not restore this set; whoever made it wanted to write outside of GitLab's directories.",
        ) from problem


def await_tasks(
    runner: Runner, install: Omnibus, clock: Clock, emit: Emit, *, phase_name: str, patience: timedelta
) -> None:
    """Wait for a backup or restore of GitLab's own, also one that a killed run of ours left behind, and for upgrades.

    What was known of GitLab before, like its version, may be another afterwards. Raises Busy, naming who is at work.
    """
    deadline = clock.monotonic() + patience.total_seconds()
    while reason := at_work(runner, install):
        if clock.monotonic() >= deadline:
            raise Busy(
                f"{runner.name}: {reason}",
                hint="Wait for it to end (does an upgrade wait for an answer in some terminal?), then run this again.",
            )
        emit(Waiting(phase_name, reason))
        clock.sleep(_TASK_PAUSE)


def unless_locked_out(attempt: Callable[[], _Result], await_end: Callable[[], None]) -> _Result:
    """Try, and when GitLab's lock was taken just before, wait for its end and try again, a few times. Raises Busy.

    Rails takes long to start: a task that a killed run of ours had begun may take the lock after we looked for it.
    """
    for _ in range(_LOCKED_OUT - 1):
        try:
            return attempt()
        except Busy:
            await_end()
    return attempt()
