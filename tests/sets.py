"""Committed backup sets for tests, without any GitLab: made-up archives, cut, sealed, signed and committed as a
backup does it.

    committed = sets.commit(MemoryStore())
    committed.open().read_archive("application").read() == committed.plain["application"]
"""

from __future__ import annotations

import atexit
import dataclasses
import io
import random
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from drtool.catalog import BackupSet, Catalog
from drtool.core.census import CENSUS_FORMAT, Census, Files, Project, Repository
from drtool.core.model import FORMAT, Archive, GitLabFacts, IndexedMember, Manifest, SealKind
from drtool.events import ignore
from drtool.gitlab.archive import TarScanner
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal
from drtool.signing import Signer, Verifier, make_key
from drtool.stores import Store
from drtool.streams import generate_identity, parse_identities, parse_recipients
from drtool.volumes import VolumeWriter

SET_ID = "20260113T031500Z-7f3a"
LATER_SET_ID = "20260114T031500Z-0b1c"
INSTANCE = "gitlab"
NIGHT = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)


class StillClock:
    """A clock that only ``sleep`` moves."""

    def __init__(self, now: datetime = NIGHT) -> None:
        self._now = now
        self._slept = timedelta(0)

    def now(self) -> datetime:
        return self._now + self._slept

    def monotonic(self) -> float:
        return self._slept.total_seconds()

    def sleep(self, duration: timedelta) -> None:
        self._slept += duration


@dataclass(frozen=True)
class Keys:
    """A fresh age identity and a fresh signing key."""

    recipient: str
    identities: tuple[object, ...]
    signer: Signer
    verifier: Verifier
    public_key: str


@dataclass(frozen=True)
class Committed:
    """A committed set, and what it was made of."""

    catalog: Catalog
    manifest: Manifest
    plain: Mapping[str, bytes]
    keys: Keys

    @property
    def object_keys(self) -> tuple[str, ...]:
        """Every object of the set."""
        return tuple(info.key for info in self.catalog.store.list(self.catalog.key(self.manifest.set_id, "")))

    def open(self) -> BackupSet:
        """Open it as a restore does: signature checked, identities at hand."""
        manifest = self.catalog.read_manifest(self.manifest.set_id, self.keys.verifier)
        return BackupSet(self.catalog, manifest, self.keys.identities)


def new_keys() -> Keys:
    """Make keys that nobody else has; their files go when the process ends."""
    scratch = Path(tempfile.mkdtemp(prefix="drtool-keys-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    runner = LocalRunner()
    public_key = make_key(scratch / "signing_key", runner, comment="drtool@test")
    secret, recipient = generate_identity()
    identities = tuple(parse_identities([("test", secret.encode())]))
    return Keys(
        recipient, identities, Signer(scratch / "signing_key", runner), Verifier((public_key,), runner), public_key
    )


@cache
def keys() -> Keys:
    """The keys that sets are made with unless a test brings its own."""
    return new_keys()


def application(seed: int = 0, *, size: int = 40 << 10) -> bytes:
    """A tar that looks like GitLab's staged members; other seeds give other bytes of the same layout."""
    noise = random.Random(seed)
    return tar_of(
        {
            "backup_information.yml": f":backup_id: {seed}\n".encode(),
            "db/database.sql.gz": noise.randbytes(size // 2),
            "uploads.tar.gz": noise.randbytes(size // 2),
            "repositories/default/@hashed/aa/bb/cc/001.bundle": noise.randbytes(1234),
        }
    )


def config(seed: int = 0) -> bytes:
    noise = random.Random(~seed)
    return tar_of(
        {
            "etc/gitlab/gitlab.rb": b"external_url 'https://gitlab.example.com'\n",
            "etc/gitlab/gitlab-secrets.json": noise.randbytes(5000),
        }
    )


def census(seed: int = 0) -> Census:
    """A made-up census of a few dozen projects."""
    projects = tuple(
        Project(f"group/project-{number}", number, "private", False, f"default/{number}.git") for number in range(1, 40)
    )
    repositories = {project.repository: Repository(project.id, f"{seed + project.id:064x}") for project in projects}
    return Census(
        format=CENSUS_FORMAT,
        gitlab_version="18.9.0-ee",
        backup_id=SET_ID,
        instance_id=f"{seed:032x}",
        taken_at=NIGHT,
        newest_activity=NIGHT,
        users=seed,
        groups=1,
        projects=projects,
        repositories=repositories,
        components={"uploads": Files(seed, 1000)},
        tables={"public.users": seed, "public.projects": len(projects)},
    )


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def commit(
    store: Store,
    *,
    instance: str = INSTANCE,
    set_id: str = SET_ID,
    seed: int = 0,
    volume_size: int = 12 << 10,
    seal: SealKind = "age",
    keys_: Keys | None = None,
    archives: Mapping[str, bytes] | None = None,
    with_census: bool = False,
) -> Committed:
    """Put a whole set into a store. ``seal`` is the application's and the index's; the config is always sealed."""
    used = keys_ or keys()
    plain = archives or {"application": application(seed), "config": config(seed)}
    catalog = Catalog(store, instance)
    recipients = {name: (used.recipient,) if seal == "age" or name == "config" else () for name in (*plain, "index")}
    index: dict[str, list[IndexedMember]] = {}
    written = []
    with tempfile.TemporaryDirectory(prefix="drtool-journal-") as scratch:
        journal = Journal(Path(scratch, f"backup-{instance}-{set_id}.jsonl"))
        writer = VolumeWriter(catalog, set_id, journal, volume_size, 2, ignore)
        for name, content in plain.items():
            scanner = TarScanner()
            volumes = writer.write(name, io.BytesIO(content), scanner, parse_recipients(recipients[name]))
            index[name] = [IndexedMember(found.name, found.offset, found.size) for found in scanner.members]
            written.append(Archive(name, _seal(recipients[name]), recipients[name], len(scanner.members), volumes))
    sealed_to = recipients["index"]
    counted = catalog.put_census(set_id, census(seed), parse_recipients(sealed_to)) if with_census else None
    volume = catalog.put_index(set_id, index, parse_recipients(sealed_to))
    manifest = manifest_of(
        tuple(written), Archive("index", _seal(sealed_to), sealed_to, 0, (volume,)), instance=instance, set_id=set_id
    )
    if counted:
        manifest = dataclasses.replace(manifest, census=Archive("census", _seal(sealed_to), sealed_to, 0, (counted,)))
    catalog.commit(manifest, used.signer)
    return Committed(catalog, manifest, plain, used)


def manifest_of(
    archives: tuple[Archive, ...], index: Archive, *, instance: str = INSTANCE, set_id: str = SET_ID
) -> Manifest:
    facts = GitLabFacts(
        "18.9.0-ee", "gitlab-ee=18.9.0-ee.0", "omnibus", "omnibus-gitlab", "20260101000000", set_id, 1, ("registry",)
    )
    return Manifest(
        format=FORMAT,
        tool="drtool test",
        instance=instance,
        set_id=set_id,
        created_at=NIGHT,
        finished_at=NIGHT + timedelta(minutes=7),
        gitlab=facts,
        verdict="green",
        findings=(),
        archives=archives,
        index=index,
        census=None,
        contents=(),
        secrets=None,
    )


def content(store: Store, key: str) -> bytes:
    """All bytes of one object."""
    with store.open(key) as body:
        return body.read()


def replace(store: Store, key: str, changed: bytes) -> None:
    """Put other bytes in an object's place, as rot or an intruder would."""
    store.put(key, io.BytesIO(changed))


def _seal(recipients: tuple[str, ...]) -> SealKind:
    return "age" if recipients else "none"
