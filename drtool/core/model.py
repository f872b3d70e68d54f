"""The values everything else speaks about: backup sets, their archives and volumes, the manifest that commits them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from drtool.errors import FormatTooNew, SetDamaged

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 1
"""Of the manifest. A reader refuses a greater number: it cannot know what it would overlook."""

SealKind = Literal["age", "none"]
Severity = Literal["amber", "red"]
Verdict = Literal["green", "amber", "red"]
"""Of a set. A red one was never committed: it is kept beside the others, and counts for nothing."""

_SET_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Volume:
    """One object in the store. ``name`` is below the set's folder; sizes in bytes; digests are SHA-256, hex."""

    name: str
    plain_size: int
    plain_sha256: str
    stored_size: int
    stored_sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """One logical tar: its volumes, unsealed and concatenated in this order, are the archive."""

    name: str
    seal: SealKind
    recipients: tuple[str, ...]
    members: int
    volumes: tuple[Volume, ...]

    @property
    def size(self) -> int:
        return sum(volume.plain_size for volume in self.volumes)


@dataclass(frozen=True, slots=True)
class GitLabFacts:
    """What was backed up. ``version`` is the text of the VERSION file, the string that GitLab's restore compares.

    ``disabled`` are the components that its configuration switches off, by their ids.
    """

    version: str
    package: str | None
    install: str
    installation_type: str
    db_version: str
    backup_id: str
    repositories: int
    disabled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a restore needs to know of the host that was backed up; None where it could not be seen.

    ``postgresql`` is the server's major. ``database_elsewhere`` says that the configuration leads to a database on
    another machine, ``object_storage`` names the components whose files are not in the set because they are elsewhere.
    """

    architecture: str | None
    postgresql: int | None
    storages: tuple[str, ...]
    database_elsewhere: bool
    object_storage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a set, or must not be forgotten. Names no project: manifests are in clear.

    ``amber`` leaves a set that can be restored; ``red`` does not.
    """

    code: str
    message: str
    count: int = 1
    severity: Severity = "amber"


@dataclass(frozen=True, slots=True)
class Tally:
    """How much there is of something, so that the next set can be held against it: ``uploads``, ``table rows``.

    ``size`` in bytes; 0 where bytes mean nothing.
    """

    name: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Slow, salted digests of the values of one secret, hex: they tell whether it is the same, and nothing else."""

    name: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecretsFacts:
    """Whether the configuration's secrets open what the database holds encrypted.

    ``opened`` and ``failed`` count values; ``complete`` says that all were tried, not a sample.
    """

    fit: Literal["fits", "fits in part", "does not fit", "could not be tested"]
    opened: int
    failed: int
    complete: bool
    salt: str
    fingerprints: tuple[Fingerprint, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record that commits a set. In clear, signed, and free of anything sensitive."""

    format: int
    tool: str
    instance: str
    set_id: str
    created_at: datetime
    finished_at: datetime
    gitlab: GitLabFacts
    verdict: Verdict
    findings: tuple[Finding, ...]
    archives: tuple[Archive, ...]
    index: Archive
    census: Archive | None
    contents: tuple[Tally, ...]
    secrets: SecretsFacts | None
    host: HostFacts | None = None  # sets of older builds have none

    def archive(self, name: str) -> Archive:
        for archive in self.archives:
            if archive.name == name:
                return archive
        raise SetDamaged(f"{self.set_id}: the manifest names no {name} archive")

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """All volumes of the set, the census and the index last."""
        kept = (*self.archives, *((self.census,) if self.census else ()), self.index)
        return tuple(volume for archive in kept for volume in archive.volumes)

    @property
    def plain_size(self) -> int:
        """What the archives hold, in bytes, without census and index."""
        return sum(archive.size for archive in self.archives)

    @property
    def stored_size(self) -> int:
        return sum(volume.stored_size for volume in self.volumes)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing of a set that was looked at. ``problems`` empty means that it is as it must be."""

    name: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexedMember:
    """Where a member's data lies in its archive, in bytes from the archive's start."""

    name: str
    offset: int
    size: int


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Say what a set is worth: its worst finding decides."""
    severities = {finding.severity for finding in findings}
    return "red" if "red" in severities else "amber" if severities else "green"


def new_set_id(now: datetime, token: str) -> str:
    """Name a set so that names sort by time. ``token`` is four hex digits that tell two runs of a second apart."""
    set_id = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{token}"
    if not is_set_id(set_id):
        raise ValueError(f"not four hex digits: {token!r}")
    return set_id


def is_set_id(text: str) -> bool:
    """Say whether ``new_set_id`` could have given this name."""
    if not _SET_ID.match(text):
        return False
    try:
        time_of(text)
    except ValueError:
        return False
    return True


def time_of(set_id: str) -> datetime:
    """When the set was begun, as its name says."""
    return datetime.strptime(set_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def render_manifest(manifest: Manifest) -> bytes:
    """Write a manifest as JSON: indented for people, the same bytes for the same value."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True, default=_text_of_time).encode() + b"\n"


def parse_manifest(text: bytes, *, source: str) -> Manifest:
    """Read a manifest. ``source`` names it in errors.

    Raises FormatTooNew before it looks at anything else, SetDamaged for whatever is not a manifest.
    """
    from pydantic import ValidationError

    try:
        fields = json.loads(text)
        written = fields["format"]
    except KeyError as problem:
        raise SetDamaged(f"{source}: not a manifest: format is missing") from problem
    except (ValueError, TypeError, RecursionError) as problem:
        raise SetDamaged(f"{source}: not a manifest: {problem}") from problem
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise SetDamaged(f"{source}: not a manifest: format is {written!r}")
    if written > FORMAT:
        raise FormatTooNew(
            f"{source}: format {written}, this drtool reads up to {FORMAT}",
            hint="Install the drtool that wrote it, or a newer one.",
        )
    try:
        manifest = _manifest_type().validate_json(text, strict=True)
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "not a manifest"
        raise SetDamaged(f"{source}: {where}: {first['msg']}") from problem
    if oddity := _oddity(manifest):
        raise SetDamaged(f"{source}: {oddity}")
    return manifest


def _oddity(manifest: Manifest) -> str | None:
    """What no backup writes. An unsigned manifest may come from anybody, and its names become keys and file names."""
    if not is_set_id(manifest.set_id):
        return f"set_id: {manifest.set_id!r} is no set id"
    for field in ("created_at", "finished_at"):
        if getattr(manifest, field).tzinfo is None:
            return f"{field}: has no time zone"
    if manifest.verdict != verdict_of(manifest.findings):
        return f"verdict: {manifest.verdict} is not what its findings say"
    names = [archive.name for archive in manifest.archives]
    beside = [("index", manifest.index)] + ([("census", manifest.census)] if manifest.census else [])
    for where, archive in [*((f"archives.{number}", found) for number, found in enumerate(manifest.archives)), *beside]:
        if not _NAME.match(archive.name) or names.count(archive.name) > 1:
            return f"{where}.name: {archive.name!r} is no name, or one that another archive has"
        for place, volume in enumerate(archive.volumes):
            if not _could_be_stored(volume):
                return f"{where}.volumes.{place}: {volume.name!r} could not be stored as is said"
    return None


def _could_be_stored(volume: Volume) -> bool:
    digests = (volume.plain_sha256, volume.stored_sha256)
    named = _NAME.match(volume.name) and all(_SHA256.match(digest) for digest in digests)
    return bool(named) and min(volume.plain_size, volume.stored_size) >= 0


@cache
def _manifest_type() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter  # a tenth of a second: paid by those who read a manifest, not by --help

    return TypeAdapter(Manifest)


def _text_of_time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"a manifest cannot hold {value!r}")
