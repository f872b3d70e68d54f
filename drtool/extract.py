"""Take single things out of a set: a member, the database, the configuration, one project as a bundle that git clones.

Only the volumes that hold them are read, and a file gets its name only when every byte of those volumes is proven.
"""

from __future__ import annotations

import difflib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.core.census import Census
from drtool.core.command import Command
from drtool.core.model import Archive, IndexedMember
from drtool.errors import CommandFailed, DrtoolError, MemberMissing, SetDamaged
from drtool.events import Emit, Progress
from drtool.files import make_private, new_file, refuse_existing
from drtool.gitlab.manifests import Chain, Key, read_manifest
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.phases import copy_scanned, phase
from drtool.streams import CHUNK

APPLICATION = "application"
DATABASE = "db/database.sql.gz"
Part = Literal["wiki", "design"]
_TOP = "repositories/"
_EMPTY_BUNDLE = 17  # bytes of a header alone: Gitaly 16.11 leaves that where an increment has nothing to add
_SMALL = 16 << 20  # of a manifest or a list of refs: 100,000 refs are some 10 MB


@dataclass(frozen=True)
class Place:
    """What extracting works with. ``runner`` is where drtool runs: its git joins the parts of a project."""

    backup_set: BackupSet
    runner: Runner
    clock: Clock
    emit: Emit


@dataclass(frozen=True, slots=True)
class Extracted:
    """What lies there now; ``volumes`` were read for it, ``size`` in bytes."""

    set_id: str
    path: Path
    size: int
    volumes: int


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as GitLab's backup names it: ``relative_path`` ends in ``.git``."""

    storage: str
    relative_path: str


def extract_member(name: str, to: Path, place: Place, *, archive: str = APPLICATION) -> Extracted:
    """Write one member's data, as it lies in the archive. Raises MemberMissing, SetDamaged, ConfigError."""
    members = _Members(archive, place)
    with _phase(f"Extracting {name}", place), new_file(to) as file:
        members.write({name: file})
    return _extracted(to, members, place)


def extract_config(to: Path, place: Place) -> Extracted:
    """Unpack the configuration and the secrets into a new directory that only its owner may read."""
    refuse_existing(to)
    archive = place.backup_set.manifest.archive("config")
    partial = to.with_name(to.name + ".partial")
    with _phase("Extracting the configuration", place):
        shutil.rmtree(partial, ignore_errors=True)
        make_private(partial)
        try:
            with place.runner.write_to(Omnibus.unpack(PurePosixPath(partial.resolve()))) as sink:
                for done in copy_scanned(place.backup_set.read_archive("config"), sink, "config"):
                    place.emit(Progress("extract", done, archive.size))
            partial.rename(to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Extracted(place.backup_set.manifest.set_id, to, archive.size, len(archive.volumes))


def extract_project(path: str, part: Part | None, to: Path, place: Place) -> Extracted:
    """Write a project's repository, or its wiki's or designs', as a bundle; the set's census knows where it lies.

    Raises MemberMissing for a project that the instance did not have.
    """
    return extract_repository(_find_repository(place.backup_set.read_census(), path, part), to, place)


def extract_repository(repository: Repository, to: Path, place: Place) -> Extracted:
    """Write a repository as one bundle that ``git clone`` accepts, its refs exactly those of the backup.

    Raises MemberMissing when the set does not hold it, or when it was empty: an empty repository has no bundle.
    """
    members = _Members(APPLICATION, place)
    with _phase(f"Extracting {repository.relative_path}", place), ExitStack() as stack:
        chain = members.chain(repository)
        bundles = members.bundles(chain)
        file = stack.enter_context(new_file(to))
        if len(chain.stems) == 1:
            members.write({bundles[0]: file})
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drtool-", dir=to.parent)))
            _join(chain, bundles, members, scratch, place)
            with (scratch / "joined.bundle").open("rb") as joined:
                shutil.copyfileobj(joined, file, CHUNK)
    return _extracted(to, members, place)


# -- members ---------------------------------------------------------------------------------------------------------


class _Members:
    """The members of one archive, read volume by volume."""

    def __init__(self, archive: str, place: Place) -> None:
        self._place = place
        self._archive = place.backup_set.manifest.archive(archive)
        self._known = {member.name: member for member in place.backup_set.read_index().get(archive, [])}
        self.volumes_read: set[str] = set()

    def write(self, wanted: Mapping[str, BinaryIO]) -> None:
        """Write these members' data. Nothing of it is proven before this returns."""
        pieces = sorted(((self._find(name), file) for name, file in wanted.items()), key=lambda piece: piece[0].offset)
        start = 0
        for volume in self._archive.volumes:
            end = start + volume.plain_size
            here = [piece for piece in pieces if piece[0].offset < end and piece[0].offset + piece[0].size > start]
            if here:
                self.volumes_read.add(volume.name)
                self._write_from(self._place.backup_set.read_volumes(self._only(volume.name)), start, here)
            start = end

    def read(self, name: str) -> bytes:
        """One small member."""
        if self._find(name).size > _SMALL:
            raise SetDamaged(f"{name} has {self._find(name).size} bytes, far too many for what it should be")
        with tempfile.TemporaryFile() as file:
            self.write({name: file})
            file.seek(0)
            return file.read()

    def chain(self, repository: Repository) -> Chain:
        """Say which steps a repository's backup has, in any of the three layouts. Raises MemberMissing, SetDamaged."""
        key = Key(repository.storage, repository.relative_path)
        backup_id = self._place.backup_set.manifest.gitlab.backup_id
        manifest = f"{_TOP}manifests/{key}/{backup_id}.toml"
        stem = repository.relative_path.removesuffix(".git")
        if manifest not in self._known and f"{_TOP}{stem}/LATEST" in self._known:
            return Chain(key, self._pointed(stem))
        if manifest not in self._known and f"{_TOP}{stem}.bundle" in self._known:
            return Chain(key, (stem,))
        try:
            return read_manifest(key, self.read(manifest))
        except SetDamaged as problem:
            raise SetDamaged(f"{repository.relative_path}: {problem}") from problem

    def bundles(self, chain: Chain) -> list[str]:
        """Name the bundles of a chain's steps, oldest first; a step without one had nothing to add."""
        names = [f"{_TOP}{stem}.bundle" for stem in chain.stems]
        found = [name for name in names if name in self._known and self._known[name].size > _EMPTY_BUNDLE]
        if not found:
            raise MemberMissing(
                f"{chain.key.path} was empty when the backup was taken",
                hint="There is nothing to clone; an earlier set may hold more: `drtool list`.",
            )
        return found

    def _pointed(self, stem: str) -> tuple[str, ...]:
        """Follow the pointers of GitLab 15 and 16: R/LATEST names a backup, R/B/LATEST its last step."""
        folder = f"{stem}/{self.read(f'{_TOP}{stem}/LATEST').decode('utf-8', 'replace').strip()}"
        last = self.read(f"{_TOP}{folder}/LATEST").decode("utf-8", "replace").strip()
        if not re.fullmatch(r"\d{3,6}", last):
            raise SetDamaged(f"{folder}/LATEST names no step: {last[:40]!r}")
        return tuple(f"{folder}/{number:03d}" for number in range(1, int(last) + 1))

    def _find(self, name: str) -> IndexedMember:
        if name not in self._known:
            raise MemberMissing(
                f"{self._place.backup_set.manifest.set_id} holds no {name} in its {self._archive.name} archive",
                hint="`drtool extract SET --list` names all members.",
            )
        return self._known[name]

    def _only(self, name: str) -> Archive:
        return replace(self._archive, volumes=tuple(volume for volume in self._archive.volumes if volume.name == name))

    def _write_from(self, stream: BinaryIO, position: int, pieces: Sequence[tuple[IndexedMember, BinaryIO]]) -> None:
        with stream:
            while chunk := stream.read(CHUNK):
                for member, file in pieces:
                    first, last = member.offset - position, member.offset + member.size - position
                    if last > 0 and first < len(chunk):
                        file.write(memoryview(chunk)[max(0, first) : last])
                position += len(chunk)
                self._place.emit(Progress("extract", position, self._archive.size))


# -- a project's parts joined ----------------------------------------------------------------------------------------


def _join(chain: Chain, bundles: Sequence[str], members: _Members, scratch: Path, place: Place) -> None:
    """Make one bundle of a full backup's bundle and its increments, in ``scratch``/joined.bundle, by git itself."""
    repository, joined = scratch / "repository.git", scratch / "joined.bundle"
    kind = chain.object_format or "sha1"
    _git(place, "init", "--quiet", "--bare", f"--object-format={kind}", str(repository))
    for number, name in enumerate(bundles):
        bundle = scratch / f"{number}.bundle"
        with bundle.open("wb") as file:
            members.write({name: file})
        _git(place, "-C", str(repository), "fetch", "--quiet", str(bundle), "+refs/*:refs/*")
        bundle.unlink()
    head, refs = _refs(members.read(f"{_TOP}{chain.stems[-1]}.refs").decode())
    present = _refs(_git(place, "-C", str(repository), "for-each-ref", "--format=%(objectname) %(refname)").decode())[1]
    gone = "".join(f"delete {name}\n" for name in present if name not in refs)
    # A branch that was set back, or deleted, between two backups is not in the increment's bundle.
    moved = "".join(f"update {name} {target}\n" for name, target in refs.items())
    _git(place, "-C", str(repository), "update-ref", "--stdin", stdin=(gone + moved).encode())
    _git(place, "-C", str(repository), "symbolic-ref", "HEAD", chain.head or _branch_of(head, refs))
    _git(place, "-C", str(repository), "bundle", "create", "--quiet", str(joined), "--all")


def _branch_of(head: str, refs: Mapping[str, str]) -> str:
    """Guess what HEAD pointed to where only its commit is known: layouts before the manifests do not say."""
    there = [name for name, target in refs.items() if target == head and name.startswith("refs/heads/")]
    usual = [name for name in ("refs/heads/main", "refs/heads/master") if name in there]
    return (usual or there or ["refs/heads/main"])[0]


def _refs(text: str) -> tuple[str, dict[str, str]]:
    """Read lines of ``<oid> <name>``: HEAD's commit, and all others."""
    named = {name: target for target, name in (line.split(" ", 1) for line in text.splitlines() if line)}
    return named.pop("HEAD", ""), named


def _git(place: Place, *arguments: str, stdin: bytes = b"") -> bytes:
    try:
        return place.runner.run(Command(("git", *arguments)), stdin=stdin)
    except CommandFailed as problem:
        if problem.status == 127:
            raise DrtoolError(
                "git is needed to join a repository's increments, and is not there", hint="Install git."
            ) from problem
        raise SetDamaged(f"the repository cannot be put together: {problem}") from problem


def _find_repository(census: Census, path: str, part: Part | None) -> Repository:
    project = census.project(path.strip("/").removesuffix(".git"))
    if project is None:
        alike = difflib.get_close_matches(path, [known.path for known in census.projects], n=3)
        raise MemberMissing(
            f"there was no project {path} when the backup was taken",
            hint=f"Meant {' or '.join(alike)}?" if alike else "The path is the one in the project's address.",
        )
    name = project.repository.removesuffix(".git") + (f".{part}.git" if part else ".git")
    if name not in census.repositories:
        raise MemberMissing(f"{path} had no {part or 'repository'} when the backup was taken")
    storage, _, relative_path = name.partition("/")
    return Repository(storage, relative_path)


# -- the rest --------------------------------------------------------------------------------------------------------


def _extracted(path: Path, members: _Members, place: Place) -> Extracted:
    return Extracted(place.backup_set.manifest.set_id, path, path.stat().st_size, len(members.volumes_read))


@contextmanager
def _phase(title: str, place: Place) -> Iterator[None]:
    with phase("extract", title, place.clock, place.emit):
        yield
