"""DigitalOcean's API as far as reserved IPs, droplets, actions and domain records go, refusing what it refuses.

Tokens are checked; an order is an action that takes ``takes`` of the test's clock and may fail at its end; what is busy
refuses orders by 422; lists come in pages; every request can be throttled, denied, lost or answered by a 5xx.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.contracts.address_contract import Gate, JumpingClock

TOKEN = "dop_v1_not_a_real_token"
DOMAIN = "example.com"


class Refused(Exception):
    def __init__(self, status: int, name: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"id": name, "message": message, "request_id": "not-a-real-request"}


@dataclass
class Action:
    """What an order became. ``ends_at`` is of the test's clock; ``apply`` is what it does then, None: it fails."""

    number: int
    kind: str
    droplet: int | None
    ip: str | None
    ends_at: float
    apply: Callable[[], None] | None
    status: str = "in-progress"

    def told(self) -> dict[str, Any]:
        return {"id": self.number, "status": self.status, "type": self.kind, "resource_id": self.droplet}


@dataclass
class Droplet:
    number: int
    region: str = "fra1"
    status: str = "active"

    def told(self) -> dict[str, Any]:
        return {"id": self.number, "status": self.status, "locked": False, "region": {"slug": self.region}}


class Account:
    """The truth of one account. ``place`` and the like work past the gate."""

    def __init__(self, gate: Gate, clock: JumpingClock, takes: timedelta) -> None:
        self.gate, self.clock, self.takes = gate, clock, takes
        self.droplets: dict[int, Droplet] = {}
        self.ips: dict[str, int | None] = {}
        self.records: list[dict[str, Any]] = []
        self.actions: list[Action] = []
        self.bodies: list[dict[str, Any]] = []
        self.fail_orders = 0
        self.page = 3
        self._numbers = itertools.count(36_804_636)

    def droplet(self, **what: Any) -> int:
        number = next(self._numbers)
        self.droplets[number] = Droplet(number, **what)
        return number

    def record(self, name: str, data: str, *, kind: str = "A", ttl: int = 600) -> dict[str, Any]:
        record = {"id": next(self._numbers), "type": kind, "name": name, "data": data, "ttl": ttl, "flags": None}
        self.records.append(record)
        return record

    def start(self, kind: str, *, droplet: int | None, ip: str | None = None, apply: Any = None) -> Action:
        ends_at = self.clock.monotonic() + self.takes.total_seconds()
        action = Action(next(self._numbers), kind, droplet, ip, ends_at, apply)
        self.actions.append(action)
        return action

    def place(self, ip: str, droplet: int | None) -> None:
        """Move it at once, as somebody else's hand does; what was under way with it is over."""
        for action in self.actions:
            if action.ip == ip and action.status == "in-progress":
                action.status = "completed"
        self.ips[ip] = droplet

    def settle(self, *, moves: bool = False) -> None:
        """End what has run its time; with ``moves`` also what is under way with an address."""
        for action in self.actions:
            if action.status == "in-progress" and ((moves and action.ip) or action.ends_at <= self.clock.monotonic()):
                action.status = "completed" if action.apply else "errored"
                if action.apply:
                    action.apply()

    def busy(self, *, droplet: int | None = None, ip: str | None = None) -> bool:
        return any(
            action.status == "in-progress"
            and ((ip is not None and action.ip == ip) or (droplet is not None and action.droplet == droplet))
            for action in self.actions
        )

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.settle()
        for wanted, pattern, function in _ROUTES:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                return function(self, *found.groups(), query=query, body=body)  # type: ignore[no-any-return]  # as they come
        raise Refused(404, "not_found", "The resource you were accessing could not be found.")

    def reserved_ip(self, ip: str, **_: Any) -> tuple[int, dict[str, Any]]:
        return 200, {"reserved_ip": self._ip(ip)}

    def reserved_ips(self, *, query: dict[str, str], **_: Any) -> tuple[int, dict[str, Any]]:
        return 200, self._paged("reserved_ips", [self._ip(ip) for ip in self.ips], query)

    def order(self, ip: str, *, body: dict[str, Any], **_: Any) -> tuple[int, dict[str, Any]]:
        self._ip(ip)
        droplet = body.get("droplet_id")
        if body.get("type") != "assign" or not isinstance(droplet, int):
            raise Refused(422, "unprocessable_entity", "type must be assign or unassign, droplet_id a number")
        found = self._droplet(droplet)
        if self.busy(ip=ip) or self.busy(droplet=droplet):
            raise Refused(422, "unprocessable_entity", "Droplet already has a pending event.")
        if found.region != "fra1":
            raise Refused(422, "unprocessable_entity", "The reserved IP and the Droplet are in different regions.")
        if found.status != "active" or any(one == droplet and other != ip for other, one in self.ips.items()):
            raise Refused(422, "unprocessable_entity", "The Droplet cannot take this reserved IP.")
        fails, self.fail_orders = self.fail_orders > 0, max(0, self.fail_orders - 1)
        apply = None if fails else (lambda: self.ips.update({ip: droplet}))
        action = self.start("assign_ip", droplet=droplet, ip=ip, apply=apply)
        return 201, {"action": action.told()}

    def action(self, number: str, **_: Any) -> tuple[int, dict[str, Any]]:
        for action in self.actions:
            if action.number == int(number):
                return 200, {"action": action.told()}
        raise Refused(404, "not_found", "The resource you were accessing could not be found.")

    def one_droplet(self, number: str, **_: Any) -> tuple[int, dict[str, Any]]:
        return 200, {"droplet": self._droplet(int(number)).told()}

    def droplet_actions(self, number: str, *, query: dict[str, str], **_: Any) -> tuple[int, dict[str, Any]]:
        self._droplet(int(number))
        mine = [action.told() for action in reversed(self.actions) if action.droplet == int(number)]
        return 200, self._paged("actions", mine, query)

    def list_records(self, domain: str, *, query: dict[str, str], **_: Any) -> tuple[int, dict[str, Any]]:
        self._domain(domain)
        name = query.get("name", DOMAIN).removesuffix(DOMAIN).removesuffix(".") or "@"
        found = [
            record
            for record in self.records
            if query.get("type") in (None, record["type"]) and ("name" not in query or record["name"] == name)
        ]
        return 200, self._paged("domain_records", found, query)

    def change_record(self, domain: str, number: str, *, body: dict[str, Any], **_: Any) -> tuple[int, dict[str, Any]]:
        self._domain(domain)
        for record in self.records:
            if record["id"] == int(number):
                if body.get("type") != record["type"] or body.get("ttl", 30) < 30:
                    raise Refused(422, "unprocessable_entity", "type is missing, or ttl below 30")
                record |= body
                record["data"] = str(record["data"]).removesuffix(".")
                return 200, {"domain_record": record}
        raise Refused(404, "not_found", "The resource you were accessing could not be found.")

    def _ip(self, ip: str) -> dict[str, Any]:
        if ip not in self.ips:
            raise Refused(404, "not_found", "The resource you were accessing could not be found.")
        droplet = self.ips[ip]
        return {
            "ip": ip,
            "region": {"slug": "fra1"},
            "droplet": self.droplets[droplet].told() if droplet else None,
            "locked": self.busy(ip=ip),
        }

    def _droplet(self, number: int) -> Droplet:
        if number not in self.droplets:
            raise Refused(404, "not_found", "The resource you requested could not be found.")
        return self.droplets[number]

    def _domain(self, domain: str) -> None:
        if domain != DOMAIN:
            raise Refused(404, "not_found", "The resource you were accessing could not be found.")

    def _paged(self, name: str, items: list[Any], query: dict[str, str]) -> dict[str, Any]:
        """Cut a list into pages, smaller than asked for, as the service may."""
        number = int(query.get("page", "1"))
        size = min(int(query.get("per_page", "20")), self.page)
        more = number * size < len(items)
        pages = {"next": f"https://elsewhere.invalid/v2?page={number + 1}"} if more else {}
        part = items[(number - 1) * size : number * size]
        return {name: part, "links": {"pages": pages} if pages else {}, "meta": {"total": len(items)}}


_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "reserved_ips", Account.reserved_ips),
    ("GET", "reserved_ips/([0-9.]+)", Account.reserved_ip),
    ("POST", "reserved_ips/([0-9.]+)/actions", Account.order),
    ("GET", "actions/([0-9]+)", Account.action),
    ("GET", "droplets/([0-9]+)", Account.one_droplet),
    ("GET", "droplets/([0-9]+)/actions", Account.droplet_actions),
    ("GET", "domains/([a-z.]+)/records", Account.list_records),
    ("PATCH", "domains/([a-z.]+)/records/([0-9]+)", Account.change_record),
)


class DigitalOceanServer(ThreadingHTTPServer):
    """Serves one account at a time; ``use`` gives it a new one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.account = Account(Gate(), JumpingClock(), timedelta())
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def use(self, gate: Gate, clock: JumpingClock, *, takes: timedelta = timedelta()) -> Account:
        self.account = Account(gate, clock, takes)
        return self.account


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: DigitalOceanServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        return

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path, query = split.path.removeprefix("/v2/"), dict(parse_qsl(split.query))
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            account = self.server.account
            fate = account.gate.decide(f"{self.command} {path.split('/')[0]}", changes=self.command != "GET")
            if fate == "drop":
                self.close_connection = True
                return
            try:
                self._refuse(fate)
                body = json.loads(text) if text else {}
                account.bodies.append(body)
                status, answer = account.answer(self.command, path, query, body)
                headers: dict[str, str] = {}
            except Refused as refused:
                status, answer, headers = refused.status, refused.body, refused.headers
        if fate == "drop after":
            self.close_connection = True
            return
        if fate == "error after":
            status, answer = 500, {"id": "server_error", "message": "Unexpected server-side error"}
        self._send(status, answer, headers)

    do_POST = do_PATCH = do_GET  # noqa: N815  the base class looks for these names

    def _refuse(self, fate: str) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized", "Unable to authenticate you")
        if fate == "throttle":
            raise Refused(429, "too_many_requests", "API Rate limit exceeded.", {"Retry-After": "11"})
        if fate == "deny":
            raise Refused(403, "forbidden", "You are not authorized to perform this operation")
        if fate == "error":
            raise Refused(500, "server_error", "Unexpected server-side error")

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def digitalocean_server() -> Iterator[DigitalOceanServer]:
    server = DigitalOceanServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def digitalocean() -> Iterator[DigitalOceanServer]:
    with digitalocean_server() as server:
        yield server
