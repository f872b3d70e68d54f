"""What a thief would try on OSS. See ``hostile``."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from drtool.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.hostile import Attempt, Harmless, NotTried, Setting, around, refuse_unread
from drtool.stores.oss import OssStore

_SCRATCH = b"drtool check --attack\n"


@dataclass(frozen=True, slots=True)
class _Setting(Setting):
    """``parameter``: the name of the setting in a request for the bucket."""

    parameter: str = ""


_SETTINGS = (
    _Setting(
        "drop versioning",
        "Suspend versioning: from then on, what is put over a backup replaces it.",
        parameter="versioning",
    ),
    _Setting(
        "change lifecycle",
        "Let the bucket itself delete every backup and every older version, a day later.",
        "NoSuchLifecycle",
        "lifecycle",
    ),
    _Setting(
        "change bucket policy",
        "Let anybody read, replace and delete the backups, or lock you out.",
        "NoSuchBucketPolicy",
        "policy",
    ),
    _Setting(
        "change default encryption",
        "Have every later backup encrypted with a key that can be taken away.",
        "NoSuchServerSideEncryptionRule",
        "encryption",
    ),
)


@dataclass(frozen=True)
class OssArms:
    store: OssStore

    def version_of(self, key: str) -> str:
        version = self.store.head(key).headers.get("x-oss-version-id", "")
        return "" if version == "null" else str(version)

    def read_version(self, key: str, version: str) -> bytes:
        name = self.store.prefix + key
        ask = partial(self.store.client.get_object, name, params={"versionId": version})
        content: bytes = self.store.call(key, ask).read()
        return content

    @property
    def attempts(self) -> Sequence[Attempt]:
        return (
            Attempt("delete a version", "Delete backups for good, whatever versioning keeps.", self._delete_version),
            Attempt("shorten retention", "End the bucket's retention, and delete every backup then.", self._end_worm),
            Attempt("re-encrypt with another key", "", self._reencrypt),
            *(Attempt(each.name, each.gains, partial(self._put_back, each)) for each in _SETTINGS),
        )

    def _delete_version(self, key: str, now: datetime) -> str:  # noqa: ARG002  an attempt gets the time
        around(partial(self.store.put, key, io.BytesIO(_SCRATCH)))
        version = around(partial(self.version_of, key))
        if not version:
            raise NotTried("the bucket keeps no versions")
        name = self.store.prefix + key
        self.store.call(key, partial(self.store.client.delete_object, name, params={"versionId": version}))
        try:
            around(partial(self.read_version, key, version))
        except ObjectMissing:
            return "an object's version was deleted for good"
        except NotTried as problem:
            if "NoSuchVersion" in str(problem):
                return "an object's version was deleted for good"
            raise
        raise Harmless("the store said yes, and the version is still there")

    def _end_worm(self, key: str, now: datetime) -> str:  # noqa: ARG002 - as all of its kind
        """Only of a policy that is locked: that one nobody can end, and a service that did would be no OSS."""
        worm = around(self.store.worm_state)
        if worm.state == "in progress":
            raise NotTried("the retention policy is only begun: ending it would really end it. Lock it")
        if worm.state == "none":
            raise NotTried("the bucket has no retention policy")
        try:
            self.store.call("", self.store.client.abort_bucket_worm)
        except StoreTransient:
            raise
        except StoreError as problem:
            after = around(self.store.worm_state)
            if after.state == "locked" and after.retention >= worm.retention:
                raise StoreAccessDenied(f"the policy stays locked: {problem}") from problem
            raise
        return "the bucket's locked retention policy could be ended"

    def _reencrypt(self, key: str, now: datetime) -> str:  # noqa: ARG002 - as all of its kind
        raise NotTried("OSS encrypts with keys of KMS alone, and none is made for this")

    def _put_back(self, setting: _Setting, key: str, now: datetime) -> str:  # noqa: ARG002 - as all of its kind
        try:
            content = self._ask("GET", setting.parameter)
        except StoreTransient:
            raise
        except StoreError as problem:
            if not setting.absent or f"{setting.absent}:" not in str(problem):
                raise refuse_unread(setting.name.partition(" ")[2], problem) from problem
            self._ask("DELETE", setting.parameter)
            return "there is none, and removing it was not refused"
        if setting.parameter == "versioning" and b"<Status>" not in content:
            raise NotTried("versioning was never turned on, and there is no way back to that")
        self._ask("PUT", setting.parameter, content)
        return "it could be put, the same one"

    def _ask(self, method: str, parameter: str, content: bytes = b"") -> bytes:
        """Call without oss2's own reading and writing, which keeps only what it knows."""
        headers: dict[str, str] = {}
        if content:
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            headers = {"Content-MD5": base64.b64encode(digest).decode()}
        client: Any = self.store.client

        def ask() -> bytes:
            answer = client._do(method, self.store.bucket, "", data=content, headers=headers, params={parameter: ""})
            told: bytes = answer.read()
            return told

        return self.store.call("", ask)
