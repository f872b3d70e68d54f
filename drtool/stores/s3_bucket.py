"""What an S3 service says of a bucket and of its objects beyond their bytes. For questions, not for backups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from drtool.errors import StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.s3 import S3Store

_FROZEN = {"GLACIER", "DEEP_ARCHIVE"}


def versioning(store: S3Store) -> Literal["never", "enabled", "suspended"]:
    answer = store.call("", lambda: store.client.get_bucket_versioning(Bucket=store.bucket))
    status = str(answer.get("Status", ""))  # absent until somebody turned it on
    if status == "Enabled":
        return "enabled"
    return "suspended" if status == "Suspended" else "never"


def lock_enabled(store: S3Store) -> bool:
    """Say whether objects of the bucket can be locked. A server that does not know the question cannot."""
    try:
        answer = store.call("", lambda: store.client.get_object_lock_configuration(Bucket=store.bucket))
    except (StoreAccessDenied, StoreTransient):
        raise
    except StoreError:
        return False  # 404 ObjectLockConfigurationNotFoundError, 501 NotImplemented
    return answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"


def lifecycle(store: S3Store) -> LifecycleEffects:
    """Say what the bucket's own rules do to objects below our prefix."""
    try:
        answer = store.call("", lambda: store.client.get_bucket_lifecycle_configuration(Bucket=store.bucket))
    except (StoreAccessDenied, StoreTransient):
        raise
    except StoreError:
        return LifecycleEffects()  # 404 NoSuchLifecycleConfiguration, 501 NotImplemented
    return lifecycle_effects(answer.get("Rules", []), store.prefix)


def lifecycle_effects(rules: Iterable[Mapping[str, Any]], prefix: str) -> LifecycleEffects:
    """Judge rules as boto3 gives them. Rules for tags leave us alone: we set none."""
    ours = [(_prefix_of(rule), rule) for rule in rules if rule["Status"] == "Enabled" and not _is_for_tags(rule)]
    touching = [rule for its, rule in ours if prefix.startswith(its) or its.startswith(prefix)]
    return LifecycleEffects(
        any("AbortIncompleteMultipartUpload" in rule and prefix.startswith(its) for its, rule in ours),
        tuple(rule.get("ID", "") for rule in touching if {"Days", "Date"} & {*rule.get("Expiration", {})}),
        tuple(
            rule.get("ID", "")
            for rule in touching
            if any(move["StorageClass"] in _FROZEN for move in rule.get("Transitions", []))
        ),
    )


def _prefix_of(rule: Mapping[str, Any]) -> str:
    condition = rule.get("Filter", {})
    return str(condition.get("Prefix") or condition.get("And", {}).get("Prefix") or rule.get("Prefix") or "")


def _is_for_tags(rule: Mapping[str, Any]) -> bool:
    condition = rule.get("Filter", {})
    return "Tag" in condition or bool(condition.get("And", {}).get("Tags"))


def locked_until(store: S3Store, key: str) -> datetime | None:
    return store.locked_until(key)


def kept_as(store: S3Store, key: str) -> dict[str, str]:
    """How the bucket keeps an object, in the words of drtool.toml. S3 does not name the class STANDARD."""
    head = store.head(key)
    return {
        "storage_class": head.get("StorageClass", "STANDARD"),
        "sse": head.get("ServerSideEncryption", "none"),
        "kms_key_id": head.get("SSEKMSKeyId", "none"),
    }


def checksum_kept(store: S3Store, key: str) -> str | None:
    """Name the checksum that the server keeps of an object, or None."""
    head = store.call(key, lambda: store.client.head_object(**store.address(key), ChecksumMode="ENABLED"))
    names = [name.removeprefix("Checksum") for name in head if name.startswith("Checksum") and name != "ChecksumType"]
    return names[0] if names else None
