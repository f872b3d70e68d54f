"""nginx, Workhorse and Puma in a row, as far as their health goes: each passes on to the next, the last one answers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from .control import database_answers, is_slow
from .services import service
from .settings import Host

_SECONDS = 10
_PORT = 80
_SOCKETS = {"gitlab-workhorse": "gitlab-workhorse/sockets/socket", "puma": "gitlab-rails/sockets/gitlab.socket"}
_BEHIND = {"nginx": "gitlab-workhorse", "gitlab-workhorse": "puma"}


def serve(host: Host, name: str) -> int:
    """Be that service until a signal comes."""
    handler = type("Handler", (_Handler,), {"host": host, "service": name})
    if name == "nginx":
        server: socketserver.BaseServer = _TcpServer(("", _PORT), handler)
    else:
        path = _socket(host, name)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        server = _UnixServer(str(path), handler)
        path.chmod(0o777)
    with server:
        server.serve_forever()
    return 0


def ready(host: Host) -> dict[str, bool]:
    """Ask everything that Puma needs."""
    return {
        "master_check": not is_slow(host, service(host, "puma")),
        "db_check": database_answers(host),
        "redis_check": _redis_answers(host.data / "redis/redis.socket"),
        "gitaly_check": _accepts(host.data / "gitaly/gitaly.socket"),
    }


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    host: Host
    service: str
    timeout = _SECONDS

    def do_GET(self) -> None:
        behind = _BEHIND.get(self.service)
        status, body = _ask(_socket(self.host, behind), self.path) if behind else self._answer()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a socket's peer has no address to log."""

    def _answer(self) -> tuple[int, bytes]:
        match self.path.partition("?")[0]:
            case "/-/readiness":
                checks = ready(self.host)
            case "/-/liveness" | "/-/health":
                checks = {"master_check": True}
            case _:
                return 404, b"{}"
        status = "ok" if all(checks.values()) else "failed"
        each = {name: [{"status": "ok" if passed else "failed"}] for name, passed in checks.items()}
        return (200 if status == "ok" else 503), json.dumps({"status": status, **each}).encode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


def _ask(path: Path, target: str) -> tuple[int, bytes]:
    """Pass a request on; 502 when nobody is there, as nginx and Workhorse say it."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 502, b"{}"
    finally:
        connection.close()


def _redis_answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_SECONDS)
            client.connect(os.fspath(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _accepts(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_SECONDS)
            client.connect(os.fspath(path))
            return True
    except OSError:
        return False


def _socket(host: Host, name: str) -> Path:
    return host.data / _SOCKETS[name]
