"""Run commands on this machine."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from subprocess import DEVNULL, Popen
from typing import TYPE_CHECKING, BinaryIO

from drtool.core.command import Command
from drtool.errors import CommandFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_CHUNK = 1 << 20
_STDERR_KEPT = 64 << 10
_STDERR_SHOWN = 3  # lines in the message; the rest is in CommandFailed.stderr

# What a command may see of our environment. Everything else, credentials first of all, stays with us (I4);
# the docker and kubectl names are how people point those clients at another daemon.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH",
         "DOCKER_TLS_VERIFY", "KUBECONFIG")  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LocalRunner:
    """A Runner on this machine. Every command leads its own process group, so all of it can be ended."""

    def __init__(self, *, grace: timedelta = timedelta(seconds=10)) -> None:
        """``grace`` is how long a command that is told to end (TERM) may take before it is made to (KILL)."""
        self._grace = grace.total_seconds()
        self._environment = clean_environment(os.environ)

    @property
    def name(self) -> str:
        return "local"

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        """Run to the end and return standard output."""
        with self._reading(command, stdin) as output:
            return output.read()

    @contextmanager
    def read_from(self, command: Command) -> Iterator[BinaryIO]:
        """Stream standard output; see Runner. ``read(n)`` returns what is there, up to ``n``, and waits for no more."""
        with self._reading(command, b"") as output:
            yield output

    @contextmanager
    def write_to(self, command: Command) -> Iterator[BinaryIO]:
        """Stream standard input; see Runner. Standard output is thrown away."""
        read_end, write_end = _pipe()
        child = self._start(command, stdin=read_end, stdout=DEVNULL, ours=write_end)
        stream = _Input(write_end, child)
        try:
            yield stream
            stream.close()
            child.check()
        finally:
            # Kill first, close after: a closed pipe reads as the end of the input, and half of it must not.
            child.abandon()
            stream.close()

    @contextmanager
    def _reading(self, command: Command, stdin: bytes) -> Iterator[_Output]:
        read_end, write_end = _pipe()
        feeder = _Feeder(stdin) if stdin else None
        child = self._start(command, stdin=feeder.read_end if feeder else DEVNULL, stdout=write_end, ours=read_end)
        output = _Output(read_end, child)
        try:
            yield output
            if output.at_end:
                child.check()
        finally:
            child.abandon()
            output.close()

    def _start(self, command: Command, *, stdin: int, stdout: int, ours: int) -> _Child:
        """Start it and close our copies of its pipe ends; on failure close ``ours`` too."""
        try:
            return _Child(command, self._environment, self._grace, stdin=stdin, stdout=stdout)
        except CommandFailed:
            os.close(ours)
            raise
        finally:
            for end in (stdin, stdout):
                if end != DEVNULL:
                    os.close(end)


def failure(command: Command, status: int | None, stderr: str, *, why: str = "") -> CommandFailed:
    """Build the CommandFailed for a command that ended with ``status``, or that never ran, for the reason ``why``."""
    what = why or f"ended with status {status}"
    last = [line.strip() for line in stderr.splitlines() if line.strip()][-_STDERR_SHOWN:]
    message = f"{command.argv[0]} {what}" + (": " + " | ".join(last) if last else "")
    return CommandFailed(message, status=status, stderr=stderr)


class _Child:
    """One process group: start it, wait for it, or end it. Standard error is drained from the start."""

    def __init__(
        self, command: Command, environment: Mapping[str, str], grace: float, *, stdin: int, stdout: int
    ) -> None:
        self._command = command
        self._grace = grace
        self._lock = threading.Lock()  # keeps the timer from signalling a process id that was given back
        self._ended = False
        self._expired = False
        self._over = threading.Event()
        error_end, write_end = os.pipe()
        try:
            self._process = Popen(
                command.argv, stdin=stdin, stdout=stdout, stderr=write_end, env=environment, start_new_session=True
            )
        except OSError as error:
            os.close(error_end)
            raise not_started(command, error) from error
        finally:
            os.close(write_end)
        self._stderr = _Tail(error_end)
        self._timer: threading.Timer | None = None
        if command.timeout is not None:
            self._timer = threading.Timer(command.timeout.total_seconds(), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def check(self) -> None:
        """Wait for the end and raise CommandFailed if it was a bad one. May be called again."""
        self._wait()
        if failed := self.failure():
            raise failed

    def failure(self) -> CommandFailed | None:
        """Say what went wrong with a command that ended; None if nothing did."""
        if self._expired:
            return failure(
                self._command, None, self._stderr.text(), why=f"ran out of time after {self._command.timeout}"
            )
        code = self._process.returncode
        if code == 0:
            return None
        if code < 0:  # as a shell reports it
            return failure(self._command, 128 - code, self._stderr.text(), why=f"was ended by {_signal_name(-code)}")
        return failure(self._command, code, self._stderr.text())

    def stopped_reading(self) -> CommandFailed:
        """Wait for the end of a command that closed its standard input while we wrote, and say so."""
        self._wait()
        return self.failure() or failure(
            self._command, self._process.returncode, self._stderr.text(), why="did not read all of its input"
        )

    def abandon(self) -> None:
        """End the whole group, unless the command ended by itself before."""
        if not self._ended:
            self._kill()

    def _wait(self) -> None:
        if self._ended:
            return
        with suppress(ChildProcessError):  # somebody ignores SIGCHLD: the kernel reaped it
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._ended = True
            self._process.wait()
        if self._expired:
            self._kill()  # the leader is gone, what it started may not be
        self._settle()

    def _expire(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._expired = True
            self._signal(signal.SIGTERM)
        self._over.wait(self._grace)  # on the timer's own thread: whoever reads the output sees its end by itself
        with self._lock:
            if not self._ended:
                self._signal(signal.SIGKILL)

    def _kill(self) -> None:
        """TERM, wait for all of the group within the grace, then KILL whatever is left."""
        with self._lock:
            self._ended = True
        self._signal(signal.SIGTERM)
        if not self._gone_within(self._grace):
            self._signal(signal.SIGKILL)
            # Bounded: what runs as somebody else or hangs in the kernel cannot be killed by us.
            self._gone_within(self._grace, leader_only=True)
        self._settle()

    def _gone_within(self, seconds: float, *, leader_only: bool = False) -> bool:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None or (not leader_only and self._signal(0)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _signal(self, number: int) -> bool:
        """Signal the group; False when there is nobody left in it."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # became somebody else, like sudo
            return True
        return True

    def _settle(self) -> None:
        self._over.set()
        if self._timer:
            self._timer.cancel()
        self._stderr.join()


class _Output(io.FileIO):
    """Standard output whose end is only the end if the command ended well."""

    def __init__(self, descriptor: int, child: _Child) -> None:
        super().__init__(descriptor, "rb")
        self.at_end = False
        self._child = child

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        return self._judge(super().read(min(size, _CHUNK))) if size else b""

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_CHUNK), b""))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        if not count and memoryview(buffer).nbytes:
            self._judge(b"")
        return count

    def _judge(self, data: bytes) -> bytes:
        if not data:
            self.at_end = True
            self._child.check()
        return data


class _Input(io.FileIO):
    """Standard input that writes all it is given."""

    def __init__(self, descriptor: int, child: _Child) -> None:
        super().__init__(descriptor, "wb")
        self._child = child

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:])
        except BrokenPipeError:
            raise self._child.stopped_reading() from None
        return written


class _Feeder(threading.Thread):
    """Writes a command's input beside us, so that neither side waits for the other."""

    def __init__(self, data: bytes) -> None:
        super().__init__(daemon=True)
        self.read_end, self._write_end = _pipe()
        self._data = data
        self.start()

    def run(self) -> None:
        # A program may end without reading everything; then its status decides, as in a shell pipeline.
        with suppress(BrokenPipeError), io.FileIO(self._write_end, "wb") as pipe:
            view = memoryview(self._data)
            while view:
                view = view[pipe.write(view) :]


class _Tail(threading.Thread):
    """Drains standard error and keeps its end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._kept = b""
        self.start()

    def run(self) -> None:
        with io.FileIO(self._descriptor, "rb") as pipe:
            while data := pipe.read(_STDERR_KEPT):
                self._kept = (self._kept + data)[-_STDERR_KEPT:]

    def join(self, timeout: float | None = 2) -> None:
        """Wait for the rest; not for ever, because a daemon that the command left behind may hold the pipe open."""
        super().join(timeout)

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


def clean_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what a command may see of our environment, and the locale and zone that its output is parsed in."""
    kept = {name: ours[name] for name in KEPT if name in ours}
    return {"PATH": _DEFAULT_PATH} | kept | {"LC_ALL": "C", "TZ": "UTC"}


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    with suppress(OSError):  # above /proc/sys/fs/pipe-max-size or the user's share: the default size works, slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _CHUNK)
    return read_end, write_end


def not_started(command: Command, error: OSError) -> CommandFailed:
    # A directory on PATH that we may not enter makes a missing program look like a forbidden one.
    hidden = isinstance(error, PermissionError) and shutil.which(command.argv[0]) is None and "/" not in command.argv[0]
    if isinstance(error, FileNotFoundError) or hidden:
        return failure(command, 127, "", why="does not exist (status 127)")
    if isinstance(error, PermissionError):
        return failure(command, 126, "", why="may not be run (status 126)")
    return failure(command, None, "", why=f"could not be started: {error.strerror}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
