"""What the answers of OSS mean in our words. Pure: an answer in, an error or a value out.

Codes and their statuses: Alibaba's tables of 2025, and what oss2 2.19.1 has classes for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreFull, StoreTransient
from drtool.stores import WormState as WormState
from drtool.stores.endpoint import is_web_page, skew_hint, web_page
from drtool.stores.lifecycle import LifecycleEffects

_MISSING = {"NoSuchKey", "NotFound"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "BucketStorageCapacityExceeded"}
_DENIED = {
    "AccessDenied", "AccessKeyIdAndSecurityTokenNotMatch", "InDebt", "InDebtOverdue", "InvalidAccessKeyId",
    "InvalidSecurityToken", "RequestTimeTooSkewed", "SecurityTokenExpired", "SignatureDoesNotMatch", "UserDisable",
}  # fmt: skip
# The allow list of what is worth another try. InvalidDigest: bytes changed on the way, ours are good.
_TRANSIENT = {"InternalError", "InvalidDigest", "OperationAborted", "RequestTimeout", "ServiceUnavailable"}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_ADVICE = {
    "InDebt": "The account is overdue: pay its bill.",
    "InDebtOverdue": "The account is overdue: pay its bill.",
    "InvalidAccessKeyId": "Correct access_key_id in drtool.toml: OSS does not know it, or it belongs to a role and "
    "came without its security_token.",
    "InvalidSecurityToken": "Correct security_token in drtool.toml: it does not belong to the access key id.",
    "PublicEndpointForbidden": "Accounts made since 2025-03-20 may not read or write through public endpoints of the "
    "mainland: use the internal endpoint, or a CNAME of your own with cname = true.",
    "RequestTimeTooSkewed": "Set this host's clock: more than 15 minutes off, and nothing is taken.",
    "SecondLevelDomainForbidden": "Set the endpoint without the bucket's name, or cname = true for a name of your own.",
    "SecurityTokenExpired": "The security token has expired: fetch a new one, or set ram_role instead.",
    "SignatureDoesNotMatch": "Correct access_key_secret in drtool.toml: it does not belong to the access key id.",
    "UserDisable": "The account is disabled or overdue.",
}
FROZEN_FOR = {"Archive": "about a minute", "ColdArchive": "one to five hours", "DeepColdArchive": "12 to 48 hours"}
_LAPSES_AFTER = timedelta(hours=24)
_ACTION = re.compile(r"<AuthAction>([\w:*]+)</AuthAction>")
_REGION = re.compile(r"oss-([a-z]+-[a-z0-9-]+?)(-internal)?\.aliyuncs\.com\Z")


class Refused(StoreError):
    """409 FileAlreadyExists or 412: the condition of a put or of a read does not hold."""


class UploadGone(StoreError):
    """404 NoSuchUpload: aborted, or completed by the very request whose answer was lost."""


class PastTheEnd(StoreError):
    """416: the object ends before the asked range begins."""


class Frozen(StoreError):
    """403 InvalidObjectState: the object has to be thawed before it can be read."""


class Retained(StoreAccessDenied):
    """409 FileImmutable: the bucket's retention policy protects the object that is there."""


class AlreadyThawing(StoreError):
    """409 RestoreAlreadyInProgress."""


class NotSet(StoreError):
    """404 of a setting that the bucket does not have."""


_BY_CODE: dict[str, tuple[type[StoreError], str]] = {
    "FileAlreadyExists": (Refused, ""),
    "FileImmutable": (Retained, "The bucket's retention policy protects this object until its days are over."),
    "InvalidObjectState": (Frozen, "Thaw the object, wait, and read it then."),
    "InvalidRange": (PastTheEnd, ""),
    "NoSuchBucket": (BucketMissing, "Make the bucket, or correct bucket, region or endpoint in drtool.toml."),
    "NoSuchLifecycle": (NotSet, ""),
    "NoSuchUpload": (UploadGone, "A rule of the bucket, or somebody, removed the unfinished upload."),
    "NoSuchWORMConfiguration": (NotSet, ""),
    "PreconditionFailed": (Refused, ""),
    "RestoreAlreadyInProgress": (AlreadyThawing, ""),
}


def error_from_answer(
    where: str,
    status: int,
    details: Mapping[str, str],
    *,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
    action: str = "",
    now: datetime | None = None,
) -> StoreError:
    """Name the error that an answer stands for: by its code, and by the status if the code says nothing.

    ``details``: the fields of its XML. ``action``: what OSS says that a policy would have to allow. ``now``: what this
    host's clock says.
    """
    headers = headers or {}
    delayed = "x-oss-qos-delay-time" in headers  # the service is throttling us
    code, said = details.get("Code") or "", (details.get("Message") or "")[:200]
    text = f"{where}: {code or status}: {said}" + (f" (request {request_id})" if request_id else "")
    hint = _ADVICE.get(code, "")
    if code in _BY_CODE:
        kind, hint = _BY_CODE[code]
        return kind(text, hint=hint)
    if code in _FULL or status == 507:
        return StoreFull(text, hint="Make room, or raise the quota.")
    if code in _TRANSIENT or status in _TRANSIENT_STATUS or delayed:
        return StoreTransient(text)
    if is_web_page(headers, signed_by=("x-oss-request-id",)):
        return web_page(where, status)
    if code in _MISSING or (status == 404 and not code):
        return ObjectMissing(text)
    if status in (412, 416):
        return (Refused if status == 412 else PastTheEnd)(text)
    if "signing region" in said:
        return StoreAccessDenied(text, hint="Correct region in drtool.toml: that of the bucket, like cn-hangzhou.")
    if endpoint := details.get("Endpoint"):
        return StoreAccessDenied(text, hint=_elsewhere(endpoint))
    if code == "RequestTimeTooSkewed" and (theirs := _server_time(details, headers)):
        return StoreAccessDenied(text, hint=skew_hint(now or datetime.now(UTC), theirs))
    if code in _DENIED or (status in (401, 403) and code not in _ADVICE):
        return StoreAccessDenied(text, hint=hint or _allow(action))
    return StoreError(text, hint=hint)


def denied_action(body: str) -> str:
    """The action that a policy does not allow, if the answer names it: oss2 does not read that far into it."""
    found = _ACTION.search(body)
    return found[1] if found else ""


def _allow(action: str) -> str:
    if not action:
        return "Check the credentials, and what their policy and the bucket's allow."
    return f"Let the policy of these credentials, and the bucket's, allow {action}."


def _elsewhere(endpoint: str) -> str:
    region = _REGION.search(endpoint)
    settings = f'endpoint = "{endpoint}"' + (f' and region = "{region[1]}"' if region else "")
    return f"The bucket is elsewhere: set {settings} in drtool.toml."


def _server_time(details: Mapping[str, str], headers: Mapping[str, str]) -> datetime | None:
    try:
        if "ServerTime" in details:
            return datetime.fromisoformat(details["ServerTime"]).astimezone(UTC)
        return parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return None


# Frozen objects

ThawState = Literal["readable", "thawing", "frozen"]


def thaw_state(headers: Mapping[str, str]) -> ThawState:
    """Read from an object's headers whether a GET would give its bytes now."""
    if headers.get("x-oss-storage-class", "Standard") not in FROZEN_FOR:
        return "readable"
    match headers.get("x-oss-restore", "").partition(",")[0]:
        case 'ongoing-request="true"':
            return "thawing"
        case 'ongoing-request="false"':
            return "readable"
        case _:
            return "frozen"


def frozen_error(where: str, headers: Mapping[str, str]) -> StoreError:
    """Say why the object cannot be read yet, and how long that usually takes."""
    storage_class = headers.get("x-oss-storage-class", "")
    usual = FROZEN_FOR.get(storage_class, "up to 48 hours")
    if thaw_state(headers) == "thawing":
        return Frozen(
            f"{where} is being thawed from {storage_class}", hint=f"Wait, and run this again: that takes {usual}."
        )
    return Frozen(
        f"{where} is frozen in {storage_class}",
        hint=f"Thaw the set (`ossutil restore -r {where.rpartition('/')[0]}/`), wait, and run this again: that takes"
        f" {usual}.",
    )


# Settings of the bucket


def worm_state(state: str, days: int, created: str) -> WormState:
    if state == "Locked":
        return WormState("locked", timedelta(days=days))
    if state != "InProgress":
        return WormState("none")
    made = datetime.fromisoformat(created).astimezone(UTC)
    return WormState("in progress", timedelta(days=days), made + _LAPSES_AFTER)


def lifecycle_effects(rules: Iterable[Any], prefix: str) -> LifecycleEffects:
    """Judge rules as oss2 parses them (``oss2.models.LifecycleRule``). Rules for tags leave us alone: we set none."""
    ours = [rule for rule in rules if rule.status == "Enabled" and rule.tagging is None]
    touching = [rule for rule in ours if prefix.startswith(rule.prefix) or rule.prefix.startswith(prefix)]
    return LifecycleEffects(
        any(rule.abort_multipart_upload and prefix.startswith(rule.prefix) for rule in ours),
        tuple(rule.id for rule in touching if _deletes(rule)),
        tuple(rule.id for rule in touching if any(_freezes(move) for move in rule.storage_transitions or ())),
    )


def _deletes(rule: Any) -> bool:
    end = rule.expiration
    return end is not None and any(when is not None for when in (end.days, end.date, end.created_before_date))


def _freezes(transition: Any) -> bool:
    return transition.storage_class in FROZEN_FOR
