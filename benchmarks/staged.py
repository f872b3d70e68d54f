"""What GitLab's backup directory holds before it is packed: as large as wanted, and mostly incompressible.

Bundles have a real header and a true checksum, tarballs and the dump are whole: drtool judges all of that as it passes,
and refuses what is not. Most of a tarball is random, as pictures, artifacts and LFS objects are after
gzip; ``builds`` (job logs) and the dump shrink by about seven.
"""

from __future__ import annotations

import hashlib
import os
import random
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

BACKUP_ID = "20260113T031500Z-7f3a"
VERSION = "18.9.1"
_EMPTY = ("pages.tar.gz", "terraform_state.tar.gz", "ci_secure_files.tar.gz", "external_diffs.tar.gz")
MEMBERS = ("backup_information.yml", "db", "repositories", "uploads.tar.gz", "builds.tar.gz", "artifacts.tar.gz",
           "lfs.tar.gz", "packages.tar.gz", *_EMPTY)  # fmt: skip
_MIB = 1 << 20
_BUNDLE = 4 * _MIB
# Shares of the whole, in stored bytes.
_BUNDLES, _DUMP, _LOGS = 0.35, 0.015, 0.02
_RANDOM = {"uploads.tar.gz": 0.15, "artifacts.tar.gz": 0.2, "lfs.tar.gz": 0.165, "packages.tar.gz": 0.1}
_SHRINKS_TO = 1 / 7
_NEEDED_TABLES = b"""\
COPY public.application_settings (id, uuid) FROM stdin;
1	2b0d9f6e-0000-4000-8000-00000000feed
\\.
COPY public.namespaces (id, path, type) FROM stdin;
1	root	User
\\.
"""
_MORE_TABLES = b"""\
COPY public.projects (id, path, namespace_id, visibility_level) FROM stdin;
1	one	1	0
\\.
COPY public.routes (source_type, source_id, path) FROM stdin;
Project	1	root/one
\\.
COPY public.schema_migrations (version) FROM stdin;
20260105000000
\\.
COPY public.users (id, username) FROM stdin;
1	root
\\.
"""


def repositories(size: int) -> frozenset[tuple[str, str]]:
    """The (storage, path) pairs that ``make`` writes bundles of."""
    return frozenset(("default", path) for path in _paths(size))


def make(directory: Path, size: int) -> None:
    """Fill an empty directory with about ``size`` bytes."""
    (directory / "db").mkdir(parents=True)
    (directory / "backup_information.yml").write_text(
        f"---\n:backup_id: {BACKUP_ID}\n:db_version: '20260105'\n:backup_created_at: 2026-01-13 03:15:00 +0000\n"
        f":gitlab_version: {VERSION}\n:installation_type: omnibus-gitlab\n:skipped: tar\n"
    )
    _write_gzip(directory / "db/database.sql.gz", _dump(int(size * _DUMP / _SHRINKS_TO)), level=1)
    _write_gzip(directory / "builds.tar.gz", _tar(_logs(int(size * _LOGS / _SHRINKS_TO))), level=1)
    for name in _EMPTY:
        _write_gzip(directory / name, _tar(iter(())), level=1)
    for name, share in _RANDOM.items():  # level 0 frames bytes just as deflate does what it cannot make smaller
        contents = (os.urandom(_MIB) for _ in range(int(size * share) // _MIB))
        _write_gzip(directory / name, _tar(contents), level=0)
    for path in _paths(size):
        _write_repository(directory / "repositories", path)


def _paths(size: int) -> list[str]:
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(int(size * _BUNDLES) // _BUNDLE)]
    return [f"@hashed/{name[:2]}/{name[2:4]}/{name}.git" for name in names]


def _write_repository(root: Path, path: str) -> None:
    bundle = root / "default" / path / BACKUP_ID / "001.bundle"
    manifest = root / "manifests" / "default" / path / f"{BACKUP_ID}.toml"
    for file in (bundle, manifest):
        file.parent.mkdir(parents=True)
    pack = b"PACK\0\0\0\2\0\0\0\1" + os.urandom(_BUNDLE)
    digest = hashlib.sha1(pack, usedforsecurity=False).digest()
    refs = b"1" * 40 + b" refs/heads/main\n"
    bundle.write_bytes(b"# v2 git bundle\n" + refs + b"\n" + pack + digest)
    bundle.with_suffix(".refs").write_bytes(refs)
    step = f"bundle_path = '{bundle.relative_to(root)}'\nref_path = '{bundle.with_suffix('.refs').relative_to(root)}'\n"
    manifest.write_text(f"object_format = 'sha1'\nhead_reference = 'refs/heads/main'\n\n[[steps]]\n{step}")


def _write_gzip(path: Path, chunks: Iterator[bytes], *, level: int) -> None:
    packer = zlib.compressobj(level, wbits=31)
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(packer.compress(chunk))
        file.write(packer.flush())


def _tar(contents: Iterator[bytes]) -> Iterator[bytes]:
    for number, content in enumerate(contents):
        entry = tarfile.TarInfo(f"./file-{number}")
        entry.size = len(content)
        yield entry.tobuf() + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _dump(size: int) -> Iterator[bytes]:
    yield b"--\n-- PostgreSQL database dump\n--\n\n" + _NEEDED_TABLES
    yield b"COPY public.notes (id, note, token) FROM stdin;\n"
    yield from _lines(size, "{number}\tLooks good to me, please rebase and merge when the pipeline is green\t{token}\n")
    yield b"\\.\n" + _MORE_TABLES + b"\n--\n-- PostgreSQL database dump complete\n--\n\n"


def _logs(size: int) -> Iterator[bytes]:
    return _lines(size, "2026-01-13T03:15:00.{number:06d}Z 01O [32;1m$ bundle exec rspec spec/models/{token}_spec.rb\n")


def _lines(size: int, pattern: str) -> Iterator[bytes]:
    chance = random.Random(1)
    number = 0
    while size > 0:
        rows = [pattern.format(number=number + row, token=f"{chance.getrandbits(48):012x}") for row in range(8000)]
        chunk = "".join(rows).encode()
        number, size = number + len(rows), size - len(chunk)
        yield chunk
