"""What the service keeps: buckets, versions of objects, unfinished uploads, a retention policy, and the time."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import anycrc

from tests.oss_server.answers import Refusal, Request

CRC = anycrc.Model("CRC64-XZ")
FROZEN = {"Archive": timedelta(minutes=1), "ColdArchive": timedelta(hours=5), "DeepColdArchive": timedelta(hours=48)}
STORAGE_CLASSES = ("Standard", "IA", *FROZEN)
LAPSES_AFTER = timedelta(hours=24)  # a retention policy that nobody locked
_KEPT_HEADERS = (
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
)


@dataclass(slots=True)
class Clock:
    """The time that ages objects and policies. ``move`` lets days pass; signatures have a clock of their own."""

    shift: timedelta = timedelta(0)

    def now(self) -> datetime:
        return (datetime.now(UTC) + self.shift).replace(microsecond=0)

    def move(self, by: timedelta) -> None:
        self.shift += by


@dataclass(slots=True)
class Version:
    """One state of one key; ``marker`` for the state of being deleted. ``crc`` is None where OSS tells none."""

    content: bytes
    etag: str
    crc: int | None
    kind: Literal["Normal", "Multipart"]
    headers: dict[str, str]
    storage_class: str
    modified_at: datetime
    tags: dict[str, str] = field(default_factory=dict)
    version_id: str = "null"
    marker: bool = False
    thawed_at: datetime | None = None
    freezes_at: datetime | None = None

    def readable(self, now: datetime) -> bool:
        if self.storage_class not in FROZEN:
            return True
        return self.thawed_at is not None and self.freezes_at is not None and self.thawed_at <= now < self.freezes_at

    def thawing(self, now: datetime) -> bool:
        return self.thawed_at is not None and now < self.thawed_at


@dataclass(slots=True)
class Part:
    content: bytes
    etag: str
    crc: int | None
    modified_at: datetime


@dataclass(slots=True)
class Upload:
    upload_id: str
    key: str
    headers: dict[str, str]
    storage_class: str
    tags: dict[str, str]
    initiated_at: datetime
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(slots=True)
class Retention:
    """A BucketWorm policy. Until it is locked it lapses after a day, and protects nothing from then on."""

    worm_id: str
    days: int
    created_at: datetime
    locked: bool = False

    def lapsed(self, now: datetime) -> bool:
        return not self.locked and now >= self.created_at + LAPSES_AFTER


@dataclass(slots=True)
class Bucket:
    name: str
    created_at: datetime
    storage_class: str = "Standard"
    versioning: Literal["", "Enabled", "Suspended"] = ""
    versions: dict[str, list[Version]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    retention: Retention | None = None
    lifecycle: bytes = b""

    def current(self, key: str) -> Version | None:
        kept = self.versions.get(key)
        return kept[-1] if kept and not kept[-1].marker else None

    def find(self, key: str, version_id: str = "") -> Version:
        if not version_id:
            found = self.current(key)
            if found is None:
                raise Refusal(404, "NoSuchKey", "The specified key does not exist.", ec="0026-00000001", Key=key)
            return found
        for version in self.versions.get(key, []):
            if version.version_id == version_id:
                return version
        raise Refusal(404, "NoSuchVersion", "The specified version does not exist.", Key=key)

    def listed(self) -> Iterator[tuple[str, Version]]:
        for key in sorted(self.versions, key=str.encode):
            if version := self.current(key):
                yield key, version

    def check_overwrite(self, key: str, request: Request, now: datetime) -> None:
        """Refuse to replace what must stay. With versioning nothing is replaced, so the header is not looked at."""
        current = self.current(key)
        if current is None or self.versioning:
            return
        if request.headers.get("x-oss-forbid-overwrite", "").lower() == "true":
            message = "The object you specified already exists and can not be overwritten."
            raise Refusal(409, "FileAlreadyExists", message, ec="0026-00000107", Key=key)
        self.check_retention(current, now)

    def check_retention(self, version: Version, now: datetime) -> None:
        policy = self.retention
        if policy is None or policy.lapsed(now) or version.marker:
            return
        if now < version.modified_at + timedelta(days=policy.days):
            raise Refusal(409, "FileImmutable", "The object you specified is immutable.", ec="0055-00000011")

    def add(self, key: str, version: Version) -> None:
        """Make this the key's current state."""
        kept = self.versions.setdefault(key, [])
        if self.versioning == "Enabled":
            version.version_id = secrets.token_hex(16)
        else:
            kept[:] = [old for old in kept if old.version_id != "null"]
        kept.append(version)

    def remove(self, key: str, version_id: str, now: datetime) -> Version | None:
        """Delete; return the marker that was made or removed, if there is one."""
        if not version_id and self.versioning:
            marker = Version(b"", "", None, "Normal", {}, "", now, marker=True)
            self.add(key, marker)
            return marker
        kept = self.versions.get(key, [])
        gone = [version for version in kept if version.version_id == (version_id or "null")]
        for version in gone:
            self.check_retention(version, now)
        kept[:] = [version for version in kept if version not in gone]
        if not kept:
            self.versions.pop(key, None)
        return next((version for version in gone if version.marker), None)


def etag_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest().upper()


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a put's headers every later answer repeats."""
    prefixes = ("x-oss-meta-", "x-oss-server-side-encryption")
    return {name: value for name, value in headers.items() if name in _KEPT_HEADERS or name.startswith(prefixes)}


def storage_class_of(request: Request, bucket: Bucket) -> str:
    asked = request.headers.get("x-oss-storage-class", bucket.storage_class)
    if asked not in STORAGE_CLASSES:
        raise Refusal(400, "InvalidArgument", "no such storage class", ArgumentName="x-oss-storage-class")
    return asked
