"""The real archive of GitLab 18.9 as a mapping of its files, to be broken and judged again."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from functools import cache

from drtool.gitlab.application import ApplicationJudge, Judgement
from drtool.gitlab.archive import TarScanner
from tests.sandboxes import OBSERVED_ARCHIVE, OBSERVED_ID, OBSERVED_VERSION

DATABASE = "db/database.sql.gz"
ALPHA = "default/@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b.git"
BETA = "default/@hashed/d4/73/d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35.git"
EMPTY = "default/@hashed/4e/07/4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce.git"


def files() -> dict[str, bytes]:
    """Every file of the archive, in its order."""
    return dict(_files())


@cache
def _files() -> Mapping[str, bytes]:
    with tarfile.open(OBSERVED_ARCHIVE) as tar:
        contents = ((member.name, tar.extractfile(member)) for member in tar)
        return {name: stream.read() for name, stream in contents if stream is not None}


def step(repository: str, ending: str, backup_id: str = OBSERVED_ID) -> str:
    """Name a file of a repository's first step."""
    return f"repositories/{repository}/{backup_id}/001.{ending}"


def manifest(repository: str, backup_id: str = OBSERVED_ID) -> str:
    return f"repositories/manifests/{repository}/{backup_id}.toml"


def database(members: Mapping[str, bytes]) -> bytes:
    return gzip.decompress(members[DATABASE])


def with_database(members: Mapping[str, bytes], sql: bytes) -> dict[str, bytes]:
    return {**members, DATABASE: gzip.compress(sql, 1)}


def pack(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def new_judge(backup_id: str = OBSERVED_ID, version: str = OBSERVED_VERSION) -> ApplicationJudge:
    """A judge who knows nothing but what the archive says."""
    return ApplicationJudge(backup_id, version, (), frozenset())


def judge(members: Mapping[str, bytes], by: ApplicationJudge | None = None, *, chunk: int = 1 << 16) -> Judgement:
    by = by or new_judge()
    scanner, archive = TarScanner(by.watch), pack(members)
    for at in range(0, len(archive), chunk):
        scanner.feed(archive[at : at + chunk])
    scanner.close()
    return by.judge(scanner.members)
