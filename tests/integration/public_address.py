"""A public address and the people behind it: a front that leads to whoever holds it, and one who reads and writes.

The front is what a cloud's network does: at each connection it asks the cloud's own state who holds the address, and
passes bytes on to that host. Nothing here knows of drtool.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.address_servers.digitalocean import DigitalOceanServer
from tests.contracts.address_contract import JumpingClock

_SECONDS = 10
_PAUSE = 0.1
_CHUNK = 1 << 16

# GitLab's Puma as far as one page more goes: /write/7 is a row in the database before it is answered. It ends as the
# real one does, once it answered what it had taken.
WRITING_PUMA = """\
import signal, socket, subprocess, sys, threading
from pathlib import Path
sys.path.insert(0, "/opt/gitlab/embedded")
from standin import web
from standin.settings import Host

HOST = Host(Path("/"))
PSQL = ["/opt/gitlab/embedded/bin/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-h", "/var/opt/gitlab/postgresql"]
ROW = ("insert into issues (project_id, iid, author_id, title, created_at) "
       "select min(id), 1000000 + {0}, 1, 'write {0}', '2026-01-13' from projects")

class Handler(web._Handler):
    host, service = HOST, "puma"

    def _answer(self):
        if not self.path.startswith("/write/"):
            return super()._answer()
        row = ROW.format(int(self.path.rpartition("/")[2]))
        done = subprocess.run([*PSQL, "-U", "gitlab", "-c", row, "gitlabhq_production"], check=False).returncode == 0
        return (200 if done else 500), socket.gethostname().partition(".")[0].encode()

class Server(web._UnixServer):
    daemon_threads = False

path = web._socket(HOST, "puma")
path.unlink(missing_ok=True)
with Server(str(path), Handler) as server:
    path.chmod(0o777)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
"""


class RealClock(JumpingClock):
    """Lets what a provider does take the time that it says."""

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Front:
    """A reserved IP of the cloud and two of its ports. ``closed_to``: droplets whose firewall lets nobody in."""

    cloud: DigitalOceanServer
    ip: str
    hosts: Mapping[int, str]
    closed_to: set[int] = field(default_factory=set)
    web: int = 0
    ssh: int = 0

    @property
    def holder(self) -> int | None:
        with self.cloud.lock:
            self.cloud.account.settle()
            return self.cloud.account.ips[self.ip]

    @contextlib.contextmanager
    def open(self) -> Iterator[Front]:
        with self._port(80) as self.web, self._port(22) as self.ssh:
            yield self

    @contextlib.contextmanager
    def _port(self, port: int) -> Iterator[int]:
        handler = type("Handler", (_Passing,), {"way": lambda _: self._way(port)})
        with _Server(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield server.server_address[1]
            finally:
                server.shutdown()
                thread.join()

    def _way(self, port: int) -> tuple[str, int] | None:
        holder = self.holder
        return None if holder is None or holder in self.closed_to else (self.hosts[holder], port)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


class _Passing(socketserver.BaseRequestHandler):
    way: Callable[[], tuple[str, int] | None]

    def handle(self) -> None:
        there = self.way()
        if there is None:
            return
        with contextlib.suppress(OSError), socket.create_connection(there, _SECONDS) as behind:
            ends = {self.request: behind, behind: self.request}
            while ready := select.select(list(ends), [], [], 60)[0]:
                for end in ready:
                    data = end.recv(_CHUNK)
                    if not data:
                        return
                    ends[end].sendall(data)


@dataclass(frozen=True, slots=True)
class Write:
    """One that somebody tried. ``by`` is the host that took it; empty: nobody said so."""

    number: int
    sent_at: datetime
    by: str


@dataclass
class Visitor:
    """Reads and, with a pen, writes through the public address again and again, as fast as it is answered."""

    port: int
    writes: list[Write] = field(default_factory=list)
    pen: bool = True
    read: int = 0
    unread: int = 0
    """How often the page of readiness was not served."""

    @contextlib.contextmanager
    def visiting(self) -> Iterator[Visitor]:
        """Come and go; when the block begins they were served already."""
        over = threading.Event()
        thread = threading.Thread(target=self._visit, args=(over,))
        thread.start()
        try:
            self.await_served()
            yield self
        finally:
            over.set()
            thread.join()

    def await_served(self) -> None:
        """Wait until one more write was taken than now; without a pen, one more page read."""
        before, deadline = self._served(), time.monotonic() + 60
        while self._served() == before:
            assert time.monotonic() < deadline, "nobody is served"
            time.sleep(_PAUSE)

    def taken(self, by: str = "") -> list[Write]:
        return [write for write in list(self.writes) if write.by and (not by or write.by == by)]

    def _served(self) -> int:
        return len(self.taken()) if self.pen else self.read

    def _visit(self, over: threading.Event) -> None:
        while not over.wait(_PAUSE):
            answered = self._get("/-/readiness") is not None
            self.read, self.unread = self.read + answered, self.unread + (not answered)
            if not self.pen:
                continue
            sent_at, number = datetime.now(UTC), len(self.writes)
            self.writes.append(Write(number, sent_at, self._get(f"/write/{number}") or ""))

    def _get(self, path: str) -> str | None:
        return ask("127.0.0.1", self.port, path)


def ask(host: str, port: int, path: str) -> str | None:
    """Return a page; None where it is not served."""
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read().decode()
        return said if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wrong(visitor: Visitor, rows: Mapping[str, Sequence[int]], *, old: str, frozen_at: datetime) -> list[str]:
    """Say what a cut-over did wrong to writes. ``rows``: what each host holds of them; ``frozen_at``: ``old`` was."""
    lost = [write for write in visitor.taken() if write.number not in rows[write.by]]
    found = [f"{write.number} was taken by {write.by}, which does not hold it" for write in lost]
    seen: set[int] = set()
    for held in rows.values():
        found += [f"{number} is held by both" for number in sorted(seen.intersection(held))]
        seen.update(held)
    late = [write.number for write in visitor.taken(old) if write.sent_at > frozen_at]
    found += [f"{number} was taken by {old} after it was frozen" for number in late]
    return found
