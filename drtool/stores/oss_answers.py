"""What the answers of OSS mean in our words. Pure: an answer in, an error or a value out.

Codes and their statuses: Alibaba's tables of 2025, and what oss2 2.19.1 has classes for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreFull, StoreTransient

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
    "InvalidAccessKeyId": "OSS does not know this access key id, or it belongs to a role and came without its token.",
    "InvalidSecurityToken": "The security token does not belong to the access key id.",
    "PublicEndpointForbidden": "Accounts made since 2025-03-20 may not read or write through public endpoints of the "
    "mainland: use the internal endpoint, or a CNAME of your own with cname = true.",
    "RequestTimeTooSkewed": "Set this host's clock: more than 15 minutes off, and nothing is taken.",
    "SecondLevelDomainForbidden": "Set the endpoint without the bucket's name, or cname = true for a name of your own.",
    "SecurityTokenExpired": "The security token has expired: fetch a new one.",
    "SignatureDoesNotMatch": "The secret does not belong to the access key id.",
    "UserDisable": "The account is disabled or overdue.",
}
FROZEN_FOR = {"Archive": "about a minute", "ColdArchive": "one to five hours", "DeepColdArchive": "12 to 48 hours"}
_LAPSES_AFTER = timedelta(hours=24)


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
    "NoSuchBucket": (BucketMissing, "Make the bucket, or correct its name, region or endpoint."),
    "NoSuchLifecycle": (NotSet, ""),
    "NoSuchUpload": (UploadGone, "A rule of the bucket, or somebody, removed the unfinished upload."),
    "NoSuchWORMConfiguration": (NotSet, ""),
    "PreconditionFailed": (Refused, ""),
    "RestoreAlreadyInProgress": (AlreadyThawing, ""),
}


def error_from_answer(
    where: str, status: int, details: Mapping[str, str], *, request_id: str = "", delayed: bool = False
) -> StoreError:
    """Name the error that an answer stands for: by its code, and by the status if the code says nothing.

    ``details``: the fields of its XML. ``delayed``: it had x-oss-qos-delay-time, so the service is throttling us.
    """
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
    if code in _MISSING or (status == 404 and not code):
        return ObjectMissing(text)
    if status in (412, 416):
        return (Refused if status == 412 else PastTheEnd)(text)
    if "signing region" in said:
        return StoreAccessDenied(text, hint="Set the bucket's region, like cn-hangzhou.")
    if endpoint := details.get("Endpoint"):
        return StoreAccessDenied(text, hint=f"The bucket is elsewhere: its endpoint is {endpoint}.")
    if code in _DENIED or (status in (401, 403) and code not in _ADVICE):
        return StoreAccessDenied(text, hint=hint or "Check the credentials, and what their policy allows.")
    return StoreError(text, hint=hint)


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
        return Frozen(f"{where} is being thawed from {storage_class}", hint=f"Wait: that takes {usual}.")
    return Frozen(f"{where} is frozen in {storage_class}", hint=f"Thaw it, and wait: that takes {usual}.")


# Settings of the bucket


@dataclass(frozen=True, slots=True)
class WormState:
    """The bucket's retention policy. One in progress protects for a day and then lapses: only ``locked`` counts.

    ``lapses_at`` is when a policy in progress stops protecting; ``retention`` is how long after its last change an
    object can neither be replaced nor deleted, by anybody.
    """

    state: Literal["none", "in progress", "locked"]
    retention: timedelta = timedelta(0)
    lapses_at: datetime | None = None


def worm_state(state: str, days: int, created: str) -> WormState:
    if state == "Locked":
        return WormState("locked", timedelta(days=days))
    if state != "InProgress":
        return WormState("none")
    made = datetime.fromisoformat(created).astimezone(UTC)
    return WormState("in progress", timedelta(days=days), made + _LAPSES_AFTER)


@dataclass(frozen=True, slots=True)
class LifecycleEffects:
    """What the bucket's own rules do to objects like ours; the rules that do it by their ids.

    ``aborts_uploads``: parts of dead uploads are removed some day, everywhere below our prefix. ``deletes`` and
    ``freezes``: rules that remove our objects behind our back, or move them where they cannot be read at once.
    """

    aborts_uploads: bool = False
    deletes: tuple[str, ...] = ()
    freezes: tuple[str, ...] = ()


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
