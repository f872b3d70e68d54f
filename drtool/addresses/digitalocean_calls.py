"""Calls to DigitalOcean's API, each sent once, and what its refusals mean in our errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import requests
from requests.auth import AuthBase

from drtool.addresses.waiting import AskAgain
from drtool.clock import Clock
from drtool.errors import AddressError, AddressTransient, ConfigError

ENDPOINT = "https://api.digitalocean.com"
_TIMEOUT_SECONDS = (10, 30)
_PAGE = 200
_MOST_PAGES = 200
_TRANSIENT_STATUS = {408, 500, 502, 503, 504}
_ADVICE = {
    401: "Correct the token of this address in drtool.toml: DigitalOcean does not know it, or it has expired.",
    403: "Give the token the scopes reserved_ip:read, reserved_ip:update, droplet:read, action:read"
    " (for a record: domain:read, domain:update).",
    404: "Correct the name or id: this account has no such thing.",
}


class _Bearer(AuthBase):
    """Puts the token on each request. Given to requests as ``auth``, which also keeps it from reading ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


class Calls:
    """Speaks for ``where``, which is named in every error."""

    def __init__(self, where: str, token: str, *, clock: Clock, endpoint: str, ca_bundle: Path | None) -> None:
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigError(f"{where}: the token is empty, or has characters that no token has")
        self._where, self._clock, self._endpoint = where, clock, endpoint.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._verify: str | bool = str(ca_bundle) if ca_bundle else True

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        return self._send("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("POST", path, body=body)

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("PATCH", path, body=body)

    def every(self, path: str, items: str, **query: str | int) -> Iterator[dict[str, Any]]:
        """Walk through all pages of a list. Pages are numbered by us, so no answer says where we send the token."""
        for page in range(1, _MOST_PAGES):
            answer = self.get(path, **query, page=page, per_page=_PAGE)
            found = answer.get(items)
            if not isinstance(found, list):
                raise AddressError(f"{self._where}: DigitalOcean's answer holds no {items}")
            yield from found
            if not (answer.get("links") or {}).get("pages", {}).get("next"):
                return
        raise AddressError(f"{self._where}: DigitalOcean's list of {items} has no end")

    def _send(
        self,
        method: Literal["GET", "POST", "PATCH"],
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method,
                f"{self._endpoint}/v2/{path}",
                params=query,
                json=body,
                timeout=_TIMEOUT_SECONDS,
                verify=self._verify,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise self._broken(error, "Check endpoint and certificates.") from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            # Not "from": a request holds the token.
            raise AddressTransient(
                f"{self._where}: no answer from DigitalOcean ({type(error).__name__})", code=type(error).__name__
            ) from None
        except requests.RequestException as error:
            raise self._broken(error, "Check the endpoint.") from None
        if answer.status_code >= 300:
            raise self._refusal(answer)
        return self._parsed(answer)

    def _parsed(self, answer: requests.Response) -> dict[str, Any]:
        try:
            parsed = answer.json()
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise AddressError(
                f"{self._where}: what answered is not DigitalOcean's API (status {answer.status_code})",
                hint="Correct the endpoint, or look what stands between this host and it.",
            )
        return parsed

    def _refusal(self, answer: requests.Response) -> AddressError:
        said, status = self._parsed(answer) if _is_json(answer) else {}, answer.status_code
        code = str(said.get("id") or status)
        text = f"{self._where}: {code}: {' '.join(str(said.get('message', '')).split())[:200]}"
        if status == 429:
            return AskAgain(text, code=code, after=self._wanted(answer))
        if status in _TRANSIENT_STATUS or (status == 422 and "pending event" in text):
            return AddressTransient(text, code=code)
        return AddressError(text, code=code, hint=_ADVICE.get(status, "Do what DigitalOcean says, and run this again."))

    def _wanted(self, answer: requests.Response) -> timedelta:
        """How long the answer tells us to stay away: by seconds, or by the moment at which the quota is refilled."""
        if (after := answer.headers.get("Retry-After", "")).isdigit():
            return timedelta(seconds=int(after))
        if (reset := answer.headers.get("RateLimit-Reset", "")).isdigit():
            return timedelta(seconds=max(0.0, int(reset) - self._clock.now().timestamp()))
        return timedelta()

    def _broken(self, error: Exception, hint: str) -> AddressError:
        name = type(error).__name__
        return AddressError(f"{self._where}: DigitalOcean cannot be reached ({name})", code=name, hint=hint)


def _is_json(answer: requests.Response) -> bool:
    return answer.headers.get("Content-Type", "").startswith("application/json")
