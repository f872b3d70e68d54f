"""What a thief would try on S3. See ``hostile``."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from drtool.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.hostile import Attempt, Harmless, NotTried, Setting, around, refuse_unread
from drtool.stores.s3 import S3Store

_LOCKED_FOR = timedelta(minutes=5)
_SCRATCH = b"drtool check --attack\n"


@dataclass(frozen=True, slots=True)
class _Setting(Setting):
    """``read``, ``write`` and ``remove`` are calls of boto3, ``field`` what the second takes and the first gives."""

    read: str = ""
    write: str = ""
    remove: str = ""
    field: str = ""
    wrapped: str = ""


_SETTINGS = (
    _Setting(
        "drop versioning",
        "Suspend versioning: from then on, what is put over a backup replaces it.",
        read="GetBucketVersioning",
        write="PutBucketVersioning",
        field="VersioningConfiguration",
    ),
    _Setting(
        "change lifecycle",
        "Let the bucket itself delete every backup and every older version, a day later.",
        "NoSuchLifecycleConfiguration",
        "GetBucketLifecycleConfiguration",
        "PutBucketLifecycleConfiguration",
        "DeleteBucketLifecycle",
        "LifecycleConfiguration",
        "Rules",
    ),
    _Setting(
        "change bucket policy",
        "Let anybody read, replace and delete the backups, or lock you out.",
        "NoSuchBucketPolicy",
        "GetBucketPolicy",
        "PutBucketPolicy",
        "DeleteBucketPolicy",
        "Policy",
    ),
    _Setting(
        "open to the public",
        "Take away what keeps the bucket from being made public.",
        "NoSuchPublicAccessBlockConfiguration",
        "GetPublicAccessBlock",
        "PutPublicAccessBlock",
        "DeletePublicAccessBlock",
        "PublicAccessBlockConfiguration",
        "PublicAccessBlockConfiguration",
    ),
    _Setting(
        "change default encryption",
        "Have every later backup encrypted with a key that can be taken away.",
        "ServerSideEncryptionConfigurationNotFoundError",
        "GetBucketEncryption",
        "PutBucketEncryption",
        "DeleteBucketEncryption",
        "ServerSideEncryptionConfiguration",
        "ServerSideEncryptionConfiguration",
    ),
)


@dataclass(frozen=True)
class S3Arms:
    store: S3Store

    def version_of(self, key: str) -> str:
        version = self.store.head(key).get("VersionId", "")
        return "" if version == "null" else version

    def read_version(self, key: str, version: str) -> bytes:
        client, address = self.store.client, self.store.address(key)
        content: bytes = self.store.call(key, lambda: client.get_object(**address, VersionId=version)["Body"].read())
        return content

    @property
    def attempts(self) -> Sequence[Attempt]:
        return (
            Attempt("delete a version", "Delete backups for good, whatever versioning keeps.", self._delete_version),
            Attempt("shorten retention", "End a backup's lock, and delete it then.", self._shorten),
            Attempt("bypass retention", "Delete a backup in spite of its lock.", self._bypass),
            Attempt(
                "re-encrypt with another key",
                "Put each backup over itself, encrypted with a key that only the thief has, and sell it to you.",
                self._reencrypt,
                "Deny puts with a customer's key in the policy, as `drtool init --iam aws` prints it.",
            ),
            *(Attempt(each.name, each.gains, partial(self._put_back, each)) for each in _SETTINGS),
        )

    def _delete_version(self, key: str, now: datetime) -> str:
        version = self._put_version(key, now)
        self._delete(key, version, bypass=False)
        return self._is_gone(key, version)

    def _bypass(self, key: str, now: datetime) -> str:
        self._need_lock()
        version = self._put_version(key, now)
        self._delete(key, version, bypass=True)
        return self._is_gone(key, version)

    def _shorten(self, key: str, now: datetime) -> str:
        self._need_lock()
        self._put_version(key, now)
        before, sooner = around(partial(self.store.locked_until, key)), now + timedelta(minutes=1)
        retention: Any = {"Mode": around(partial(self._lock_mode, key)), "RetainUntilDate": sooner}
        for bypass in ({}, {"BypassGovernanceRetention": True}):
            address: Any = {**self.store.address(key), **bypass}
            with suppress(StoreAccessDenied):
                self.store.call(key, partial(self.store.client.put_object_retention, **address, Retention=retention))
        after = around(partial(self.store.locked_until, key))
        if before and after and after >= before:
            raise StoreAccessDenied("the lock is as long as it was")
        return f"a lock until {before} ends at {after}"

    def _reencrypt(self, key: str, now: datetime) -> str:  # noqa: ARG002  an attempt gets the time
        around(partial(self.store.put, key, io.BytesIO(_SCRATCH)))
        before = around(partial(self.version_of, key))
        with self.store.errors(key):
            self.store.client.copy_object(
                **self.store.address(key),
                CopySource={"Bucket": self.store.bucket, "Key": self.store.prefix + key},
                SSECustomerAlgorithm="AES256",
                SSECustomerKey=secrets.token_bytes(32),  # boto3 encodes bytes itself
            )
        kept = " (what was there stays as an older version)" if before else ""
        return f"an object was put over itself, encrypted with a key that the bucket does not have{kept}"

    def _put_back(self, setting: _Setting, key: str, now: datetime) -> str:  # noqa: ARG002 - as all of its kind
        client: Any = self.store.client
        arguments = {"Bucket": self.store.bucket}
        try:
            with _raw_answer(client, setting.read) as raw:
                found = self.store.call("", partial(_call, client, setting.read, arguments))
        except StoreTransient:
            raise
        except StoreError as problem:
            if not setting.absent or setting.absent not in str(problem):
                raise refuse_unread(setting.name.partition(" ")[2], problem) from problem
            self._remove(setting, arguments)
            return "there is none, and removing it was not refused"
        if setting.field == "Policy":
            self.store.call("", partial(_call, client, setting.write, {**arguments, "Policy": found["Policy"]}))
            return "it could be put, the same one"
        if setting.field == "VersioningConfiguration":
            if not found.get("Status"):
                raise NotTried("versioning was never turned on, and there is no way back to that")
            value: Any = {"Status": found["Status"]}
        else:
            value = {"Rules": found["Rules"]} if setting.wrapped == "Rules" else found[setting.wrapped]
        with _raw_request(client, setting.write, raw[0]):
            self.store.call("", partial(_call, client, setting.write, {**arguments, setting.field: value}))
        return "it could be put, the same one"

    def _remove(self, setting: _Setting, arguments: dict[str, Any]) -> None:
        """Remove a setting that is not there. A server that looks for it, as SeaweedFS 4.48, did not refuse it."""
        try:
            self.store.call("", partial(_call, self.store.client, setting.remove, arguments))
        except StoreError as problem:
            if setting.absent not in str(problem):
                raise

    def _need_lock(self) -> None:
        if self.store.capabilities.lock != "object":
            raise NotTried("the store's settings have no object_lock")

    def _put_version(self, key: str, now: datetime) -> str:
        lock = now + _LOCKED_FOR if self.store.capabilities.lock == "object" else None
        around(partial(self.store.put, key, io.BytesIO(_SCRATCH), lock_until=lock))
        version = around(partial(self.version_of, key))
        if not version:
            raise NotTried("the bucket keeps no versions")
        return version

    def _lock_mode(self, key: str) -> str:
        return str(self.store.head(key).get("ObjectLockMode", "GOVERNANCE"))

    def _delete(self, key: str, version: str, *, bypass: bool) -> None:
        address: Any = {**self.store.address(key), "VersionId": version}
        if bypass:
            address["BypassGovernanceRetention"] = True
        self.store.call(key, lambda: self.store.client.delete_object(**address))

    def _is_gone(self, key: str, version: str) -> str:
        try:
            around(partial(self.read_version, key, version))
        except ObjectMissing:
            return "an object's version was deleted for good"
        except NotTried as problem:
            if "NoSuchVersion" in str(problem):
                return "an object's version was deleted for good"
            raise
        raise Harmless("the store said yes, and the version is still there")


def _call(client: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    names = {name: method for method, name in client.meta.method_to_api_mapping.items()}
    answer: dict[str, Any] = getattr(client, names[operation])(**arguments)
    return answer


@contextmanager
def _raw_answer(client: Any, operation: str) -> Iterator[list[bytes]]:
    """Keep the bytes of an answer: boto3 gives only what it knows of them."""
    seen: list[bytes] = []

    def keep(response_dict: dict[str, Any], **_: object) -> None:
        seen[:] = [response_dict["body"]]

    with _registered(client, f"before-parse.s3.{operation}", keep):
        yield seen


@contextmanager
def _raw_request(client: Any, operation: str, body: bytes) -> Iterator[None]:
    """Send these bytes in place of what boto3 makes of its arguments."""

    def replace(params: dict[str, Any], **_: object) -> None:
        params["body"] = body
        for name in [name for name in params["headers"] if name.lower() in ("content-md5", "content-length")]:
            del params["headers"][name]

    with _registered(client, f"before-call.s3.{operation}", replace):
        yield


@contextmanager
def _registered(client: Any, event: str, handler: Callable[..., None]) -> Iterator[None]:
    client.meta.events.register_first(event, handler)
    try:
        yield
    finally:
        client.meta.events.unregister(event, handler)
