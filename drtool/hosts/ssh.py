"""Run commands on another machine over ssh, by paramiko: all of them over one connection, each on a tether.

Bulk goes the same way. ``python -m benchmarks.ssh`` moves 1 GiB over loopback beside ``ssh host cat``. With aes128-gcm
on a machine of two cores that did other work as well (medians of 6, paramiko 5.1, OpenSSH 9.2): down 419 MB/s, 1.15
times what OpenSSH moved; up 300 MB/s, 0.73 times; most of the loss is the dd of the tether on those two cores.
Three things matter: the cipher (paramiko prefers aes128-ctr), a window of 16 MiB (paramiko's is 2), and never to use
``sendall``. So there is no second channel by the ssh program.

The login shell must be a POSIX one and print nothing; the server needs setsid and dd.
"""

from __future__ import annotations

import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import paramiko

from drtool.errors import CommandFailed, HostUnfit
from drtool.hosts.links import Link
from drtool.hosts.prefix import SUDO
from drtool.hosts.ssh_login import check_host_key, log_in, offered_key_types
from drtool.hosts.ssh_target import SshTarget
from drtool.hosts.tether import TetheredRunner

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # or Python prints its tracebacks

# The fastest first; the counter modes for servers that have nothing newer; none of paramiko's CBC.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_WINDOW = 16 << 20  # what may wait for a slow reader in memory, and what a far server sends without an answer
_PACKET = 256 << 10
_PIECE = (32 << 10) - 64  # what OpenSSH takes in one packet; paramiko's sendall copies all the rest for each of them

# paramiko would exchange keys after 512 MiB, and when the server closes a channel in the middle of that, its one thread
# waits for itself until the connection breaks (5.1.0). A server does not send while it is the one to begin, and does
# begin in time: OpenSSH after 64 GiB, Dropbear after 1 GiB.
_REKEY_BYTES = 1 << 40

_PAUSES = (0.1, 0.3)  # seconds: the server counts a session that just ended until it has tidied it away
_NETWORK = (OSError, EOFError, paramiko.SSHException)


class SshRunner(TetheredRunner):
    """A Runner over ssh. Connects at the first command, and anew after the connection was lost; repeats no command."""

    def __init__(self, target: SshTarget, *, grace: timedelta = timedelta(seconds=10)) -> None:
        self._ssh = SshCarrier(target)
        super().__init__(self._ssh, str(target), prefix=SUDO if target.sudo else (), grace=grace)

    def connect(self) -> None:
        """Connect now. Raises HostUnfit."""
        self._ssh.connect()


def open_ssh(target: SshTarget) -> SshRunner:
    """Return a runner that is connected. Raises HostUnfit, with what to do about it."""
    runner = SshRunner(target)
    runner.connect()
    return runner


class SshCarrier:
    """Starts processes on a server, all of them over one connection."""

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def connect(self) -> _Connection:
        """Return the connection that there is, or a new one. Raises HostUnfit."""
        with self._lock:
            if self._connection is None or not self._connection.alive:
                self._drop()
                connection = _Connection(self._target)
                try:
                    connection.check_silent()
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            return self._connection

    def start(self, argv: Sequence[str]) -> Link:
        connection = self.connect()
        try:
            return connection.start(argv)
        except CommandFailed as error:
            if connection.alive and isinstance(error.__cause__, paramiko.ChannelException):
                raise
        # The connection had died unnoticed, or is dying. Nothing began: a command on a tether waits for our word.
        connection.close()
        return self.connect().start(argv)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class _Connection:
    """One authenticated connection. Closed by its owner, or by its watch when the server is silent."""

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._seconds = target.connect_timeout.total_seconds()
        self._over = threading.Event()
        self._jump = _Connection(target.jump) if target.jump else None
        try:
            self._transport = self._connect(self._wire())
        except BaseException:
            self._close_jump()
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active())

    def start(self, argv: Sequence[str]) -> Link:
        """Start a process. Raises CommandFailed."""
        return _Link(self, self._session(shlex.join(argv)))

    def check_silent(self) -> None:
        """Raise HostUnfit when the login does not run commands, or adds words of its own to what they print."""
        said, seconds = b"", self._seconds
        try:
            session = self._session("true")
            session.settimeout(seconds)
            while data := session.recv(1 << 10):
                said += data
            answered = session.status_event.wait(seconds) and session.exit_status == 0
            session.close()
        except (CommandFailed, *_NETWORK) as error:
            raise HostUnfit(f"{self._target} runs no commands: {_words(error)}") from error
        if said or not answered:
            raise HostUnfit(
                f"the login of {self._target} does not run a command and nothing else: {said[:200]!r}",
                hint="Its shell must run `true` without a word: look at its ~/.bashrc, and for a forced command.",
            )

    def close(self) -> None:
        self._over.set()
        _shut(self._transport)
        self._close_jump()

    def _close_jump(self) -> None:
        if self._jump:
            self._jump.close()

    def _session(self, line: str) -> Any:
        try:
            session = self._open_session()
            try:
                session.exec_command(line)  # waits without a limit of its own: the watch ends it
            except BaseException:
                session.close()
                raise
        except _NETWORK as error:
            refused = isinstance(error, paramiko.ChannelException)
            raise CommandFailed(
                f"{self._target} takes no command: {_words(error)}",
                hint="It may allow too few sessions per connection: see MaxSessions in sshd_config." if refused else "",
            ) from error
        return session

    def _open_session(self) -> Any:
        for pause in _PAUSES:
            try:
                return self._transport.open_session(timeout=self._seconds)
            except paramiko.ChannelException:
                time.sleep(pause)
        return self._transport.open_session(timeout=self._seconds)

    def _wire(self) -> Any:
        host, port = self._target.host, self._target.port
        try:
            if self._jump:
                return self._jump.tunnel(host, port)
            wire = socket.create_connection((host, port), self._seconds)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small frames answer each other
        except _NETWORK as error:
            through = f" through {self._target.jump}" if self._jump else ""
            raise HostUnfit(
                f"no connection to port {port} of {host}{through}: {_words(error)}", hint=_what_to_do(error)
            ) from error
        return wire

    def tunnel(self, host: str, port: int) -> Any:
        """Connect from the server to another; what comes back is used like a socket."""
        return self._transport.open_channel("direct-tcpip", (host, port), ("", 0), timeout=self._seconds)

    def _connect(self, wire: Any) -> paramiko.Transport:
        try:
            transport = paramiko.Transport(wire, default_window_size=_WINDOW, default_max_packet_size=_PACKET)
        except BaseException:
            wire.close()
            raise
        try:
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = self._seconds
            transport.packetizer.REKEY_BYTES = _REKEY_BYTES
            options = transport.get_security_options()
            options.ciphers = [cipher for cipher in _CIPHERS if cipher in options.ciphers]
            options.key_types = offered_key_types(self._target, options.key_types)
            transport.start_client(timeout=self._seconds)  # returns also when that ran out …
            check_host_key(self._target, transport.get_remote_server_key())  # … and then this raises
            log_in(self._target, transport)
        except _NETWORK as error:
            _shut(transport)
            raise HostUnfit(f"{self._target} does not speak ssh as it should: {_words(error)}") from error
        except BaseException:
            _shut(transport)
            raise
        return transport

    def _watch(self) -> None:
        """Ask now and then whether the server is there. paramiko's own keepalive asks and does not wait."""
        while self.alive and not self._over.wait(self._target.keepalive.total_seconds()):
            answered = threading.Event()
            threading.Thread(target=self._ask, args=(answered,), daemon=True).start()
            if not answered.wait(self._target.keepalive_patience.total_seconds()):
                break
        self.close()  # wakes everybody who waits for it

    def _ask(self, answered: threading.Event) -> None:
        with suppress(*_NETWORK):
            self._transport.global_request("keepalive@openssh.com", wait=True)
            answered.set()


class _Link:
    """One session of a connection."""

    def __init__(self, connection: _Connection, session: Any) -> None:
        self._connection = connection
        self._session = session
        self._torn = False

    def read(self, size: int) -> bytes:
        data = self._received(self._session.recv, size)
        if not data and not self._session.eof_received:
            self._torn = True  # OpenSSH may tell the status first and send the rest of the output after it
        return data

    def read_error(self, size: int) -> bytes:
        return self._received(self._session.recv_stderr, size)

    def write(self, data: ReadableBuffer) -> None:
        view = memoryview(data)
        while view:
            try:
                sent = self._session.send(bytes(view[:_PIECE]))
            except _NETWORK as error:
                raise BrokenPipeError from error
            if not sent:
                raise BrokenPipeError
            view = view[sent:]

    def _received(self, receive: Callable[[int], bytes], size: int) -> bytes:
        try:
            return receive(size)
        except _NETWORK:  # what is received makes room for more, and that is told to a server that is gone
            self._torn = True
            return b""

    def wait(self, seconds: float | None) -> int | None:
        if not self._session.status_event.wait(seconds):
            raise TimeoutError
        status: int = self._session.exit_status
        return None if self._torn or status < 0 else status

    def beside(self, argv: Sequence[str]) -> Link:
        return self._connection.start(argv)

    def close(self) -> None:
        with suppress(*_NETWORK):
            self._session.close()


def _shut(transport: paramiko.Transport) -> None:
    with suppress(*_NETWORK):  # of a jump host that is gone already
        transport.close()


def _words(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case EOFError():
            return "the connection was closed"
        case OSError():
            return error.strerror or str(error)
        case _:
            return " ".join(str(error).split()) or type(error).__name__


def _what_to_do(error: BaseException) -> str:
    match error:
        case socket.gaierror():
            return "Look at the spelling of its name, and at what /etc/resolv.conf and /etc/hosts make of it."
        case ConnectionRefusedError():
            return "Nothing listens there: is sshd running, and on that port?"
        case TimeoutError():
            return "The host is down, or a firewall or security group drops what is sent to that port."
        case _:
            return "Try `ssh -v` to the same destination."
