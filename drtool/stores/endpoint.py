"""Why an endpoint could not be talked to, for every store that is reached over http: each reason has its own words."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from drtool.errors import StoreError, StoreTransient

# What X.509 calls them (openssl/x509_vfy.h); Python 3.11 has no names for these numbers.
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_HOST, _WRONG_ADDRESS = 62, 64
_TLS_WORDS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def connection_error(where: str, endpoint: str, error: Exception) -> StoreError:
    """Say why no answer came. What a network may do for a moment is StoreTransient, and has a hint all the same."""
    for cause in _chain(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return _certificate_error(where, cause)
            case ValueError() if "doesn't match" in str(cause):  # urllib3 compares names itself
                return _wrong_name(where)
            case ssl.SSLError() if cause.reason in _TLS_WORDS:
                # Or a record that was damaged on its way, in the middle of a transfer: hence not for good.
                return StoreTransient(
                    f"{where}: the server does not speak https there",
                    hint="Correct the port of endpoint in drtool.toml, or write http:// if that is meant.",
                )
            case socket.gaierror():
                return StoreTransient(
                    f"{where}: there is no host of that name",
                    hint="Correct endpoint in drtool.toml (region and bucket may be part of the name too), or the DNS.",
                )
            case ConnectionRefusedError():
                return StoreTransient(
                    f"{where}: nothing listens there", hint="Correct the host and port of endpoint in drtool.toml."
                )
            case http.client.BadStatusLine() if _is_tls(cause):
                return StoreError(f"{where}: the server speaks https there", hint=_SPEAK_HTTPS)
    hint = _SPEAK_HTTPS if urlsplit(endpoint).scheme == "http" else ""
    return StoreTransient(f"{where}: {error}", hint=hint)


_SPEAK_HTTPS = "If the server speaks https there, write https:// in endpoint in drtool.toml."


def web_page(where: str, status: int) -> StoreError:
    return StoreError(
        f"{where}: a web page answers there ({status}), no object store",
        hint="Correct endpoint in drtool.toml: it is the address for programs, not that of a console or a web site.",
    )


def is_web_page(headers: Mapping[str, str], *, signed_by: tuple[str, ...]) -> bool:
    """Say whether an answer is html by something that is no object store: those sign theirs with a request id."""
    names = {name.lower(): value for name, value in headers.items()}
    return names.get("content-type", "").startswith("text/html") and not any(name in names for name in signed_by)


def skew_hint(ours: datetime, theirs: datetime) -> str:
    """Name how far this host's clock is off."""
    off = ours - theirs
    minutes = round(abs(off) / timedelta(minutes=1))
    return (
        f"This host's clock is {minutes} minutes {'ahead of' if off > timedelta(0) else 'behind'} the store's: set it."
    )


def _certificate_error(where: str, error: ssl.SSLCertVerificationError) -> StoreError:
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        return _wrong_name(where)
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return StoreError(
            f"{where}: the server's certificate is not valid today: {error.verify_message}",
            hint="Look at this host's clock first, then let the server's certificate be renewed.",
        )
    return StoreError(
        f"{where}: the server's certificate is not trusted: {error.verify_message}",
        hint="Set ca_bundle in drtool.toml to its authority.",
    )


def _wrong_name(where: str) -> StoreError:
    return StoreError(
        f"{where}: the server's certificate is for another name",
        hint="Write the name that the certificate has into endpoint; S3 buckets with dots need path_style = true.",
    )


def _is_tls(error: http.client.BadStatusLine) -> bool:
    return any("\x15\x03" in text or "\\x15\\x03" in text for text in error.args)  # an alert, in a record of its own


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made of: SDKs keep causes in arguments and attributes as well."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
        waiting += getattr(found, "kwargs", {}).values()  # botocore
