"""A web server that answers whatever it is told to: for what services say that no server here says."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import Authority


@dataclass(frozen=True, slots=True)
class Canned:
    """One answer. HEAD gets its status and headers, without the body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Web:
    """``answer`` is asked with method and path; ``seen`` remembers both, and the headers."""

    def __init__(self, answer: Callable[[str, str], Canned], authority: Authority | None) -> None:
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.port: int = self.server.server_port
        if authority:
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trust.load_cert_chain(authority.certificate, authority.key)
            self.server.socket = trust.wrap_socket(self.server.socket, server_side=True)


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _speak(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            web.seen.append((self.command, self.path, dict(self.headers.items())))
            canned = web.answer(self.command, self.path)
            self.send_response_only(canned.status)
            for name, value in {"Content-Length": str(len(canned.body)), **canned.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(canned.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _speak  # noqa: N815  the base class looks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
            return

    return Handler


@contextlib.contextmanager
def web(answer: Callable[[str, str], Canned], *, authority: Authority | None = None) -> Iterator[Web]:
    """Run it on a free port of loopback until the block is left; over https with the certificate of an authority."""
    made = Web(answer, authority)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()
