"""Who signed a request: versions 1 and 4, in headers and in URLs, checked as strictly as OSS does.

The rules were reproduced against oss2 2.19.1 and alibabacloud-oss-v2 1.4.1; the code for a wrong region is a guess.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from tests.oss_server.answers import Refusal, Request

WINDOW = timedelta(minutes=15)
_LONGEST_URL = 7 * 86400
_ALGORITHM = "OSS4-HMAC-SHA256"
# What of the query version 1 signs, as far as this service knows it.
_SUBRESOURCES = {
    "append", "bucketInfo", "continuation-token", "delete", "encryption", "lifecycle", "location", "objectMeta",
    "partNumber", "position",
    "response-cache-control", "response-content-disposition", "response-content-encoding",
    "response-content-language", "response-content-type", "response-expires", "restore", "security-token", "tagging",
    "uploadId", "uploads", "versionId", "versioning", "versions", "worm", "wormExtend", "wormId",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """A key of the account; ``token`` and ``expires_at`` for those that a role lends."""

    secret: str
    token: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request says about itself, before anything of it is believed."""

    access_key_id: str
    signature: str
    token: str


def check(request: Request, identities: Mapping[str, Identity], *, region: str, now: datetime) -> None:
    """Raise the Refusal that OSS would answer, or return: the request is who it says it is."""
    authorization = request.headers.get("authorization", "")
    if authorization.startswith(_ALGORITHM + " "):
        _check_v4_header(request, authorization, identities, region, now)
    elif authorization.startswith("OSS "):
        _check_v1_header(request, authorization, identities, now)
    elif authorization:
        raise Refusal(400, "InvalidArgument", "Unsupported authorization type.", ec="0002-00000061")
    elif request.query.get("x-oss-signature-version") == _ALGORITHM:
        _check_v4_url(request, identities, region, now)
    elif "Signature" in request.query:
        _check_v1_url(request, identities, now)
    else:
        raise Refusal(403, "AccessDenied", "You have no right to access this object because of bucket acl.")


def _check_v1_header(request: Request, authorization: str, identities: Mapping[str, Identity], now: datetime) -> None:
    access_key_id, colon, signature = authorization.removeprefix("OSS ").partition(":")
    if not colon:
        raise Refusal(403, "AccessDenied", "The authorization header is malformed.", ec="0002-00000062")
    date = request.headers.get("x-oss-date") or request.headers.get("date", "")
    try:
        moment = parsedate_to_datetime(date)
    except ValueError as error:
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.") from error
    _check_window(moment, now)
    claim = _Claim(access_key_id, signature, request.headers.get("x-oss-security-token", ""))
    _check_v1(request, claim, date, identities, now)


def _check_v1_url(request: Request, identities: Mapping[str, Identity], now: datetime) -> None:
    try:
        claim = _Claim(
            request.query["OSSAccessKeyId"], request.query["Signature"], request.query.get("security-token", "")
        )
        expires = request.query["Expires"]
        moment = datetime.fromtimestamp(int(expires), UTC)
    except (KeyError, ValueError) as error:
        raise Refusal(403, "AccessDenied", "Query-string authentication lacks a parameter.") from error
    if now > moment:
        raise Refusal(403, "AccessDenied", "Request has expired.")
    _check_v1(request, claim, expires, identities, now)


def _check_v1(request: Request, claim: _Claim, date: str, identities: Mapping[str, Identity], now: datetime) -> None:
    identity = _find(claim, identities, now)
    known = sorted((name, value) for name, value in request.query.items() if name in _SUBRESOURCES)
    resource = f"/{request.bucket}/{request.key}" if request.bucket else "/"
    if known:
        resource += "?" + "&".join(f"{name}={value}" if value else name for name, value in known)
    headers = sorted((name, value) for name, value in request.headers.items() if name.startswith("x-oss-"))
    text = "\n".join(
        [
            request.method,
            request.headers.get("content-md5", ""),
            request.headers.get("content-type", ""),
            date,
            "".join(f"{name}:{value}\n" for name, value in headers) + resource,
        ]
    )
    expected = base64.b64encode(hmac.digest(identity.secret.encode(), text.encode(), "sha1")).decode()
    _compare(expected, claim, StringToSign=text)


def _check_v4_header(
    request: Request, authorization: str, identities: Mapping[str, Identity], region: str, now: datetime
) -> None:
    fields = dict(item.strip().partition("=")[::2] for item in authorization.removeprefix(_ALGORITHM + " ").split(","))
    try:
        credential, signature = fields["Credential"], fields["Signature"]
        date = request.headers["x-oss-date"]
        payload = request.headers["x-oss-content-sha256"]
        moment = _moment(date)
    except (KeyError, ValueError) as error:
        raise Refusal(400, "InvalidArgument", f"The V4 signature lacks something: {error}") from error
    if payload != "UNSIGNED-PAYLOAD":
        raise Refusal(400, "InvalidArgument", "x-oss-content-sha256 must be UNSIGNED-PAYLOAD.")
    _check_window(moment, now)
    additional = fields.get("AdditionalHeaders", "")
    token = request.headers.get("x-oss-security-token", "")
    _check_v4(request, credential, signature, additional, date, token, identities, region, now)


def _check_v4_url(request: Request, identities: Mapping[str, Identity], region: str, now: datetime) -> None:
    try:
        credential, signature = request.query["x-oss-credential"], request.query["x-oss-signature"]
        date, seconds = request.query["x-oss-date"], int(request.query["x-oss-expires"])
        moment = _moment(date)
    except (KeyError, ValueError) as error:
        raise Refusal(400, "InvalidArgument", f"The V4 signature lacks something: {error}") from error
    if not 1 <= seconds <= _LONGEST_URL:
        raise Refusal(400, "InvalidArgument", "x-oss-expires must be 1 to 604800.")
    if moment - now > WINDOW:
        raise Refusal(403, "RequestTimeTooSkewed", "The request time is in the future.")
    if now > moment + timedelta(seconds=seconds):
        raise Refusal(403, "AccessDenied", "Request has expired.")
    additional = request.query.get("x-oss-additional-headers", "")
    token = request.query.get("x-oss-security-token", "")
    _check_v4(request, credential, signature, additional, date, token, identities, region, now)


def _check_v4(
    request: Request,
    credential: str,
    signature: str,
    additional: str,
    date: str,
    token: str,
    identities: Mapping[str, Identity],
    region: str,
    now: datetime,
) -> None:
    access_key_id, *scope = credential.split("/")
    if len(scope) != 4 or scope[2:] != ["oss", "aliyun_v4_request"]:
        raise Refusal(400, "InvalidArgument", "The Credential's scope is malformed.", ec="0002-00000206")
    if scope[0] != date[:8]:
        raise Refusal(400, "InvalidArgument", "The date in the Credential is not the request's.")
    if scope[1] != region:
        raise Refusal(400, "InvalidArgument", f"Invalid signing region in Authorization header, {region} was due.")
    claim = _Claim(access_key_id, signature, token)
    identity = _find(claim, identities, now)
    canonical = _canonical_v4(request, additional)
    text = "\n".join([_ALGORITHM, date, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("aliyun_v4" + identity.secret).encode()
    for step in scope:
        key = hmac.digest(key, step.encode(), "sha256")
    _compare(hmac.digest(key, text.encode(), "sha256").hex(), claim, StringToSign=text, CanonicalRequest=canonical)


def _canonical_v4(request: Request, additional: str) -> str:
    path = f"/{request.bucket}/{request.key}" if request.bucket else "/"
    query = sorted(
        (_encode(name), _encode(value)) for name, value in request.query.items() if name != "x-oss-signature"
    )
    more = {name for name in additional.split(";") if name}
    signed = sorted(
        (name, value)
        for name, value in request.headers.items()
        if name.startswith("x-oss-") or name in ("content-type", "content-md5") or name in more
    )
    return "\n".join(
        [
            request.method,
            quote(path, safe="/"),
            "&".join(f"{name}={value}" if value else name for name, value in query),
            "".join(f"{name}:{value.strip()}\n" for name, value in signed),
            ";".join(sorted(more)),
            request.headers.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )


def _find(claim: _Claim, identities: Mapping[str, Identity], now: datetime) -> Identity:
    identity = identities.get(claim.access_key_id)
    if identity is None:
        raise Refusal(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
    if identity.token is None and claim.token:
        raise Refusal(403, "InvalidSecurityToken", "The security token you provided is invalid.")
    if identity.token is not None and identity.token != claim.token:
        # A role's key without its token is no key at all.
        code = "InvalidSecurityToken" if claim.token else "InvalidAccessKeyId"
        raise Refusal(403, code, "The security token you provided is invalid.")
    if identity.expires_at and now > identity.expires_at:
        raise Refusal(403, "SecurityTokenExpired", "The security token you provided has expired.")
    return identity


def _compare(expected: str, claim: _Claim, **details: str) -> None:
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        # Like OSS, which repeats what it signed: a session token is in there, and in the client's exception.
        raise Refusal(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
            ec="0002-00000040",
            OSSAccessKeyId=claim.access_key_id,
            SignatureProvided=claim.signature,
            **details,
        )


def _check_window(moment: datetime, now: datetime) -> None:
    if abs(now - moment) > WINDOW:
        raise Refusal(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            ec="0002-00000504",
        )


def _moment(date: str) -> datetime:
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _encode(text: str) -> str:
    return quote(text, safe="")
