"""Real servers that notifications are sent to: HTTP ones in every mood, and one for mail. All on loopback."""

from __future__ import annotations

import email
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

MAIL_USER, MAIL_PASSWORD = "backup", "fake-password-4711-zulu"


@dataclass
class Listener:
    """An HTTP server. ``status`` is what it answers, ``said`` its text; ``hold`` keeps answers back until it is set."""

    port: int
    status: int = 200
    said: bytes = b"OK"
    trickles: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    received: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.received]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What apprise's json:// sent."""
        return [json.loads(body) for _, body in self.received]


@contextmanager
def listener(*, hangs: bool = False, trickles: bool = False) -> Iterator[Listener]:
    """``hangs``: takes the request and answers nothing. ``trickles``: answers a byte at a time, for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            state.received.append((self.path, body))
            state.hold.wait(60)
            self.send_response(state.status)
            self.send_header("Content-Length", "100000" if state.trickles else str(len(state.said)))
            self.end_headers()
            while state.trickles and not over.is_set():
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
            self.wfile.write(state.said)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client went away, as it should
                super().handle()

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = Listener(server.server_address[1], trickles=trickles)
    if not hangs:
        state.hold.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        over.set()
        state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Mailbox:
    """A mail server that wants MAIL_USER and MAIL_PASSWORD."""

    port: int
    mails: list[Message] = field(default_factory=list)

    @property
    def url(self) -> str:
        login = f"{MAIL_USER}:{MAIL_PASSWORD}"
        return f"mailto://{login}@127.0.0.1:{self.port}?mode=insecure&from=backup@example.com&to=root@example.com"


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox(closed_port())  # aiosmtpd has to be told one

    class Handler:
        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
            box.mails.append(email.message_from_bytes(envelope.content))
            return "250 OK"

    def check(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and data.password == MAIL_PASSWORD.encode()
        return AuthResult(success=good and data.login == MAIL_USER.encode(), handled=False)

    controller = Controller(
        Handler(), hostname="127.0.0.1", port=box.port, authenticator=check, auth_require_tls=False, auth_required=True
    )
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
