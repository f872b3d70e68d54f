"""Tell services of a run: messages through apprise, and the dead-man ping. Nothing here raises, logs or takes long.

Every message travels in a thread of its own, which is waited for no longer than its time: a service that hangs costs a
backup that time at its end, and never its success. Of what apprise and the services say, only what is on a list of
ours is repeated: the rest can hold the address, and with it the password.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

from drtool.config import read_secret
from drtool.config_notify import NotifyTable
from drtool.core.bulletin import Bulletin, Kind
from drtool.errors import DrtoolError

_LOG = 500  # characters of a service's log line that are looked at
_SOCKET_SECONDS = 10
_PATHS = {"start": "/start", "success": "", "failure": "/fail", "breach": "/fail", "log": "/log"}
_REASONS = {
    r"refused": "refused the connection",
    r"timed? ?out": "did not answer in time",
    r"name or service not known|name resolution|getaddrinfo|nodename": "has no address: its name is not known",
    r"certificate": "has a certificate that is not trusted",
    r"unreachable|no route": "cannot be reached from here",
    r"unexpectedly closed|reset by peer|aborted": "closed the connection",
}
# As apprise (2.2) writes them: "…error=500.", and smtplib's errors as (535, b'…').
_STATUS = re.compile(r"\berror=(\d{3})\b|\((\d{3}), b")


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a message. ``service`` is its reference in the configuration; no reason means that it arrived."""

    service: str
    kind: str
    reason: str = ""


class Delivery:
    """One message on its way. ``attempt`` returns why it failed, or nothing."""

    def __init__(self, service: str, kind: str, attempt: Callable[[], str], timeout: timedelta) -> None:
        self._service = service
        self._kind = kind
        self._attempt = attempt
        self._reason = f"did not answer within {timeout.total_seconds():g} s"
        self._deadline = time.monotonic() + timeout.total_seconds()
        self._thread = threading.Thread(target=self._run, daemon=True, name="notification")
        self._thread.start()

    def wait(self) -> Delivered:
        """Wait until it arrived, failed or ran out of time."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return Delivered(self._service, self._kind, self._reason)

    def _run(self) -> None:
        try:
            self._reason = self._attempt()
        except DrtoolError as problem:  # of the reference: it says where, and holds no secret
            self._reason = str(problem)
        except Exception as problem:  # noqa: BLE001 - whatever a plugin raises is no reason for a backup to fail
            self._reason = _reason_in(f"{type(problem).__name__} {problem}")


def notify(table: NotifyTable, bulletin: Bulletin, *, every_kind: bool = False) -> list[Delivery]:
    """Send a message to every address that wants this kind; with ``every_kind`` to all."""
    if bulletin.kind not in table.on and not every_kind:
        return []
    return [
        Delivery(reference, bulletin.kind, lambda reference=reference: _send(reference, bulletin), table.timeout)  # type: ignore[misc]  # bound early
        for reference in table.urls
    ]


def ping(table: NotifyTable, kind: Kind | None, text: str) -> list[Delivery]:
    """Ping the dead-man service; without a kind only its log, which changes nothing of what it waits for."""
    reference = table.ping_url
    if reference is None:
        return []
    path = _PATHS[kind or "log"]
    return [Delivery(reference, f"ping {path or 'success'}", lambda: _ping(reference, path, text), table.timeout)]


def wait_for(deliveries: Sequence[Delivery]) -> list[Delivered]:
    return [delivery.wait() for delivery in deliveries]


def _send(reference: str, bulletin: Bulletin) -> str:
    url = read_secret(reference).strip()
    heard = _listen()
    from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

    kinds = {
        "start": NotifyType.INFO,
        "success": NotifyType.SUCCESS,
        "failure": NotifyType.FAILURE,
        "breach": NotifyType.WARNING,
    }
    # Not its own threads: those would be waited for at the end of the program, however long they hang.
    service = Apprise.instantiate(url, asset=AppriseAsset(app_id="drtool", async_mode=False))
    if service is None:
        return "holds no address that apprise understands"
    sent = service.notify(
        title=bulletin.title, body=bulletin.body, notify_type=kinds[bulletin.kind], body_format=NotifyFormat.TEXT
    )
    return "" if sent else _reason_in(heard.text())


def _ping(reference: str, path: str, text: str) -> str:
    import requests

    parts = urlsplit(read_secret(reference).strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "holds no http:// or https:// address"
    url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))
    answer = requests.post(url, data=text.encode(), timeout=_SOCKET_SECONDS)
    if not answer.ok:
        return f"answered {answer.status_code}"
    # healthchecks.io answers 200 "OK (not found)" to addresses that it does not know, and counts nothing.
    if answer.text[:20].startswith("OK (not found"):
        return 'answered "not found"'
    return ""


def _reason_in(text: str) -> str:
    """Say what went wrong in words of ours."""
    if found := _STATUS.search(text):
        return f"answered {found[1] or found[2]}"
    for pattern, reason in _REASONS.items():
        if re.search(pattern, text, re.IGNORECASE):
            return reason
    return "did not take it"


class _Ear(logging.Handler):
    """Hears what apprise logs in one thread, and lets nobody else hear it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._heard: dict[int, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage()[:_LOG]
        except Exception:  # noqa: BLE001 - a log line of somebody else's
            return
        self._heard.setdefault(threading.get_ident(), []).append(said)

    def begin(self) -> None:
        self._heard[threading.get_ident()] = []

    def text(self) -> str:
        return "\n".join(self._heard.pop(threading.get_ident(), []))


_EAR = _Ear()


def _listen() -> _Ear:
    """Take apprise's log to us, where its lines with addresses end."""
    logger = logging.getLogger("apprise")
    if _EAR not in logger.handlers:
        logger.handlers[:] = [_EAR]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    _EAR.begin()
    return _EAR
