"""moto as EC2 and Route 53 behind a gate, stricter where moto lets pass what AWS refuses.

Added to moto: unknown access keys are refused (signatures are not checked); a DELETE of a record must say what the
record is now, a CREATE must not meet one (moto looks at what the record ever was); changes of records and
orders to stop are on their way for ``takes``; every call can be throttled, denied, lost or answered by a 5xx.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import pytest
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.contracts.address_contract import Fate, Gate, JumpingClock

ACCOUNT = "123456789012"
REGION = "us-east-1"
ACCESS_KEY_ID = "AKIANOTAREALKEYID"
SECRET_ACCESS_KEY = "not-a-real-secret-access-key"
SESSION_TOKEN = "not-a-real-session-token"
_NAMESPACE = "{https://route53.amazonaws.com/doc/2013-04-01/}"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Refused(Exception):
    def __init__(self, status: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class AwsServer:
    """One server for a session. ``use`` gives it a clean state, and the gate and the clock of one test."""

    def __init__(self) -> None:
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self.gate, self.clock, self.takes = Gate(), JumpingClock(), timedelta()
        self.bodies: list[tuple[str, str]] = []
        self._insync_at, self._stopped_at = 0.0, 0.0
        self._stopping: list[Any] = []
        self._server: Any = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def use(self, gate: Gate, clock: JumpingClock, *, takes: timedelta = timedelta()) -> None:
        for service in ("ec2", "route53"):
            get_backend(service).reset()
        self.gate, self.clock, self.takes, self._insync_at = gate, clock, takes, 0.0
        self._stopping = []
        self.bodies.clear()

    @property
    def ec2(self) -> Any:
        return get_backend("ec2")[ACCOUNT][REGION]

    @property
    def route53(self) -> Any:
        return get_backend("route53")[ACCOUNT]["aws"]

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        ec2 = not environ["PATH_INFO"].startswith("/2013-04-01/")
        what, changes = _ec2_call(body) if ec2 else _route53_call(environ, body)
        self.bodies.append((what, body.decode()))
        fate = self.gate.decide(what, changes=changes)
        if fate == "drop":
            return _hang_up(environ)
        try:
            _refuse(fate, ec2=ec2)
            _check_key(environ, ec2=ec2)
            if what == "ChangeResourceRecordSets":
                self._check_batch(environ["PATH_INFO"].split("/")[3], body)
        except Refused as refused:
            return _tell(start, refused, ec2=ec2)
        answer = self._serve(environ, start if "after" not in fate else lambda *_: None, what)
        if fate == "drop after":
            return _hang_up(environ)
        if fate == "error after":
            return _tell(start, Refused("500 Internal Server Error", "InternalError", "an error occurred"), ec2=ec2)
        return answer

    def _serve(self, environ: Environ, start: StartResponse, what: str) -> Iterable[bytes]:
        self._settle()
        told: list[Any] = []
        answer = b"".join(self._moto(environ, lambda *said: told.extend(said)))
        if what == "ChangeResourceRecordSets":
            self._insync_at = self.clock.monotonic() + self.takes.total_seconds()
        if what == "StopInstances":
            self._let_stop()
        if self.clock.monotonic() < self._insync_at:
            answer = answer.replace(b"<Status>INSYNC</Status>", b"<Status>PENDING</Status>")
        headers = [(name, value) for name, value in told[1] if name.lower() != "content-length"]
        start(told[0], [*headers, ("Content-Length", str(len(answer)))])
        return [answer]

    def _let_stop(self) -> None:
        """Let what moto stops at once take its time."""
        self._stopped_at = self.clock.monotonic() + self.takes.total_seconds()
        self._stopping = [one for one in self.ec2.all_instances() if one._state.name == "stopped"]
        for instance in self._stopping:
            instance._state.name = "stopping"
        self._settle()

    def _settle(self) -> None:
        if self.clock.monotonic() >= self._stopped_at:
            for instance in self._stopping:
                instance._state.name = "stopped"
            self._stopping = []

    def _check_batch(self, zone: str, body: bytes) -> None:
        self.route53.zones[zone].rr_changes = _Forgetful()
        now = {
            (record.name.rstrip("."), record.type): (str(record.ttl), sorted(record.records))
            for record in self.route53.zones[zone].rrsets
        }
        for change in _changes(body):
            action, key, said = change
            if action == "DELETE" and key not in now:
                _refuse_batch("delete", key, "but it was not found")
            if action == "DELETE" and now.pop(key) != said:
                _refuse_batch("delete", key, "but the values provided do not match the current values")
            if action == "CREATE" and key in now:
                _refuse_batch("create", key, "but it already exists")


class _Forgetful(list[Any]):
    """In place of moto's memory of every change, by which it judges new ones: they were judged already."""

    def __contains__(self, _: object) -> bool:
        return False

    def has_insert_or_update(self, _: object) -> bool:
        return True


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        return


@contextlib.contextmanager
def aws_server() -> Iterator[AwsServer]:
    server = AwsServer()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsServer]:
    with aws_server() as server:
        yield server


def _ec2_call(body: bytes) -> tuple[str, bool]:
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    action = form.get("Action", "")
    looks = action.startswith("Describe") or form.get("DryRun") == "true"
    return action, not looks and action != ""


def _route53_call(environ: Environ, body: bytes) -> tuple[str, bool]:
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "POST":
        # One CREATE of what is there asks for the right only: it is always refused.
        return "ChangeResourceRecordSets", [action for action, _, _ in _changes(body)] != ["CREATE"]
    return ("ListResourceRecordSets" if "/rrset" in path else "GetChange" if "/change/" in path else "List"), False


def _changes(body: bytes) -> Iterator[tuple[str, tuple[str, str], tuple[str, list[str]]]]:
    for change in ElementTree.fromstring(body).iter(f"{_NAMESPACE}Change"):
        record = change.find(f"{_NAMESPACE}ResourceRecordSet")
        assert record is not None
        name, kind = record.findtext(f"{_NAMESPACE}Name", ""), record.findtext(f"{_NAMESPACE}Type", "")
        values = sorted(value.text or "" for value in record.iter(f"{_NAMESPACE}Value"))
        said = (record.findtext(f"{_NAMESPACE}TTL", ""), values)
        yield change.findtext(f"{_NAMESPACE}Action", ""), (name.rstrip("."), kind), said


def _refuse_batch(verb: str, key: tuple[str, str], why: str) -> None:
    text = f"[Tried to {verb} resource record set [name='{key[0]}.', type='{key[1]}'] {why}]"
    raise Refused("400 Bad Request", "InvalidChangeBatch", text)


def _refuse(fate: Fate, *, ec2: bool) -> None:
    match fate:
        case "throttle" if ec2:
            raise Refused("503 Service Unavailable", "RequestLimitExceeded", "Request limit exceeded.")
        case "throttle":
            raise Refused("400 Bad Request", "Throttling", "Rate exceeded")
        case "deny" if ec2:
            raise Refused("403 Forbidden", "UnauthorizedOperation", f"You are not authorized. {'x' * 1000}")
        case "deny":
            raise Refused("403 Forbidden", "AccessDenied", "User is not authorized to perform it")
        case "error":
            raise Refused("500 Internal Server Error", "InternalError", "an error occurred")


def _check_key(environ: Environ, *, ec2: bool) -> None:
    if f"Credential={ACCESS_KEY_ID}/" not in environ.get("HTTP_AUTHORIZATION", ""):
        code = "AuthFailure" if ec2 else "InvalidClientTokenId"
        raise Refused("401 Unauthorized" if ec2 else "403 Forbidden", code, "not able to validate the keys")


def _tell(start: StartResponse, refused: Refused, *, ec2: bool) -> Iterable[bytes]:
    error = f"<Code>{refused.code}</Code><Message>{refused.message}</Message>"
    if ec2:
        text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>r-1</RequestID></Response>"
    else:
        text = f'<ErrorResponse xmlns="{_NAMESPACE[1:-1]}"><Error>{error}</Error></ErrorResponse>'
    start(refused.status, [("Content-Type", "text/xml"), ("Content-Length", str(len(text)))])
    return [text.encode()]


def _hang_up(environ: Environ) -> Iterable[bytes]:
    """Close the connection without a byte."""
    connection: socket.socket = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def start_instance(server: AwsServer) -> str:
    """Start an instance, past the gate."""
    reservation = server.ec2.run_instances(
        "ami-12c6146b", 1, b"", ["default"], instance_type="m5.large", region_name=REGION, is_instance_type_default=True
    )
    return str(reservation.instances[0].id)
