"""Runners for commands that outlive their connection: ssh, docker exec, kubectl exec, sudo.

A command at the far end of a connection is not ours to end: neither sshd nor docker signals it when the connection
goes, and the end of a lost connection looks to it like the end of its input. So it runs on a tether: a small shell
script (POSIX sh, setsid, dd) beside it, which hands it its input in counted frames and, when the connection ends
before the input was complete or the command over, ends its process group *before* the command can see an end.

    us -> script, on standard input        the group's number, then frames: "SIZE COUNT\\n" and SIZE * COUNT bytes;
                                           "0 0\\n" is the end of the input, and the end of the stream means: kill
    script -> us, on standard error        "drtool-tether: group N" first; "drtool-tether: input refused" when the
                                           command closed its input; the rest is the command's own

The command begins only after its group's number came back. So whatever fails before that never began, and whoever
leaves early can end the group by its number, over a second channel: a command that does not read keeps the frames,
and thereby the news that we left, from arriving.
"""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, cast

from drtool.core.command import Command
from drtool.errors import CommandFailed, DrtoolError
from drtool.hosts.links import Carrier, Link
from drtool.hosts.local import KEPT, failure

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_CHUNK = 1 << 20
_BLOCK = 64 << 10  # what a pipe holds: dd and the command work at the same time
_FRAME = 256 * _BLOCK  # one start of dd for each
_STDERR_KEPT = 64 << 10
_PATIENCE = 10.0  # seconds for the far end to tell that what we killed is gone
_DEADLY = (signal.SIGABRT, signal.SIGKILL, signal.SIGPIPE, signal.SIGSEGV, signal.SIGTERM)
_MARK = re.compile(rb"drtool-tether: (?:group (\d+)|input refused)\n")
_MARK_BEGINS = b"drtool-tether: "

# Left: the feeder, and after the input's end the watch. Right: the command, in a process group of its own. Only the
# command may hold the script's own output and error, or the connection would stay open for what is left of dd.
_SCRIPT = """\
exec 3>&2 2>/dev/null
{{
  sh -c 'echo "$PPID"' 3>&-
  if read -r group && echo; then
    while read -r size count; do
      if [ "$size" = 0 ]; then exec >/dev/null
      elif ! dd bs="$size" count="$count" iflag=fullblock 3>&-; then
        echo "drtool-tether: input refused" >&3
        exec >/dev/null
        cat 3>&-
      fi
    done
    trap '' TERM
    ({kill}) 3>&-
  fi
}} | {{
  read -r feeder
  setsid sh -c '
    echo "drtool-tether: group $$" >&2
    read -r go && exec env {environment} "$@" {output}
  ' sh "$@" 2>&3 3>&-
  status=$?
  kill "$feeder"
  exit "$status"
}}
"""
_KILL = """\
kill -s TERM -- "-$group"
left={tenths}
while [ "$left" -gt 0 ] && kill -s 0 -- "-$group"; do sleep 0.1; left=$((left - 1)); done
kill -s KILL -- "-$group"
"""
_CLEAN = " ".join(["-i", *(f'${{{name}+"{name}=${name}"}}' for name in KEPT)])
_LOCALE = "LC_ALL=C TZ=UTC"


class TetheredRunner:
    """A Runner at the far end of a carrier. Commands of several threads may run at the same time."""

    def __init__(
        self,
        carrier: Carrier,
        name: str,
        *,
        prefix: Sequence[str] = (),
        clean: bool = True,
        grace: timedelta = timedelta(seconds=10),
    ) -> None:
        """``prefix`` goes before every command; ``clean`` hides the far end's environment, as LocalRunner does ours.

        ``grace`` is how long a command that is told to end (TERM) may take before it is made to (KILL).
        """
        self._carrier = carrier
        self._name = name
        self._prefix = tuple(prefix)
        self._clean = clean
        self._grace = grace

    @property
    def name(self) -> str:
        return self._name

    def behind(self, prefix: Sequence[str], name: str, *, clean: bool = False) -> TetheredRunner:
        """Return a runner for what ``prefix`` reaches from this one, like a container on its host."""
        both = (*self._prefix, *prefix)
        return TetheredRunner(self._carrier, name, prefix=both, clean=clean, grace=self._grace)

    def close(self) -> None:
        """Let go of the host; commands that still run are ended. May be called again."""
        self._carrier.close()

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        """Run to the end and return standard output."""
        with self._reading(command, stdin) as output:
            return output.readall()

    @contextmanager
    def read_from(self, command: Command) -> Iterator[BinaryIO]:
        """Stream standard output; see Runner. ``read(n)`` returns what is there, up to ``n``, and waits for no more."""
        with self._reading(command, b"") as output:
            yield cast(BinaryIO, output)

    @contextmanager
    def write_to(self, command: Command) -> Iterator[BinaryIO]:
        """Stream standard input; see Runner. Standard output is thrown away."""
        child = self._start(command, output=">/dev/null")
        stream = _Input(child)
        try:
            child.must_begin()
            yield cast(BinaryIO, stream)
            stream.finish()
            child.check_input()
        finally:
            child.abandon()

    @contextmanager
    def _reading(self, command: Command, stdin: bytes) -> Iterator[_Output]:
        child = self._start(command, output="")
        threading.Thread(target=child.feed, args=(stdin,), daemon=True).start()
        output = _Output(child)
        try:
            yield output
            if output.at_end:
                child.check()
        finally:
            child.abandon()

    def _start(self, command: Command, *, output: str) -> _Child:
        environment = f"{_CLEAN} {_LOCALE}" if self._clean else _LOCALE
        kill = _KILL.format(tenths=int(self._grace.total_seconds() * 10))
        script = _SCRIPT.format(kill=kill, environment=environment, output=output)
        link = self._carrier.start((*self._prefix, "sh", "-c", script, "sh", *command.argv))
        return _Child(link, command, self._name, (*self._prefix, "sh", "-c", f"group=$1\n{kill}", "sh"), self._grace)


class _Child:
    """One command on its tether: feed it, wait for it, or end it. Standard error is drained from the start."""

    def __init__(self, link: Link, command: Command, host: str, killer: Sequence[str], grace: timedelta) -> None:
        self._link = link
        self._command = command
        self._host = host
        self._killer = killer
        self._patience = grace.total_seconds() + _PATIENCE
        self._lock = threading.Lock()
        self._ended = False
        self._expired = False
        self._status: int | None = None
        self._errors = _Errors(link)
        self._timer: threading.Timer | None = None
        if command.timeout is not None:
            self._timer = threading.Timer(command.timeout.total_seconds(), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def read(self, size: int) -> bytes:
        return self._link.read(size)

    def feed(self, data: bytes) -> None:
        """Give it all of its input. A program may end without reading everything; then its status decides."""
        with suppress(OSError):
            if self._errors.begun():
                for start in range(0, len(data), _FRAME):
                    self.send([memoryview(data)[start : start + _FRAME]])
                self.send_end()

    def must_begin(self) -> None:
        """Wait until the command begins. Raises CommandFailed when it does not."""
        if not self._errors.begun():
            self.check()

    def send(self, pieces: Sequence[memoryview]) -> None:
        """Write a part of its input, at most one frame. Raises OSError when the far end takes no more."""
        blocks, rest = divmod(sum(map(len, pieces)), _BLOCK)
        if blocks:
            self._link.write(b"%d %d\n" % (_BLOCK, blocks))
        tail = b""
        left = blocks * _BLOCK
        for piece in pieces:
            if whole := piece[:left]:
                self._link.write(whole)
            tail += piece[left:]
            left -= len(whole)
        if rest:
            self._link.write(b"%d 1\n%b" % (rest, tail))

    def send_end(self) -> None:
        self._link.write(b"0 0\n")

    def check(self) -> None:
        """Wait for the end and raise CommandFailed if it was a bad one. May be called again."""
        if not self._ended:
            self._status = self._link.wait(None)
            with self._lock:
                self._ended = True
            self._settle()
        if failed := self._failure():
            raise failed

    def check_input(self) -> None:
        """Do the same for a command that must have read its input to the end."""
        self.check()
        if self._errors.refused:
            raise self._failed("did not read all of its input", self._status)

    def stopped_reading(self) -> CommandFailed:
        """Wait for the end of a command that takes no more of its input, and say what there is to say."""
        try:
            self.check()
        except CommandFailed as failed:
            return failed
        return self._failed("did not read all of its input", self._status)

    def abandon(self) -> None:
        """End the whole group, unless the command ended by itself before; let go of the link in any case."""
        if not self._ended:
            self._ended = True
            self._kill(nobody_reads=True)
        self._link.close()
        self._settle()

    def _failure(self) -> CommandFailed | None:
        if self._expired:
            return self._failed(f"ran out of time after {self._command.timeout}")
        if not self._errors.group:
            return self._failed(f"could not be started on {self._host}")
        if self._status is None:
            return self._failed(f"lost its connection to {self._host}; it is not known whether it ended")
        if self._status == 0:
            return None
        return self._failed(f"ended with status {self._status}{_as_signal(self._status)}", self._status)

    def _failed(self, why: str, status: int | None = None) -> CommandFailed:
        return failure(self._command, status, self._errors.text(), why=why)

    def _expire(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._expired = True
        self._kill()  # on the timer's own thread: whoever reads the output or waits sees the end by itself
        with suppress(TimeoutError):
            self._link.wait(_PATIENCE)
        self._link.close()  # what is left of it, or of the connection, does not hold us up

    def _kill(self, *, nobody_reads: bool = False) -> None:
        """TERM, wait for all of the group within the grace, then KILL what is left; without a way there, let go.

        Over the same connection only: on a host that rebooted meanwhile the number is somebody else's.
        """
        with self._lock, suppress(DrtoolError, TimeoutError):
            if self._errors.group:
                order = self._link.beside((*self._killer, self._errors.group))
                try:
                    if nobody_reads:
                        self._link.close()  # docker tells of no process's end while output of another is stuck
                    order.wait(self._patience)
                finally:
                    order.close()

    def _settle(self) -> None:
        if self._timer and threading.current_thread() is not self._timer:
            self._timer.cancel()
        self._errors.join(2)  # not for ever: a daemon that the command left behind may hold it open


class _Errors(threading.Thread):
    """Drains standard error, keeps its end, and takes the tether's own lines out of it."""

    def __init__(self, link: Link) -> None:
        super().__init__(daemon=True)
        self.group = ""
        self.refused = False
        self._link = link
        self._kept = b""
        self._known = threading.Event()
        self.start()

    def begun(self) -> bool:
        """Wait until it is known whether the command begins, and tell."""
        self._known.wait()
        return bool(self.group)

    def run(self) -> None:
        try:
            while data := self._link.read_error(_STDERR_KEPT):
                self._kept += data
                if _MARK_BEGINS in self._kept:
                    self._kept = _MARK.sub(self._note, self._kept)
                self._kept = self._kept[-_STDERR_KEPT:]
        finally:
            self._known.set()

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")

    def _note(self, mark: re.Match[bytes]) -> bytes:
        if not mark[1]:
            self.refused = True
        elif not self.group:
            with suppress(OSError):  # then the command does not begin, and its status says so
                self._link.write(mark[1] + b"\n")
            self.group = mark[1].decode()
            self._known.set()
        return b""


class _Output(io.RawIOBase):
    """Standard output whose end is only the end if the command ended well."""

    def __init__(self, child: _Child) -> None:
        super().__init__()
        self.at_end = False
        self._child = child

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if not size:
            return b""
        data = b"" if self.at_end else self._child.read(min(size, _CHUNK))
        if not data:
            self.at_end = True
            self._child.check()
        return data

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_CHUNK), b""))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Input(io.RawIOBase):
    """Standard input that takes all it is given. Only ``finish`` shows the command an end, closing does not."""

    def __init__(self, child: _Child) -> None:
        super().__init__()
        self._child = child
        self._pieces: list[memoryview] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        if self.closed:
            raise ValueError("write to a closed stream")
        view = memoryview(data if isinstance(data, bytes) else bytes(data))  # the caller may change anything else
        left = view
        while left:
            piece = left[: _FRAME - self._size]
            self._pieces.append(piece)
            self._size += len(piece)
            left = left[len(piece) :]
            if self._size == _FRAME:
                self._send()
        return len(view)

    def finish(self) -> None:
        """Send what waits, and the end of the input. Raises CommandFailed when the command takes no more."""
        self._send()
        try:
            self._child.send_end()
        except OSError:
            raise self._child.stopped_reading() from None

    def _send(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        try:
            self._child.send(pieces)
        except OSError:
            raise self._child.stopped_reading() from None


def _as_signal(status: int) -> str:
    """Name what a shell reports so; a status that programs also choose for themselves is left alone."""
    return next((f" ({number.name})" for number in _DEADLY if status == 128 + number), "")
