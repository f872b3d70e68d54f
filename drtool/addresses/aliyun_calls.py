"""Calls of Alibaba Cloud's RPC interfaces over requests: signed by version 3, with errors told apart by what may pass.

Alibaba's own SDKs retry nothing, bring some forty megabytes, and one of them a thread; a handful of calls needs none
of that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

from drtool.clock import Clock
from drtool.errors import AddressError, AddressTransient, ConfigError, StoreError, StoreTransient

CONNECT_TIMEOUT = timedelta(seconds=5)
READ_TIMEOUT = timedelta(seconds=10)
_ALGORITHM = "ACS3-HMAC-SHA256"
_LONGEST_MESSAGE = 300
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+\Z", re.ASCII)
_ENDPOINT = re.compile(r"(https?://)?[\w.-]+(:\d+)?/?\Z", re.ASCII)
# All that is tried again. Where a code also stands for something that only people can put right (an instance with an
# address of its own, an entry in a NAT table) it is not here: each minute of waiting is a minute without an address.
_PASSING = {
    "LastOperationNotFinished", "LastTokenProcessing", "OperationConflict", "OperationFailed.EcsMigrating",
    "InvalidBindingStatus", "InvalidStatus.EcsStatusNotSupport", "InvalidStatus.EniStatusNotSupport",
    "InvalidStatus.NotAllow", "RecordForbidden.DNSChange", "Rejected.Throttling", "ServiceUnavailable",
    "SignatureNonceUsed", "SystemBusy", "TaskConflict",
}  # fmt: skip
_PASSING_STARTS = ("IncorrectEipStatus", "IncorrectInstanceStatus", "IncorrectStatus", "Throttling")
# After these nobody knows whether an earlier request with the same token or nonce took effect.
_UNDECIDED = {"LastTokenProcessing", "SignatureNonceUsed"}
_HINTS = {
    "FinancialLocked": "The account owes money: settle its bills, then try again.",
    "IncompleteSignature": "Check the access key and its secret.",
    "InstanceHasBandWidth": "The instance has a public address of its own: take that away first, or turn it into an"
    " elastic one.",
    "InvalidAccessKeyId": "Check the access key and its secret.",
    "InvalidAllocationId": "Check the id of the address, and that it is in this region.",
    "InvalidInstanceId": "Check the id of the instance, and that it is in this region.",
    "InvalidSecurityToken": "The token does not belong to the access key, or has expired.",
    "InvalidTimeStamp": "This machine's clock is more than a quarter of an hour off: set it.",
    "SignatureDoesNotMatch": "Check the access key and its secret.",
}


@dataclass(frozen=True, slots=True)
class Product:
    """One of Alibaba's interfaces. ``tokens``: its changes take a ClientToken."""

    name: str
    version: str
    host: str
    tokens: bool = False


VPC = Product("vpc", "2016-04-28", "vpc.{region}.aliyuncs.com", tokens=True)
ECS = Product("ecs", "2014-05-26", "ecs.{region}.aliyuncs.com")
ALIDNS = Product("alidns", "2015-01-09", "alidns.aliyuncs.com")


class Keys(Protocol):
    """An access key. ``security_token`` is empty for one that is not lent."""

    @property
    def access_key_id(self) -> str: ...
    @property
    def access_key_secret(self) -> str: ...
    @property
    def security_token(self) -> str: ...


class Keyring(Protocol):
    """Hands out keys that are valid now: ``FixedKeys``, or the RAM role of this instance."""

    def get_credentials(self) -> Keys: ...


@dataclass(frozen=True, slots=True)
class FixedKeys:
    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str = field(default="", repr=False)

    def get_credentials(self) -> FixedKeys:
        return self


class ClientToken:
    """By this Alibaba knows a request that it had before: new after each refusal, the same while there is no answer."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.value = secrets.token_hex(16)


class Calls:
    """Sends one request per call, and leaves it to the caller to look before it is sent again.

    ``endpoint`` replaces the public hosts; ``{product}`` in it becomes ``vpc``, ``ecs`` or ``alidns``. A proxy of the
    environment is used; a ~/.netrc never is, for it would replace the signature.
    """

    def __init__(
        self,
        keys: Keyring,
        clock: Clock,
        *,
        region: str,
        endpoint: str | None = None,
        ca_bundle: Path | None = None,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        read_timeout: timedelta = READ_TIMEOUT,
    ) -> None:
        if not _REGION.match(region):
            raise ConfigError(f"a region of Alibaba Cloud is written like cn-hangzhou, not {region!r}")
        if endpoint is not None and not _ENDPOINT.match(endpoint.replace("{product}", "vpc")):
            raise ConfigError(f"an endpoint is a host, with a scheme and a port if need be, no more: {endpoint!r}")
        if ca_bundle and not ca_bundle.exists():
            raise ConfigError(f"there is no ca_bundle {ca_bundle}")
        self.region = region
        self._keys, self._clock, self._endpoint = keys, clock, endpoint
        self._timeout = (connect_timeout.total_seconds(), read_timeout.total_seconds())
        self._session, self._verify = requests.Session(), str(ca_bundle) if ca_bundle else True

    def ask(self, product: Product, action: str, **parameters: str) -> dict[str, Any]:
        """Return the answer to a question. Raises AddressError with Alibaba's code, or AddressTransient."""
        answer = self._send(product, action, parameters)
        if answer.ok:
            return answer.fields
        raise answer.error()

    def order(self, product: Product, action: str, token: ClientToken, **parameters: str) -> None:
        """Ask for a change, under the number that ``token`` has now. 200 means queued: look, until it is there."""
        answer = self._send(product, action, parameters | ({"ClientToken": token.value} if product.tokens else {}))
        if answer.ok:
            return
        if answer.refused:
            token.renew()
        raise answer.error()

    def _send(self, product: Product, action: str, parameters: Mapping[str, str]) -> _Answer:
        keys = self._current_keys()
        url = self._url(product)
        host = urlsplit(url).netloc
        query = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(parameters.items())
        )
        moment = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            answer = self._session.post(
                f"{url}?{query}",
                headers={"Host": host, "Accept": "application/json"},
                auth=_Signature(keys, product.version, action, moment),
                timeout=self._timeout,
                verify=self._verify,  # said here, for the environment would win over the session
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _unanswered(error, host, action) from None  # the cause would show the whole request
        return _Answer(product, action, answer.status_code, _fields(answer.content), keys)

    def _current_keys(self) -> Keys:
        try:
            return self._keys.get_credentials()
        except StoreTransient as error:  # the keys of a role are those that stores use
            raise AddressTransient(str(error), hint=error.hint) from error
        except StoreError as error:
            raise AddressError(str(error), hint=error.hint) from error

    def _url(self, product: Product) -> str:
        chosen = (self._endpoint or product.host.format(region=self.region)).replace("{product}", product.name)
        return (chosen if "://" in chosen else f"https://{chosen}").rstrip("/") + "/"


class _Signature(AuthBase):
    """Signs a request in its final form. Given to requests as ``auth``, which then looks into no ~/.netrc."""

    def __init__(self, keys: Keys, version: str, action: str, moment: str) -> None:
        self._keys = keys
        self._headers = {
            "x-acs-action": action,
            "x-acs-version": version,
            "x-acs-date": moment,
            "x-acs-signature-nonce": secrets.token_hex(16),
        }
        if keys.security_token:
            self._headers["x-acs-security-token"] = keys.security_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        digest = hashlib.sha256(body.encode() if isinstance(body, str) else body).hexdigest()
        headers = self._headers | {"x-acs-content-sha256": digest}
        request.headers.update(headers)
        signed = dict(sorted((headers | {"host": str(request.headers["Host"])}).items()))
        names = ";".join(signed)
        where = urlsplit(str(request.url))
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = "\n".join((str(request.method), where.path, where.query, lines, names, digest))
        to_sign = f"{_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._keys.access_key_secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
        request.headers["Authorization"] = (
            f"{_ALGORITHM} Credential={self._keys.access_key_id},SignedHeaders={names},Signature={signature}"
        )
        return request


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back. ``parsed`` is None where that was no JSON object."""

    product: Product
    action: str
    status: int
    parsed: dict[str, Any] | None
    keys: Keys

    @property
    def fields(self) -> dict[str, Any]:
        return self.parsed or {}

    @property
    def code(self) -> str:
        return str(self.fields.get("Code", ""))

    @property
    def ok(self) -> bool:
        return self.status == requests.codes.ok and self.parsed is not None and not self.code

    @property
    def refused(self) -> bool:
        """Whether it is certain that nothing was done."""
        return 400 <= self.status < 500 and bool(self.code) and self.code not in _UNDECIDED

    def error(self) -> AddressError:
        what = f"{self.product.name}:{self.action}"
        if not self.code:
            kind = AddressTransient if self.status >= 500 or self.status == 429 else AddressError
            return kind(
                f"{what} is answered with status {self.status} and something that Alibaba does not say",
                hint="Look whether a proxy or another server answers in its place.",
            )
        message = f"{what} is refused: {self.code}: {self._said()}"
        passing = self.status >= 500 or self.code in _PASSING or self.code.startswith(_PASSING_STARTS)
        return (AddressTransient if passing else AddressError)(message, code=self.code, hint=self._hint())

    def _said(self) -> str:
        """Alibaba's own words, on one line, without what it may repeat of the request."""
        said = " ".join(str(self.fields.get("Message", "")).split())
        for secret in (self.keys.access_key_secret, self.keys.security_token):
            said = said.replace(secret, "…") if secret else said
        return said[:_LONGEST_MESSAGE]

    def _hint(self) -> str:
        if self.code.startswith(("Forbidden", "NoPermission", "UnauthorizedOperation")):
            where = " on the address and on both instances" if self.product == VPC else ""
            return f"Allow {self.product.name}:{self.action}{where} to the RAM user or role."
        return next((hint for part, hint in _HINTS.items() if part in self.code), "")


def _fields(content: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(content)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _unanswered(error: requests.RequestException, host: str, action: str) -> AddressError:
    message = f"{host} does not answer {action}: {type(error).__name__}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return AddressError(f"{message}, its certificate is not trusted", hint="Set ca_bundle, or look who answers.")
    if isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError):
        return AddressTransient(message, hint="Check the region, the endpoint and the way there.")
    return AddressError(message)
