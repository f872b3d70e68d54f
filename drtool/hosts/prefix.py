"""Run commands through a program on this machine that starts them elsewhere: docker exec, kubectl exec, sudo.

The same prefixes reach a container on another host: ``runner.behind(docker_exec("gitlab"), "gitlab on …")``.
What kubectl exec delivers is judged by what it carries, as everywhere: some versions of it lose the end of a long
output and still end with status 0.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from subprocess import PIPE, Popen, TimeoutExpired
from typing import IO, TYPE_CHECKING

from drtool.core.command import Command
from drtool.hosts.links import Link
from drtool.hosts.local import clean_environment, not_started
from drtool.hosts.tether import TetheredRunner

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SUDO = ("sudo", "-n", "--")
"""As root, without a question; sudoers must allow any command, because a shell runs them."""

_CLOSING_SECONDS = 5


def docker_exec(container: str, *, user: str | None = None) -> tuple[str, ...]:
    """Return the prefix for a running container."""
    return ("docker", "exec", "-i", *(("--user", user) if user else ()), container)


def kubectl_exec(pod: str, *, namespace: str, container: str | None = None) -> tuple[str, ...]:
    """Return the prefix for a running pod, ``pod`` being its name or ``kind/name``."""
    return ("kubectl", "exec", "-i", "-n", namespace, pod, *(("-c", container) if container else ()), "--")


def open_prefixed(
    prefix: Sequence[str], name: str, *, clean: bool = False, grace: timedelta = timedelta(seconds=10)
) -> TetheredRunner:
    """Return a runner for what ``prefix`` reaches from this machine.

    A container's environment is part of how it is set up, so commands see it unless ``clean``.
    """
    return TetheredRunner(LocalCarrier(), name, prefix=prefix, clean=clean, grace=grace)


class LocalCarrier:
    """Starts programs here whose real work is elsewhere."""

    def start(self, argv: Sequence[str]) -> Link:
        return _Link(argv)

    def close(self) -> None:
        """Hold nothing: every link is closed by its runner."""


class _Link:
    """A process here. Standard input is a socket, and reads wait for a second one, so that ``close`` can wake both.

    The sockets are given back with the object, when nobody can be waiting at them any more.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._stdin, theirs = socket.socketpair()
        self._woken, self._wake = socket.socketpair()
        self._closing = threading.Lock()
        self._reading = threading.Lock()
        self._reading_error = threading.Lock()
        self._closed = False
        try:
            self._process = Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=PIPE,
                stderr=PIPE,
                bufsize=0,
                env=clean_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            for end in (self._stdin, self._woken, self._wake):
                end.close()
            raise not_started(Command(tuple(argv)), error) from error
        finally:
            theirs.close()

    def read(self, size: int) -> bytes:
        return self._read(self._process.stdout, self._reading, size)

    def read_error(self, size: int) -> bytes:
        return self._read(self._process.stderr, self._reading_error, size)

    def write(self, data: ReadableBuffer) -> None:
        self._stdin.sendall(data)

    def wait(self, seconds: float | None) -> int | None:
        try:
            status = self._process.wait(seconds)
        except TimeoutExpired as error:
            raise TimeoutError from error
        return status if status >= 0 else None

    def beside(self, argv: Sequence[str]) -> Link:
        return _Link(argv)

    def close(self) -> None:
        """Show the far end that we left, and end our own side of it soon after."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._wake.close()
            with suppress(OSError):
                self._stdin.shutdown(socket.SHUT_RDWR)
            for pipe, busy in ((self._process.stdout, self._reading), (self._process.stderr, self._reading_error)):
                assert pipe
                with busy:
                    pipe.close()  # or a client whose output nobody takes would not end
            self._end()

    def _end(self) -> None:
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):  # sudo is somebody else
                if self._process.poll() is None:
                    os.killpg(self._process.pid, number)
            with suppress(TimeoutExpired):
                self._process.wait(_CLOSING_SECONDS)
                break

    def _read(self, pipe: IO[bytes] | None, busy: threading.Lock, size: int) -> bytes:
        assert pipe
        with busy:
            if pipe.closed:
                return b""
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            poll.register(self._woken, select.POLLIN)
            woken = self._woken.fileno() in dict(poll.poll())
            return b"" if woken else os.read(pipe.fileno(), size)
