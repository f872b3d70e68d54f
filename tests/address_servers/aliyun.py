"""An honest local double of the interfaces of Alibaba Cloud that addresses need: VPC, ECS and Alidns on one port.

It checks signatures (versions 1 and 3), nonces, clocks and body digests, queues what Alibaba queues, and refuses what
Alibaba refuses. ``gate`` decides what becomes of each request; ``account`` is the truth, to be read and changed by
tests.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from drtool.clock import Clock
from tests.address_servers.aliyun_account import REGION, Account, Answer, Eip, Instance, Record, Setback, request_id
from tests.address_servers.aliyun_signing import Call, Gatekeeper, Identity, Refusal

__all__ = ["ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "REGION", "Account", "AliyunServer", "Call", "Eip", "Fate", "Identity",
           "Instance", "Record", "Refusal", "Setback", "aliyun_server"]  # fmt: skip

ACCESS_KEY_ID = "not-a-real-key-id"
ACCESS_KEY_SECRET = "not-a-real-secret"

Fate = Literal["serve", "throttle", "deny", "drop", "drop after", "error", "error after", "slow", "slow after"]
"""``slow``: nothing comes back for ``AliyunServer.slow`` seconds; ``after``: once it was done."""


def _serve(action: str, changes: bool) -> Fate:
    return "serve"


@dataclass
class AliyunServer:
    """``gate`` is asked about each request whose signature is right: its action, and whether it changes a holder.

    ``garbled`` is what something in between answers instead.
    """

    account: Account
    clock: Clock
    keys: Gatekeeper
    gate: Callable[[str, bool], Fate] = _serve
    denied: set[str] = field(default_factory=set)
    slow: float = 1
    garbled: tuple[int, bytes] | None = None
    scheme: str = "http"
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, account: Account, gate: Callable[[str, bool], Fate] = _serve) -> None:
        """Serve this account from now on, by its clock, as if nothing had been before."""
        self.account, self.clock, self.gate = account, account.clock, gate
        self.keys = Gatekeeper({ACCESS_KEY_ID: Identity(ACCESS_KEY_SECRET)})
        self.denied.clear()
        self.calls.clear()

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def asked(self, action: str = "") -> list[Call]:
        """Every request so far, or those of one action."""
        return [call for call in self.calls if action in ("", call.action)]

    def answer(self, call: Call) -> tuple[int, bytes] | None:
        """Return status and body, or None: the connection ends without an answer."""
        with self.lock:
            self.calls.append(call)
            fate, outcome = self._judge(call)
        if fate.startswith("slow"):
            time.sleep(self.slow)
        if fate.startswith(("slow", "drop")):
            return None
        if self.garbled:
            return self.garbled
        if isinstance(outcome, Refusal):
            status, told = outcome.status, {"Code": outcome.code, "Message": outcome.message, "HostId": "127.0.0.1"}
        else:
            status, told = 200, outcome
        return status, json.dumps(told | {"RequestId": request_id()}).encode()

    def _judge(self, call: Call) -> tuple[Fate, Answer | Refusal]:
        fate: Fate = "serve"
        try:
            self.keys.check(call, self.clock.now())
            fate = self.gate(call.action, self.account.changes(call.action, call.parameters))
            self._refuse(call, fate)
            if fate in ("drop", "slow"):
                return fate, {}
            done = self.account.answer(call.action, call.version, call.parameters)
        except Refusal as refusal:
            return fate, refusal
        if fate == "error after":
            return fate, Refusal(500, "InternalError", "The request processing has failed due to some unknown error.")
        return fate, done

    def _refuse(self, call: Call, fate: Fate) -> None:
        if fate == "throttle":
            raise Refusal(400, "Throttling.User", "Request was denied due to user flow control.")
        if fate == "deny" or call.action in self.denied:
            raise Refusal(403, "Forbidden.RAM", "User not authorized to operate on the specified resource.")
        if fate == "error":
            raise Refusal(503, "ServiceUnavailable", "The request has failed due to a temporary failure.")


@contextlib.contextmanager
def aliyun_server(clock: Clock, trust: ssl.SSLContext | None = None) -> Iterator[AliyunServer]:
    """Run one on a free port of 127.0.0.1 until the block is left. Its account is empty, and has one key."""
    account = Account(clock)
    running = AliyunServer(account, clock, Gatekeeper({}))
    running.use(account)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body in one piece

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            return

        def do_POST(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = running.answer(Call(self.command, path, query, headers, body))
            except BaseException as error:
                running.broken.append(error)
                raise
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        do_GET = do_POST  # noqa: N815  the base class looks for these names

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            return  # the client went away, or ``broken`` knows

    server = Server(("127.0.0.1", 0), Handler)
    running.port = server.server_port
    if trust:
        server.socket, running.scheme = trust.wrap_socket(server.socket, server_side=True), "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if running.broken:
        raise running.broken[0]
