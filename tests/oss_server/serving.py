"""The service on the network, over http and https, and everything that can go wrong there on command."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.oss_server.answers import Answer, Refusal, Request, http_date
from tests.oss_server.service import Service, call_of

FaultKind = Literal[
    "status", "damaged request", "reset request", "lost answer", "reset answer", "short answer", "late status",
    "wrong checksum", "damaged answer", "slow answer", "lost part", "repeated page", "ignored range",
    "altered answer",
]  # fmt: skip


@dataclass(slots=True)
class Fault:
    """Happens to the next ``left`` requests of ``call`` ("" is any). ``hits`` counts them.

    ``status``: refused with ``status`` and ``code`` before anything is done; ``late status``: after it was done.
    ``damaged request``: a byte of the body changed on its way here. ``reset request``: the connection is reset after
    ``after`` bytes of the body. ``lost answer``: done, and reset before a byte came back; ``reset answer``: after
    ``after`` bytes of the body; ``short answer``: an orderly end after as many, with the full Content-Length.
    ``slow answer``: ``seconds`` pass in the middle of the body. ``lost part``: confirmed, and not there later.
    ``repeated page``: the listing before this one again. ``ignored range``: somebody in between took the range away.
    ``altered answer``: done, and told with another ``status`` and ``headers``.
    """

    kind: FaultKind
    call: str = ""
    after: int = 0
    left: int = 1
    status: int = 503
    code: str = "ServiceUnavailable"
    ec: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    hits: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that arrived, whatever became of it."""

    call: str
    request: Request


class Server(ThreadingHTTPServer):
    """Serves one Service. ``faults`` and ``seen`` are for the tests; ``broken`` holds defects of the server itself."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service, trust: ssl.SSLContext | None = None, *, cnames: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service, self.trust, self.cnames = service, trust, cnames
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.broken: list[BaseException] = []
        self.last_page: Answer | None = None
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def due(self, call: str, *kinds: FaultKind) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.left > 0 and fault.call in ("", call):
                    fault.left -= 1
                    fault.hits += 1
                    return fault
        return None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a slow handshake must not keep others waiting.
        try:
            connection = self.trust.wrap_socket(request, server_side=True) if self.trust else request
        except OSError:
            return  # the other side does not trust us, or went away
        self._open.add(connection)
        self.connections += 1
        try:
            _Handler(connection, client_address, self)
        except (OSError, ValueError):
            pass  # the other side went away; ValueError: a file of a socket that a fault closed
        except BaseException as error:
            self.broken.append(error)
            raise
        finally:
            self._open.discard(connection)
            connection.close()

    def end_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Reset(OSError):
    """The connection was reset on command."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        return

    def do_GET(self) -> None:
        head = self._route()
        call = call_of(head)
        if self.server.due(call, "ignored range"):
            head.headers.pop("range", None)
        refused = self.server.due(call, "status")
        request_id = secrets.token_hex(12).upper()
        try:
            body = self._read_body(call)
            request = Request(head.method, head.bucket, head.key, head.query, head.headers, body)
            self.server.seen.append(Seen(call, request))
            answer = self._answer(call, request, refused)
        except Refusal as refusal:
            answer = self._refuse(refusal, request_id)
            answer.headers |= refused.headers if refused else {}
        answer.headers |= {
            "server": "AliyunOSS",
            "date": http_date(self.server.service.clock.now() + self.server.service.skew),
            "x-oss-request-id": request_id,
            "x-oss-server-time": "1",
        }
        self._send(call, answer)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  the base class looks for these names

    def _route(self) -> Request:
        """Find bucket and key: in the path of an IP address, else in the host name. Decoded after routing."""
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host in self.server.cnames:
            bucket, key = self.server.cnames[host], path.removeprefix("/")
        elif host == "localhost" or _is_address(host):
            bucket, _, key = path.removeprefix("/").partition("/")
        elif host.startswith("oss-"):
            bucket, key = "", ""
        else:
            bucket, key = host.partition(".")[0], path.removeprefix("/")
        known = dict(parse_qsl(query, keep_blank_values=True))
        return Request(self.command, unquote(bucket), unquote(key), known, headers)

    def _read_body(self, call: str) -> bytes:
        if fault := self.server.due(call, "reset request"):
            self.rfile.read(fault.after)
            self._reset()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        elif "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):  # the other side went away: nothing was asked for
                self.close_connection = True
                raise _Reset("the request broke off")
        elif self.command == "PUT":
            self.close_connection = True
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        else:
            body = b""
        if body and self.server.due(call, "damaged request"):
            return bytes([body[0] ^ 1]) + body[1:]
        return body

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue

    def _answer(self, call: str, request: Request, refused: Fault | None) -> Answer:
        """What the service answers, or what a fault makes of it once the work is done."""
        if refused:
            raise Refusal(refused.status, refused.code, ec=refused.ec)
        answer = self.server.service.answer(request)
        if self.server.due(call, "lost part"):
            bucket = self.server.service.buckets[request.bucket]
            del bucket.uploads[request.query["uploadId"]].parts[int(request.query["partNumber"])]
        if self.server.due(call, "wrong checksum"):
            answer.headers["x-oss-hash-crc64ecma"] = str(int(answer.headers["x-oss-hash-crc64ecma"]) ^ 1)
        if answer.body and self.server.due(call, "damaged answer"):
            answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])
        if fault := self.server.due(call, "altered answer"):
            answer.status = fault.status
            answer.headers |= fault.headers
        if call in ("ListObjects", "ListObjectsV2"):
            if self.server.last_page and self.server.due(call, "repeated page"):
                return self.server.last_page
            self.server.last_page = answer
        if fault := self.server.due(call, "late status"):
            raise Refusal(fault.status, fault.code)
        return answer

    def _refuse(self, refusal: Refusal, request_id: str) -> Answer:
        body = refusal.body(request_id, self.headers.get("Host", ""))
        headers = {"content-type": "application/xml"} | ({"x-oss-ec": refusal.ec} if refusal.ec else {})
        if self.command == "HEAD" or refusal.status == HTTPStatus.NOT_MODIFIED:
            return Answer(refusal.status, headers | {"x-oss-err": base64.b64encode(body).decode()})
        return Answer(refusal.status, headers, body)

    def _send(self, call: str, answer: Answer) -> None:
        if self.server.due(call, "lost answer"):
            self._reset()
        no_body = self.command == "HEAD" or answer.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        body = b"" if no_body else answer.body
        if answer.status != HTTPStatus.NO_CONTENT:
            answer.headers.setdefault("content-length", str(len(body)))
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        fault = self.server.due(call, "reset answer", "short answer", "slow answer")
        if fault is None:
            # A small answer in one piece: a client must not wait for the second.
            self.wfile.write(head + body if len(body) < 1 << 16 else head)
            if len(body) >= 1 << 16:
                self.wfile.write(body)
            return
        self.wfile.write(head + body[: fault.after])
        match fault.kind:
            case "reset answer":
                time.sleep(0.05)  # a reset throws away what the other side has not read yet
                self._reset()
            case "short answer":
                self.close_connection = True
            case _:
                time.sleep(fault.seconds)
                self.wfile.write(body[fault.after :])

    def _reset(self) -> None:
        """Close with RST, as a firewall or a dying machine does, not with the orderly FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        raise _Reset("reset on command")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def serving(server: Server) -> Iterator[None]:
    """Serve in a thread of its own until the block is left; a defect of the server itself is raised then."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.end_connections()
        server.server_close()
    if server.broken:
        raise server.broken[0]
