"""What the answers of S3 servers mean in our errors. Pure: an answer in, an error out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreFull, StoreTransient

_BUCKET_MISSING = {"NoSuchBucket"}
_MISSING = {"NoSuchKey", "NotFound", "404"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "InsufficientStorageSpace", "XMinioStorageFull", "507"}
_DENIED = {
    "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "Forbidden", "Unauthorized", "401", "403",
}  # fmt: skip
# The allow list of what is worth another try. BadDigest and its like: bytes changed on the way, ours are good.
_TRANSIENT = {
    "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestLimitExceeded", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException", "TooManyRequests", "XAmzContentSHA256Mismatch",
}  # fmt: skip
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_ADVICE = {
    "RequestTimeTooSkewed": "Set this host's clock.",
    "InvalidAccessKeyId": "The server does not know this access key id.",
    "SignatureDoesNotMatch": "The secret does not belong to the access key id, or the region is wrong.",
    "ExpiredToken": "The session token has expired: fetch a new one.",
    "AuthorizationHeaderMalformed": "Set the bucket's region.",
    "PermanentRedirect": "Set the bucket's region.",
    "NotImplemented": "This server lacks the call; checksums = \"when_required\" helps with some.",
    "MissingContentLength": "Set checksums = \"when_required\" for this server.",
    "InvalidObjectState": "The object is archived: restore it from its storage class first.",
}  # fmt: skip


class Refused(StoreError):
    """412: the condition of a put or of a read does not hold."""


class UploadGone(StoreError):
    """404 NoSuchUpload."""


class PastTheEnd(StoreError):
    """416: the object ends before the asked range begins."""


def error_from_answer(where: str, answer: Mapping[str, Any]) -> StoreError:
    """Name the error that a server's answer stands for: by its code, and by the status if the code says nothing."""
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = str(answer.get("Error", {}).get("Message", ""))[:200]
    text, hint = f"{where}: {code or status}: {said}", _ADVICE.get(code, "")
    if code in _BUCKET_MISSING:
        return bucket_missing(text)
    if code == "NoSuchUpload":
        return UploadGone(text, hint="A rule of the bucket, or somebody, removed the unfinished upload.")
    if code in _FULL or status == 507:
        return StoreFull(text, hint="Make room, or raise the quota.")
    if code in _TRANSIENT or (status in _TRANSIENT_STATUS and code != "NotImplemented"):
        return StoreTransient(text)
    if code in _MISSING:
        return ObjectMissing(text)
    if code == "PreconditionFailed" or status == 412:
        return Refused(text)
    if code == "InvalidRange" or status == 416:
        return PastTheEnd(text)
    if code in _DENIED or (status in (401, 403) and code not in _ADVICE):
        return StoreAccessDenied(text, hint=hint or "Check the credentials, and what their policy allows.")
    return StoreError(text, hint=hint)


def bucket_missing(text: str) -> BucketMissing:
    return BucketMissing(text, hint="Make the bucket, or correct its name, region or endpoint.")
