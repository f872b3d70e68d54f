"""Look at a GitLab as people do, from outside: its pages through TLS, its SSH server, a repository.

Each probe says what is wrong, or None. Where it connects to is given apart from the name that it asks for, so the same
probe looks past the public address, and past what resolvers remember.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from drtool.clock import Clock
from drtool.core.command import Command
from drtool.errors import CommandFailed
from drtool.hosts import Runner

_SECONDS = 10.0
_EVERY = timedelta(seconds=1)

Probe = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Web:
    """Pages of ``url`` (https://gitlab.example.com), asked for at ``connect_to`` (HOST or HOST:PORT) if that is given.

    The certificate must be for the host of ``url``, whatever is connected to. ``plain``: without TLS, as behind a
    balancer that does it.
    """

    url: str
    path: str = "/users/sign_in"
    connect_to: str = ""
    plain: bool = False
    ca_bundle: Path | None = None

    def problem(self) -> str | None:
        """Say why the page was not served; None if it was. A page that leads on to another one is one."""
        try:
            status = self._ask()
        except (OSError, http.client.HTTPException) as error:
            return f"{self._where}: {_words(error)}"
        return None if 200 <= status < 400 else f"{self._where}: it answers with {status}"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def _where(self) -> str:
        return f"{self.url}{self.path}" + (f" at {self.connect_to}" if self.connect_to else "")

    def _ask(self) -> int:
        parts = urlsplit(self.url)
        name, secure = parts.hostname or "", parts.scheme == "https" and not self.plain
        host, port = split_port(self.connect_to or parts.netloc.rpartition("@")[2], 443 if secure else 80)
        connection = _Connection(name, host, port, _context(self.ca_bundle) if secure else None)
        try:
            headers = {"Host": parts.netloc, "User-Agent": "drtool", "Connection": "close"}
            if self.plain and parts.scheme == "https":
                headers["X-Forwarded-Proto"] = "https"  # or GitLab sends us on to the name that we look past
            connection.request("GET", self.path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """To an address, and by TLS to the one who has the certificate of ``name``."""

    def __init__(self, name: str, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=_SECONDS)
        self._name, self._context = name, context

    def connect(self) -> None:
        super().connect()
        if self._context:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name)


@dataclass(frozen=True, slots=True)
class Ssh:
    """An SSH server that must show one of these host keys (lines of ``ssh-keyscan``, without the name)."""

    host: str
    port: int
    keys: frozenset[str]
    runner: Runner

    def problem(self) -> str | None:
        if problem := self._banner():
            return problem
        # Of each kind that there is, as OpenSSH asks; status 1 and nothing when nobody is there.
        command = Command(("ssh-keyscan", "-T", "10", "-p", str(self.port), "--", self.host), timedelta(minutes=1))
        try:
            shown = host_keys(self.runner.run(command).decode("utf-8", "replace"), named=True)
        except CommandFailed as error:
            return f"ssh {self.host}:{self.port}: {error}"
        if not shown or not shown <= self.keys:
            return f"ssh {self.host}:{self.port}: its host keys are not those of the host that is to answer"
        return None

    def _banner(self) -> str | None:
        try:
            with socket.create_connection((self.host, self.port), _SECONDS) as connection:
                connection.settimeout(_SECONDS)
                said = connection.recv(255)
        except OSError as error:
            return f"ssh {self.host}:{self.port}: {_words(error)}"
        return None if said.startswith(b"SSH-2.0-") else f"ssh {self.host}:{self.port}: nobody speaks SSH there"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that anybody may clone, asked for its refs."""

    url: str
    path: str
    runner: Runner
    connect_to: str = ""

    def problem(self) -> str | None:
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address, _ = split_port(self.connect_to, port)
        there = ("-c", f"http.curloptResolve={parts.hostname}:{port}:{address}") if address else ()
        url = f"{self.url.rstrip('/')}/{self.path}"
        try:
            self.runner.run(
                Command(("git", *there, "ls-remote", "--exit-code", "--", url, "HEAD"), timedelta(minutes=1))
            )
        except CommandFailed as error:
            return f"{url}: {error}"
        return None


def host_keys(text: str, *, named: bool = False) -> frozenset[str]:
    """Kind and key of each line of public host keys; ``named``: as ssh-keyscan prints them, with the host in front."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    skipped = 1 if named else 0
    return frozenset(" ".join(words[skipped : skipped + 2]) for words in lines if len(words) >= skipped + 2)


def first_problem(probes: tuple[Probe, ...]) -> str | None:
    """What the first probe complains of that does; None when all are content."""
    return next((problem for probe in probes if (problem := probe())), None)


@dataclass
class Watch:
    """Asks again and again, and keeps when it was not answered. In seconds of the clock."""

    probe: Probe
    clock: Clock
    every: timedelta = _EVERY
    gaps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def longest_outage(self) -> float | None:
        """The longest time without an answer, at both ends of which there was one; None if there was none such."""
        return max((end - start for start, end in self.gaps), default=None)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch while the block runs. The last answer is waited for."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=3 * _SECONDS)

    def _watch(self, over: threading.Event) -> None:
        answered = None  # the last moment at which it was
        missing = False
        while True:
            asked = self.clock.monotonic()
            if self.probe() is None:
                if missing and answered is not None:
                    self.gaps.append((answered, self.clock.monotonic()))
                answered, missing = asked, False
            else:
                missing = True
            if over.wait(self.every.total_seconds()):
                return


def split_port(text: str, default: int) -> tuple[str, int]:
    """Divide HOST, HOST:PORT, [IPV6] or [IPV6]:PORT."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or default


def _context(ca_bundle: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)


def _words(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate does not hold: {error.verify_message}"
        case TimeoutError():
            return "no answer"
        case OSError() if error.strerror:
            return error.strerror
    return f"{type(error).__name__}: {error}"
