"""A front of an S3 server that refuses what a policy does not allow: with 403, before the server hears of it."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_DENIED = b"<Error><Code>AccessDenied</Code><Message>not allowed by the policy</Message></Error>"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``query``: its names; ``again``: the same method and target came before."""

    method: str
    path: str
    query: frozenset[str]
    headers: frozenset[str]
    again: bool


Rule = Callable[[Asked], bool]


@dataclass
class Front:
    """``denied`` rules, by name; ``refused`` are those that hit, ``passed`` the requests that went through."""

    upstream: int
    port: int = 0
    denied: dict[str, Rule] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    passed: list[Asked] = field(default_factory=list)
    bodies: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _known: set[tuple[str, str]] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def judge(self, method: str, target: str, headers: frozenset[str]) -> Asked | None:
        """The request, or None if it is refused."""
        parts = urlsplit(target)
        query = frozenset(parse_qs(parts.query, keep_blank_values=True)) - {"x-id"}
        asked = Asked(method, parts.path, query, headers, (method, target) in self._known)
        self._known.add((method, target))
        for name, rule in self.denied.items():
            if rule(asked):
                self.refused.append(name)
                return None
        self.passed.append(asked)
        return asked


@contextlib.contextmanager
def front_of(port: int) -> Iterator[Front]:
    """Serve a Front to this port of loopback until the block is left."""
    front = Front(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("content-length", 0))
            if "100-continue" in self.headers.get("expect", ""):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(length)
            asked = front.judge(self.command, self.path, frozenset(name.lower() for name in self.headers))
            if asked is None:
                self._send(403, {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else _DENIED)
                return
            front.bodies[self.command, self.path] = body
            connection = http.client.HTTPConnection("127.0.0.1", front.upstream, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            self._send(answer.status, dict(answer.getheaders()), answer.read(), answer.getheader("content-length"))
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - looked for by these names

        def _send(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bucket_call(*names: str) -> Rule:
    return lambda asked: asked.method in ("PUT", "DELETE") and bool(asked.query & set(names))


def _object_call(asked: Asked) -> bool:
    return asked.path.count("/") > 1


_BYPASS = "x-amz-bypass-governance-retention"
_OWN_KEY = "x-amz-server-side-encryption-customer-algorithm"

#: What each attempt of ``check --attack`` needs.
RULES: dict[str, Rule] = {
    "delete": lambda asked: asked.method == "DELETE" and _object_call(asked) and not asked.query,
    "overwrite": lambda asked: asked.method == "PUT" and asked.path.endswith("/overwrite") and asked.again,
    "delete a version": lambda asked: (
        asked.method == "DELETE" and "versionId" in asked.query and _BYPASS not in asked.headers
    ),
    "shorten retention": lambda asked: asked.method == "PUT" and "retention" in asked.query,
    "bypass retention": lambda asked: asked.method == "DELETE" and _BYPASS in asked.headers,
    "re-encrypt with another key": lambda asked: asked.method == "PUT" and _OWN_KEY in asked.headers,
    "drop versioning": _bucket_call("versioning"),
    "change lifecycle": _bucket_call("lifecycle"),
    "change bucket policy": _bucket_call("policy"),
    "open to the public": _bucket_call("publicAccessBlock"),
    "change default encryption": _bucket_call("encryption"),
    "write for another instance": lambda asked: (
        asked.method == "PUT" and _object_call(asked) and "/gitlab/" not in asked.path
    ),
}
