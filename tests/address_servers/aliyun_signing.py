"""Who signed a request: versions 1 and 3 of Alibaba's RPC signature, checked as strictly as Alibaba does.

Both rules were reproduced against Alibaba's own SDKs (aliyun-python-sdk-core 2.16.1 for version 1, see
``test_aliyun_server.py``). How long a nonce is kept is what Alibaba's staff say.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

from tests.oss_server.signing import Identity

__all__ = ["Call", "Gatekeeper", "Identity", "Refusal"]

WINDOW = timedelta(minutes=15)
NONCES_KEPT = timedelta(minutes=31)
_ALGORITHM = "ACS3-HMAC-SHA256"
_DATE = "%Y-%m-%dT%H:%M:%SZ"
_MUST_BE_SIGNED = (
    "host",
    "x-acs-action",
    "x-acs-content-sha256",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-version",
)


class Refusal(Exception):
    """What the client gets instead of what it asked for."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code
        self.message = message or f"The request is refused: {code}."


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as it came over the network; ``headers`` by their lower-case names, ``query`` undecoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def parameters(self) -> dict[str, str]:
        form = self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return dict(pairs + (parse_qsl(self.body.decode(), keep_blank_values=True) if form else []))

    @property
    def action(self) -> str:
        return self.headers.get("x-acs-action") or self.parameters.get("Action", "")

    @property
    def version(self) -> str:
        return self.headers.get("x-acs-version") or self.parameters.get("Version", "")


@dataclass(slots=True)
class Gatekeeper:
    """Knows the keys of an account, and the nonces that were used."""

    identities: dict[str, Identity]
    nonces: dict[str, datetime] = field(default_factory=dict)

    def check(self, call: Call, now: datetime) -> None:
        """Raise the Refusal that Alibaba would answer, or return: the request is who it says it is."""
        if "authorization" in call.headers:
            date, nonce = self._check_v3(call, now)
        else:
            date, nonce = self._check_v1(call, now)
        try:
            sent_at = datetime.strptime(date, _DATE).replace(tzinfo=UTC)
        except ValueError:
            raise Refusal(400, "InvalidTimeStamp.Format", "Specified time stamp is not well formatted.") from None
        if abs(now - sent_at) > WINDOW:
            raise Refusal(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
        if nonce in self.nonces and now - self.nonces[nonce] < NONCES_KEPT:
            raise Refusal(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self.nonces[nonce] = now

    def _identity(self, access_key_id: str, token: str, now: datetime) -> Identity:
        identity = self.identities.get(access_key_id)
        if identity is None:
            raise Refusal(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        if (identity.token or "") != token:
            raise Refusal(400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatches.")
        if identity.expires_at and now >= identity.expires_at:
            raise Refusal(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
        return identity

    def _check_v3(self, call: Call, now: datetime) -> tuple[str, str]:
        algorithm, _, rest = call.headers["authorization"].partition(" ")
        claims = dict(part.partition("=")[::2] for part in rest.split(","))
        if algorithm != _ALGORITHM or set(claims) != {"Credential", "SignedHeaders", "Signature"}:
            raise Refusal(400, "IncompleteSignature", "The authorization header is not well formed.")
        identity = self._identity(claims["Credential"], call.headers.get("x-acs-security-token", ""), now)
        names = claims["SignedHeaders"].split(";")
        must = {*_MUST_BE_SIGNED, *(name for name in call.headers if name.startswith("x-acs-"))}
        if names != sorted(names) or not must <= set(names) or not set(names) <= set(call.headers):
            raise Refusal(400, "IncompleteSignature", "Not all headers are signed that must be, or not in their order.")
        digest = hashlib.sha256(call.body).hexdigest()
        if call.headers["x-acs-content-sha256"] != digest:
            raise Refusal(400, "SignatureDoesNotMatch", "The body is not what x-acs-content-sha256 says.")
        query = _joined(dict(parse_qsl(call.query, keep_blank_values=True)))
        lines = "".join(f"{name}:{call.headers[name].strip()}\n" for name in names)
        canonical = "\n".join([call.method, call.path, query, lines, ";".join(names), digest])
        to_sign = f"{_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        expected = hmac.new(identity.secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
        _compare(expected, claims["Signature"], to_sign)
        return call.headers["x-acs-date"], call.headers["x-acs-signature-nonce"]

    def _check_v1(self, call: Call, now: datetime) -> tuple[str, str]:
        claims = call.parameters
        signature = claims.pop("Signature", "")
        missing = {"AccessKeyId", "SignatureMethod", "SignatureNonce", "SignatureVersion", "Timestamp"} - set(claims)
        if missing or not signature:
            raise Refusal(400, "MissingParameter", "The request carries no signature of any version.")
        if (claims["SignatureMethod"], claims["SignatureVersion"]) != ("HMAC-SHA1", "1.0"):
            raise Refusal(400, "InvalidParameter", "This method of signing is not supported.")
        identity = self._identity(claims["AccessKeyId"], claims.get("SecurityToken", ""), now)
        to_sign = f"{call.method}&%2F&{quote(_joined(claims), safe='')}"
        expected = hmac.new(f"{identity.secret}&".encode(), to_sign.encode(), hashlib.sha1).digest()
        _compare(base64.b64encode(expected).decode(), signature, to_sign)
        return claims["Timestamp"], claims["SignatureNonce"]


def _joined(parameters: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(parameters.items()))


def _compare(expected: str, given: str, to_sign: str) -> None:
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise Refusal(400, "SignatureDoesNotMatch", f"The signature does not match. server string to sign is:{to_sign}")
