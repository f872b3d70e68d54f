"""Single things out of a set: exactly their bytes, from no more volumes than hold them, or nothing."""

from __future__ import annotations

import gzip
import random
import stat
import subprocess
from pathlib import Path

import pytest

from drtool.errors import ConfigError, MemberMissing, SetDamaged
from drtool.events import ignore
from drtool.extract import Place, Repository, extract_config, extract_member, extract_repository
from drtool.hosts.local import LocalRunner
from drtool.stores.memory import MemoryStore
from tests import sets

PROJECT = Repository("default", "@hashed/aa/bb/aabb.git")
EMPTY = Repository("default", "@hashed/cc/dd/ccdd.git")
DUMP = gzip.compress(b"SELECT 1;\n", mtime=0)
UPLOADS = random.Random(7).randbytes(50 << 10)
FRONT = f"{PROJECT.storage}/{PROJECT.relative_path}/{sets.SET_ID}"


def git(*arguments: str | Path, at: Path | None = None) -> str:
    words = ("git", *(("-C", at) if at else ()), "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments)
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def listed(repository: Path) -> bytes:
    return (git("show-ref", "--head", at=repository) + "\n").encode()


class Source:
    """A repository that grows between a full backup and its increment, and loses a branch."""

    def __init__(self, base: Path) -> None:
        self.path = base / "source"
        git("init", "--quiet", "--initial-branch=main", self.path)
        self._commit("one")
        git("branch", "doomed", at=self.path)
        git("tag", "v1", at=self.path)
        self.full = self._bundle(base / "full.bundle", "--all")
        self.full_refs = listed(self.path)
        self._commit("two")
        git("branch", "--delete", "--force", "doomed", at=self.path)
        git("branch", "later", at=self.path)
        old = [f"^{line.split()[0]}" for line in self.full_refs.decode().splitlines()]
        self.increment = self._bundle(base / "increment.bundle", "--all", *old)
        self.refs = listed(self.path)

    def _commit(self, text: str) -> None:
        (self.path / "file").write_text(text)
        git("add", "file", at=self.path)
        git("commit", "--quiet", "--message", text, at=self.path)

    def _bundle(self, path: Path, *arguments: str) -> bytes:
        git("bundle", "create", "--quiet", path, *arguments, at=self.path)
        return path.read_bytes()


def manifest(*numbers: str, front: str = FRONT, empty: bool = False) -> bytes:
    head = f"empty = {str(empty).lower()}\nobject_format = 'sha1'\nhead_reference = 'refs/heads/main'\n"
    steps = (f"[[steps]]\nbundle_path = '{front}/{n}.bundle'\nref_path = '{front}/{n}.refs'\n" for n in numbers)
    return "\n".join([head, *steps]).encode()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source"))


def committed(source: Source, *, incremental: bool = False, **changed: bytes) -> sets.Committed:
    empty = f"{EMPTY.storage}/{EMPTY.relative_path}/{sets.SET_ID}"
    files = {
        "backup_information.yml": b":backup_id: x\n",
        "db/database.sql.gz": DUMP,
        f"repositories/{FRONT}/001.bundle": source.full,
        f"repositories/{FRONT}/001.refs": source.full_refs,
        f"repositories/{empty}/001.refs": b"",
        f"repositories/manifests/{EMPTY.storage}/{EMPTY.relative_path}/{sets.SET_ID}.toml": manifest(
            "001", front=empty, empty=True
        ),
        "uploads.tar.gz": UPLOADS,
    }
    if incremental:
        files[f"repositories/{FRONT}/002.bundle"] = changed.get("increment", source.increment)
        files[f"repositories/{FRONT}/002.refs"] = source.refs
    numbers = ("001", "002") if incremental else ("001",)
    name = f"repositories/manifests/{PROJECT.storage}/{PROJECT.relative_path}/{sets.SET_ID}.toml"
    files[name] = changed.get("manifest", manifest(*numbers))
    archives = {"application": sets.tar_of(files), "config": sets.config()}
    return sets.commit(MemoryStore(), archives=archives, volume_size=8 << 10)


def place(found: sets.Committed) -> Place:
    return Place(found.open(), LocalRunner(), sets.StillClock(), ignore)


def test_member_is_written_whole_from_only_the_volumes_that_hold_it(tmp_path: Path, source: Source) -> None:
    found = committed(source)
    extracted = extract_member("db/database.sql.gz", tmp_path / "x.sql.gz", place(found))
    assert (tmp_path / "x.sql.gz").read_bytes() == DUMP
    assert stat.S_IMODE((tmp_path / "x.sql.gz").stat().st_mode) == 0o600
    assert extracted.volumes == 1 < len(found.manifest.archive("application").volumes)
    extracted = extract_member("uploads.tar.gz", tmp_path / "uploads", place(found))
    assert (tmp_path / "uploads").read_bytes() == UPLOADS
    assert extracted.volumes == 7


def test_member_that_is_not_there_is_named_and_no_file_is_left(tmp_path: Path, source: Source) -> None:
    with pytest.raises(MemberMissing, match=r"pages\.tar\.gz"):
        extract_member("pages.tar.gz", tmp_path / "x", place(committed(source)))
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_never_replaced(tmp_path: Path, source: Source) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigError, match="already"):
        extract_member("db/database.sql.gz", tmp_path / "x", place(committed(source)))
    assert (tmp_path / "x").read_text() == "mine"


def test_what_others_left_in_the_way_is_neither_written_into_nor_followed(tmp_path: Path, source: Source) -> None:
    """Root extracts into a directory that others may write to, and somebody was there before."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x.partial").symlink_to(tmp_path / "precious")
    (tmp_path / "y.partial").touch(mode=0o666)
    with (tmp_path / "y.partial").open("rb") as watched:
        for name in ("x", "y"):
            extract_member("db/database.sql.gz", tmp_path / name, place(committed(source)))
            assert stat.S_IMODE((tmp_path / name).lstat().st_mode) == 0o600
        assert watched.read() == b""
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "x").is_symlink()


def test_damage_behind_the_member_in_its_last_volume_leaves_no_file(tmp_path: Path, source: Source) -> None:
    found = committed(source)
    store = found.catalog.store
    key = found.catalog.key(sets.SET_ID, found.manifest.archive("application").volumes[0].name)
    content = bytearray(sets.content(store, key))
    content[-20] ^= 1
    sets.replace(store, key, bytes(content))
    with pytest.raises(SetDamaged, match="application-0000"):
        extract_member("backup_information.yml", tmp_path / "x", place(found))
    assert list(tmp_path.iterdir()) == []


def test_damaged_volume_that_does_not_hold_the_member_does_not_matter(tmp_path: Path, source: Source) -> None:
    found = committed(source)
    found.catalog.store.delete([found.catalog.key(sets.SET_ID, found.manifest.archive("application").volumes[-1].name)])
    extract_member("db/database.sql.gz", tmp_path / "x", place(found))
    assert (tmp_path / "x").read_bytes() == DUMP


def test_configuration_is_unpacked_into_a_private_directory(tmp_path: Path, source: Source) -> None:
    extract_config(tmp_path / "config", place(committed(source)))
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o700
    assert sorted(path.name for path in (tmp_path / "config/etc/gitlab").iterdir()) == [
        "gitlab-secrets.json",
        "gitlab.rb",
    ]


def test_project_of_a_full_backup_is_a_bundle_that_clones(tmp_path: Path, source: Source) -> None:
    extract_repository(PROJECT, tmp_path / "x.bundle", place(committed(source)))
    git("clone", "--quiet", "--mirror", tmp_path / "x.bundle", tmp_path / "clone")
    assert listed(tmp_path / "clone") == source.full_refs
    git("clone", "--quiet", tmp_path / "x.bundle", tmp_path / "work")
    assert (tmp_path / "work/file").read_text() == "one"


def test_project_of_an_increment_has_exactly_the_refs_of_its_last_step(tmp_path: Path, source: Source) -> None:
    assert b"doomed" in source.full_refs
    assert b"doomed" not in source.refs
    extract_repository(PROJECT, tmp_path / "x.bundle", place(committed(source, incremental=True)))
    git("clone", "--quiet", "--mirror", tmp_path / "x.bundle", tmp_path / "clone")
    assert listed(tmp_path / "clone") == source.refs
    assert git("fsck", "--strict", at=tmp_path / "clone") == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "x.bundle"]


def test_empty_repository_is_said_to_be_empty(tmp_path: Path, source: Source) -> None:
    with pytest.raises(MemberMissing, match="was empty"):
        extract_repository(EMPTY, tmp_path / "x.bundle", place(committed(source)))
    assert list(tmp_path.iterdir()) == []


def test_repository_that_is_not_in_the_set_is_named(tmp_path: Path, source: Source) -> None:
    with pytest.raises(MemberMissing, match=r"ffff\.git"):
        extract_repository(Repository("default", "ffff.git"), tmp_path / "x.bundle", place(committed(source)))


@pytest.mark.parametrize("text", [b"", b"steps = 3", b"[[steps]]\nbundle_path = ''\n", b"not toml", b"\xff\xfe"])
def test_manifest_that_says_nothing_is_damage(tmp_path: Path, source: Source, text: bytes) -> None:
    with pytest.raises(SetDamaged, match=r"aabb\.git: its manifest"):
        extract_repository(PROJECT, tmp_path / "x.bundle", place(committed(source, manifest=text)))


def test_increment_whose_bundle_is_gone_is_damage(tmp_path: Path, source: Source) -> None:
    """Only the full step's bundle is there: the newest commit is nowhere."""
    found = committed(source, incremental=True, increment=b"# v2 git bundle\n\n")
    with pytest.raises(SetDamaged, match="cannot be put together"):
        extract_repository(PROJECT, tmp_path / "x.bundle", place(found))
    assert list(tmp_path.iterdir()) == []


def older(source: Source, layout: str) -> sets.Committed:
    """A set as GitLab before 16.10 wrote them: pointers, with an increment or without, or one file per repository."""
    stem = f"repositories/{PROJECT.relative_path.removesuffix('.git')}"
    if layout == "legacy":
        files = {f"{stem}.bundle": source.full}
    else:
        steps = {"001": (source.full, source.full_refs), "002": (source.increment, source.refs)}
        last = "002" if layout == "increment" else "001"
        files = {f"{stem}/LATEST": b"B", f"{stem}/B/LATEST": last.encode()}
        for number in ("001", "002")[: int(last)]:
            files[f"{stem}/B/{number}.bundle"], files[f"{stem}/B/{number}.refs"] = steps[number]
    archives = {"application": sets.tar_of(files), "config": sets.config()}
    return sets.commit(MemoryStore(), archives=archives, volume_size=8 << 10)


@pytest.mark.parametrize("layout", ["legacy", "pointer", "increment"])
def test_project_of_an_older_gitlab_clones_too(tmp_path: Path, source: Source, layout: str) -> None:
    extract_repository(PROJECT, tmp_path / "x.bundle", place(older(source, layout)))
    git("clone", "--quiet", "--mirror", tmp_path / "x.bundle", tmp_path / "clone")
    assert listed(tmp_path / "clone") == (source.refs if layout == "increment" else source.full_refs)
