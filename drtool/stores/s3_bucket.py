"""What an S3 service says of a bucket and of its objects beyond their bytes. For questions, not for backups."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from drtool.errors import StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.s3 import S3Store


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


def locked_until(store: S3Store, key: str) -> datetime | None:
    head = store.head(key)
    return head.get("ObjectLockRetainUntilDate") if head.get("ObjectLockMode") else None


def checksum_kept(store: S3Store, key: str) -> str | None:
    """Name the checksum that the server keeps of an object, or None."""
    head = store.call(key, lambda: store.client.head_object(**store.address(key), ChecksumMode="ENABLED"))
    names = [name.removeprefix("Checksum") for name in head if name.startswith("Checksum") and name != "ChecksumType"]
    return names[0] if names else None
