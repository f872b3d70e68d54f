"""The lock of a target: one restore at a time, from wherever it is run.

It is a lock of the target's kernel, held by a program that ends with its standard input, so a run that dies, or a
connection that breaks, lets go of it: nobody has to unlock anything. A line that goes silent breaks for sshd after
hours, so the program ends also when it has not been told for a while that the run lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath

from drtool.core.command import Command
from drtool.errors import Busy, CommandFailed, DrtoolError, HostUnfit
from drtool.hosts import Runner
from drtool.installs.omnibus import MINUTE, Omnibus

_TAKEN = 75  # EX_TEMPFAIL
_SILENCE = timedelta(minutes=5)

# util-linux' flock. Who holds it is told to the others in the file itself.
_HOLD = f"""\
set -eu
mkdir -p -- "${{0%/*}}"
exec 9>>"$0"
flock --nonblock 9 || exit {_TAKEN}
printf '%s\\n' "$1" >"$0"
until timeout "$2" cat >/dev/null; do
  [ -n "$(find "$0" -newermt "-$3 seconds")" ] || exit
done"""

# Ten seconds for the holder to start; one command, because each is a way over the network.
_AWAIT = f"""\
tries=100
while [ $tries -gt 0 ]; do
  if [ "$(cat -- "$0" 2>/dev/null)" = "$1" ]; then exit 0; fi
  tries=$((tries - 1))
  sleep 0.1
done
exit {_TAKEN}"""

_STILL = f"""\
exec 9>>"$0" || exit
if flock --nonblock 9; then exit {_TAKEN}; fi
[ "$(cat -- "$0")" = "$1" ] && touch -- "$0\""""


@contextmanager
def only_restore_onto(
    runner: Runner, install: Omnibus, who: str, *, silence: timedelta = _SILENCE
) -> Iterator[Callable[[], None]]:
    """Hold the target's lock. Raises Busy, naming who holds it; ``who`` is what others are told.

    It ends by itself when the host hears nothing from us for as long as ``silence``.

    What it gives raises CommandFailed when the lock is held no more: the connection that held it broke, or the host
    started anew, and commands since then went over a new connection as if nothing had been.
    """
    lock = install.restore_lock
    held = ExitStack()
    try:
        with _busy_if_taken(runner, lock):
            seconds = silence.total_seconds()
            words = (str(lock), who, f"{seconds / 5:g}", f"{seconds:g}")
            held.enter_context(runner.write_to(Command(("sh", "-c", _HOLD, *words))))
            runner.run(Command(("sh", "-c", _AWAIT, str(lock), who), MINUTE))
        still_held = partial(_refuse_lost, runner, lock, who)
        held.enter_context(_telling(still_held, seconds / 5))
        yield still_held
    finally:
        with suppress(CommandFailed, HostUnfit):  # what was done is done: a lost connection let go by itself
            held.close()


@contextmanager
def _telling(still_held: Callable[[], None], seconds: float) -> Iterator[None]:
    """Say every so many seconds that we live: a step may take hours."""
    done = threading.Event()

    def tell() -> None:
        with suppress(DrtoolError):  # whoever works notices by himself
            while not done.wait(seconds):
                still_held()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(seconds)


def _refuse_lost(runner: Runner, lock: PurePosixPath, who: str) -> None:
    try:
        runner.run(Command(("sh", "-c", _STILL, str(lock), who), MINUTE))
    except CommandFailed as problem:
        if problem.status is None:
            raise
        raise CommandFailed(
            f"{runner.name}: the connection broke or the host started anew, and the lock of this restore is lost",
            hint="The same command goes on from here.",
        ) from problem


def last_restore_onto(runner: Runner, install: Omnibus) -> str:
    """Who held the target's lock last, since it was started; empty where nobody did."""
    try:
        return _holder(runner, install.restore_lock)
    except CommandFailed as problem:
        if problem.status != 1:
            raise
        return ""


@contextmanager
def _busy_if_taken(runner: Runner, lock: PurePosixPath) -> Iterator[None]:
    try:
        yield
    except CommandFailed as problem:
        if problem.status != _TAKEN:
            raise
        raise Busy(
            f"{runner.name}: another restore onto it is at work: {_holder(runner, lock)}",
            hint="Wait for it to end, or end it where it runs; then run this again.",
        ) from problem


def _holder(runner: Runner, lock: PurePosixPath) -> str:
    return runner.run(Command(("cat", "--", str(lock)), MINUTE)).decode("utf-8", "replace").strip()
