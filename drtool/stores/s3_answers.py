"""What the answers of S3 servers mean in our errors. Pure: an answer in, an error out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreFull, StoreTransient
from drtool.stores.endpoint import is_web_page, skew_hint, web_page

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
    "InvalidAccessKeyId": "Correct access_key_id in drtool.toml: the server does not know it.",
    "SignatureDoesNotMatch": "Correct secret_access_key in drtool.toml: it does not belong to the access key id.",
    "ExpiredToken": "The session token has expired: fetch a new one, or let the machine's role give them.",
    "InvalidToken": "Correct session_token in drtool.toml: it does not belong to the access key id.",
    "NotImplemented": "This server lacks the call; checksums = \"when_required\" helps with some.",
    "MissingContentLength": "Set checksums = \"when_required\" for this server.",
}  # fmt: skip
_ELSEWHERE = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "301"}
_KMS = (
    "Correct kms_key_id in drtool.toml, or let the key's policy and that of these credentials allow"
    " kms:GenerateDataKey and kms:Decrypt."
)
# What a policy has to allow for a call, where that is not called like it.
_ACTIONS = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject, and s3:GetObject where it comes from",
    "CopyObject": "s3:PutObject, and s3:GetObject where it comes from",
}


class Refused(StoreError):
    """412: the condition of a put or of a read does not hold."""


class UploadGone(StoreError):
    """404 NoSuchUpload."""


class PastTheEnd(StoreError):
    """416: the object ends before the asked range begins."""


class Frozen(StoreError):
    """403 InvalidObjectState: the object lies in a class that has to be thawed before it can be read."""


def error_from_answer(
    where: str, answer: Mapping[str, Any], *, call: str = "", now: datetime | None = None
) -> StoreError:
    """Name the error that a server's answer stands for: by its code, and by the status if the code says nothing.

    ``call``: what was asked, as boto3 names it. ``now``: what this host's clock says.
    """
    said, metadata = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), int(metadata.get("HTTPStatusCode", 0))
    headers: Mapping[str, str] = metadata.get("HTTPHeaders", {})
    text, hint = f"{where}: {code or status}: {str(said.get('Message', ''))[:200]}", _ADVICE.get(code, "")
    if code in _BUCKET_MISSING:
        return bucket_missing(text)
    if code == "NoSuchUpload":
        return UploadGone(text, hint="A rule of the bucket, or somebody, removed the unfinished upload.")
    if code in _FULL or status == 507:
        return StoreFull(text, hint="Make room, or raise the quota.")
    if code in _TRANSIENT or (status in _TRANSIENT_STATUS and code != "NotImplemented"):
        return StoreTransient(text)
    if is_web_page(headers, signed_by=("x-amz-request-id", "x-amz-id-2")):
        return web_page(where, status)
    if code in _ELSEWHERE or (code == "400" and "x-amz-bucket-region" in headers):
        return StoreError(text, hint=_elsewhere(said, headers))
    if code in _MISSING:
        return ObjectMissing(text)
    if code == "PreconditionFailed" or status == 412:
        return Refused(text)
    if code == "InvalidRange" or status == 416:
        return PastTheEnd(text)
    if code == "InvalidObjectState":
        return Frozen(text, hint=_frozen(where, str(said.get("StorageClass", ""))))
    if code == "RequestTimeTooSkewed" and (theirs := _server_time(said, headers)):
        return StoreAccessDenied(text, hint=skew_hint(now or datetime.now(UTC), theirs))
    if code.startswith("KMS.") or (code == "AccessDenied" and "kms:" in str(said.get("Message"))):
        return StoreAccessDenied(text, hint=_KMS)
    if code in _DENIED or (status in (401, 403) and code not in _ADVICE):
        return StoreAccessDenied(text, hint=hint or _allow(call))
    return StoreError(text, hint=hint)


def _elsewhere(said: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    region = said.get("Region") or headers.get("x-amz-bucket-region")
    if region:
        return f'The bucket is in another region: set region = "{region}" in drtool.toml.'
    if endpoint := said.get("Endpoint"):
        return f"The bucket is elsewhere, at {endpoint}: correct region or endpoint in drtool.toml."
    return "The bucket is in another region: correct region in drtool.toml."


def _allow(call: str) -> str:
    if not call:
        return "Check the credentials, and what their policy allows."
    hint = f"Let the policy of these credentials, and the bucket's, allow {_ACTIONS.get(call, f's3:{call}')}."
    if call in ("GetObject", "HeadObject"):
        hint += " (Without s3:ListBucket, a missing object looks the same.)"
    return hint


def _frozen(where: str, storage_class: str) -> str:
    bucket, _, key = where.partition(" at ")[0].removeprefix("s3://").partition("/")
    command = f"aws s3api restore-object --bucket {bucket} --key {key} --restore-request Days=7"
    return (
        f"Frozen{f' in {storage_class}' if storage_class else ''}: for this and every other object of the set run"
        f" `{command}`, wait (minutes to two days), then run this again."
    )


def _server_time(said: Mapping[str, Any], headers: Mapping[str, str]) -> datetime | None:
    try:
        if "ServerTime" in said:
            return datetime.fromisoformat(str(said["ServerTime"])).astimezone(UTC)
        return parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None


def bucket_missing(text: str) -> BucketMissing:
    return BucketMissing(text, hint="Make the bucket, or correct bucket, region or endpoint in drtool.toml.")
