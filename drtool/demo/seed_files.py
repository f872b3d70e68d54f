"""The files of the seeded instance: what GitLab keeps beside its database and repositories.

Paths are below ``/var/opt/gitlab`` and shaped as GitLab 18.9 shapes them; rows about files are made from these values.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drtool.demo.ciphers import NONCE_SIZE, encrypt_file
from drtool.demo.population import Population, Project, hashed_path, made_bytes

_FILE_TIME = 1_767_600_000  # 2026-01-05 08:00 UTC
_BULK_FILE_SIZE = 8 * 1024 * 1024
_UPLOADS = "gitlab-rails/uploads"
_SHARED = "gitlab-rails/shared"
# Names that have broken backups: not ASCII, blanks, a leading dash, long enough for a tar extension header.
_UPLOAD_NAMES = ("diagram.png", "Übersicht 見取図.png", "-r f.txt", "minutes of " + "a very long meeting " * 4 + ".md")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with the numbers its row needs; 0 where a kind has no such number."""

    path: str
    content: bytes
    project_id: int = 0
    number: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def uploads(population: Population) -> tuple[StoredFile, ...]:
    """Attachments of every second project, and the instance's logo."""
    attachments = [
        StoredFile(
            f"{_UPLOADS}/{project.disk_path}/{made_bytes(f'upload/{project.id}', 16).hex()}/{name}",
            made_bytes(f"attachment/{project.id}", 20_000 + 4_000 * (project.id % 9)),
            project.id,
        )
        for place, project in enumerate(population.projects[::2])
        for name in [_UPLOAD_NAMES[place % len(_UPLOAD_NAMES)]]
    ]
    logo = StoredFile(f"{_UPLOADS}/-/system/appearance/logo/1/logo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>\n")
    return (*attachments, logo)


def lfs_objects() -> tuple[StoredFile, ...]:
    """Objects named by their own content, as LFS demands."""
    contents = [made_bytes(f"lfs/{number}", 40_000 * number) for number in range(1, 6)]
    oids = [hashlib.sha256(content).hexdigest() for content in contents]
    return tuple(
        StoredFile(f"{_SHARED}/lfs-objects/{oid[:2]}/{oid[2:4]}/{oid[4:]}", content, number=number)
        for number, (oid, content) in enumerate(zip(oids, contents, strict=True), start=1)
    )


def artifacts(population: Population) -> tuple[StoredFile, ...]:
    """One zip of a build per project with an odd id; ``number`` is the build's."""
    return tuple(
        StoredFile(
            f"{_hashed(f'{_SHARED}/artifacts', project)}/2026_01_02/{_build(project)}/{project.id}/artifacts.zip",
            _zipped("result.bin", made_bytes(f"artifact/{project.id}", 12_000)),
            project.id,
            _build(project),
        )
        for project in population.projects
        if project.id % 2
    )


def terraform_states(population: Population, key_base: str) -> tuple[StoredFile, ...]:
    """One state, encrypted with a key that depends on ``db_key_base`` and the project."""
    project = population.projects[0]
    state = b'{"version":4,"terraform_version":"1.9.8","serial":1,"lineage":"fake","outputs":{},"resources":[]}\n'
    content = encrypt_file(state, key_base, str(project.id), made_bytes("terraform/1", NONCE_SIZE))
    name = "00000000-0000-4000-8000-00000000feed"
    return (StoredFile(f"{_hashed(f'{_SHARED}/terraform_state', project)}/{name}/1.tfstate", content, project.id),)


def other_files(population: Population) -> Iterator[StoredFile]:
    """What has no row here: build logs, packages, pages, diffs, and temporary files which a backup leaves out."""
    for project in population.projects:
        log = b"".join(b"[%s] step %d of build %d\n" % (b"0;m", step, _build(project)) for step in range(60))
        yield StoredFile(f"gitlab-ci/builds/2026_01/{project.id}/{_build(project)}.log", log)
    for project in population.projects[:3]:
        package = made_bytes(f"package/{project.id}", 90_000)
        yield StoredFile(
            f"{_hashed(f'{_SHARED}/packages', project)}/packages/{project.id}/files/1/{project.path}.tgz", package
        )
        site = _zipped("public/index.html", f"<h1>{project.name}</h1>\n".encode())
        yield StoredFile(f"{_SHARED}/pages/{project.disk_path}/pages_deployments/{project.id}/artifacts.zip", site)
        diff = f"--- a/{project.path}\n+++ b/{project.path}\n".encode()
        yield StoredFile(f"{_SHARED}/external-diffs/merge_request_diffs/mr-{project.id}/diff-1", diff)
    for directory in (f"{_UPLOADS}/tmp", f"{_SHARED}/artifacts/tmp", f"{_SHARED}/packages/tmp/cache"):
        yield StoredFile(f"{directory}/half-written", b"not worth keeping\n")
    yield StoredFile(f"{_SHARED}/pages/@pages.tmp/half-written", b"not worth keeping\n")


def bulk(size: int) -> Iterator[StoredFile]:
    """Attachments of incompressible bytes, ``size`` bytes together."""
    for number, start in enumerate(range(0, size, _BULK_FILE_SIZE), start=1):
        content = made_bytes(f"bulk/{number}", min(_BULK_FILE_SIZE, size - start))
        yield StoredFile(f"{_UPLOADS}/-/system/bulk/{number}/video.bin", content)


def write_files(directory: Path, files: Iterable[StoredFile]) -> None:
    """Write files below ``directory`` with one fixed modification time."""
    for file in files:
        path = directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o644)
        os.utime(path, (_FILE_TIME, _FILE_TIME))


def _hashed(directory: str, project: Project) -> str:
    return hashed_path(directory, project.id)


def _build(project: Project) -> int:
    return 1000 + project.id


def _zipped(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), content)
    return target.getvalue()
