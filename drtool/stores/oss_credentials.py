"""The keys that a RAM role lends to an ECS instance, from the instance's own metadata service.

oss2 2.19.1 has a provider for this, which speaks version 1 of the service only; a hardened instance refuses that.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from drtool.errors import ConfigError, StoreAccessDenied, StoreError, StoreTransient

METADATA_URL = "http://100.100.100.200"
_TOKEN_PATH = "/latest/api/token"  # noqa: S105  a path, no secret
_ROLE_PATH = "/latest/meta-data/ram/security-credentials/"
# Keys live for some hours, and the service has new ones well before the old ones end.
_EARLY = timedelta(minutes=15)
_AGAIN_AFTER = timedelta(minutes=1)
_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Lent:
    """One set of keys. The methods are those by which oss2 asks for them."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str = field(repr=False)
    expires_at: datetime

    def get_access_key_id(self) -> str:
        return self.access_key_id

    def get_access_key_secret(self) -> str:
        return self.access_key_secret

    def get_security_token(self) -> str:
        return self.security_token


class RamRole:
    """Keeps the keys of ``role`` fresh. May be asked from many threads.

    They are renewed a quarter of an hour before they end; if that fails, the old ones serve until they do, and it is
    tried again every minute. The service is asked by version 2 (with a token); by version 1 only if it refuses that.
    """

    def __init__(
        self,
        role: str,
        *,
        base_url: str = METADATA_URL,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        where = urlsplit(base_url)
        if where.scheme != "http" or not where.hostname:
            raise ConfigError(f"the metadata service is reached by http, not by {base_url!r}")
        self._host, self._port = where.hostname, where.port or 80
        self._role, self._clock = role, clock
        self._lent: Lent | None = None
        self._renew_at = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def get_credentials(self) -> Lent:
        """Return keys that are valid now. StoreTransient or StoreAccessDenied when there are none to be had."""
        lent, now = self._lent, self._clock()
        if lent is None or now >= lent.expires_at:
            with self._lock:
                return self._current_or_new()
        if now >= self._renew_at and self._lock.acquire(blocking=False):  # one renews, the others need not wait
            try:
                return self._renew()
            except StoreError:
                self._renew_at = now + _AGAIN_AFTER
            finally:
                self._lock.release()
        return lent

    def _current_or_new(self) -> Lent:
        if self._lent is not None and self._clock() < self._lent.expires_at:
            return self._lent  # another thread fetched them while this one waited
        return self._renew()

    def _renew(self) -> Lent:
        lent = self._fetch()
        now = self._clock()
        if now >= lent.expires_at:
            raise StoreTransient(f"the metadata service lends keys of {self._role} that have expired")
        self._lent, self._renew_at = lent, max(lent.expires_at - _EARLY, now + _AGAIN_AFTER)
        return lent

    def _fetch(self) -> Lent:
        token = self._fetch_token()
        headers = {"X-aliyun-ecs-metadata-token": token} if token else {}
        status, body = self._ask("GET", _ROLE_PATH + self._role, headers)
        if status == 404:
            raise StoreAccessDenied(
                f"this machine has no RAM role {self._role}",
                hint="Attach the role to the instance, or correct its name.",
            )
        if status in (401, 403):
            raise StoreAccessDenied(f"the metadata service refuses to lend keys of {self._role}: {status}")
        if status != 200:
            raise StoreTransient(f"the metadata service answers {status}")
        return self._parse(body)

    def _fetch_token(self) -> str:
        """Return a token of version 2, or "" when the service does not know that version."""
        status, body = self._ask("PUT", _TOKEN_PATH, {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"})
        if status == 200:
            return body.decode("ascii", "replace").strip()
        if status in (400, 403, 404, 405):
            return ""
        raise StoreTransient(f"the metadata service answers {status}")

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        # Not by requests: a proxy of the environment must never see these.
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT.total_seconds())
        try:
            with closing(connection):
                connection.request(method, path, headers=dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StoreTransient(
                f"the metadata service at {self._host} does not answer: {error}",
                hint="ram_role works on an ECS instance only; elsewhere set an access key id and its secret.",
            ) from error

    def _parse(self, body: bytes) -> Lent:
        try:
            fields = json.loads(body)
            if fields["Code"] != "Success":
                raise StoreAccessDenied(f"the metadata service lends no keys of {self._role}: {fields['Code']}")
            return Lent(
                fields["AccessKeyId"],
                fields["AccessKeySecret"],
                fields["SecurityToken"],
                datetime.fromisoformat(fields["Expiration"]).astimezone(UTC),
            )
        except (ValueError, KeyError, TypeError):
            # Without its cause: that would show the answer, and secrets are in it.
            raise StoreError(f"the metadata service answers something else than keys of {self._role}") from None
