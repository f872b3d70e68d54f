"""What a host that fetched a set by itself shows afterwards is compared, whatever its own programs said.

A host that says what it is told to: the real scripts are in the contracts, and cannot be made to lie.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

import pytest

from drtool.catalog import BackupSet
from drtool.core.command import Command
from drtool.errors import CommandFailed, DrtoolError, HostUnfit, IdentityMismatch, SetDamaged, UnsafeMember
from drtool.events import ignore
from drtool.installs.unsealing import Ended
from drtool.stores.memory import MemoryStore
from drtool.unsealing import stage_by_signed_url
from tests import sets

DIRECTORY = PurePosixPath("/var/opt/gitlab/backups/.drtool-restore-1")


class Signing(MemoryStore):
    """It signs, and nobody asks it."""

    def signed_url(self, key: str, *, ttl: object) -> str:
        return f"https://store.example.com/{key}"


class Told:
    """A host with this tree, and this end of its unsealing."""

    name = "host"

    def __init__(self, tree: bytes, ended: CommandFailed | None = None) -> None:
        self.tree, self.ended = tree, ended

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        return self.tree if command.argv[0] == "find" else b""

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        raise CommandFailed("nobody reads here")

    @contextmanager
    def write_to(self, command: Command) -> Iterator[BinaryIO]:
        yield io.BytesIO()
        if self.ended:
            raise self.ended


@pytest.fixture(scope="module")
def opened() -> BackupSet:
    return sets.commit(Signing()).open()


def tree(opened: BackupSet, *, extra: bytes = b"", leave_out: int = 0, larger: int = 0) -> bytes:
    """The files of the application as the index has them, and enough directories."""
    members = opened.read_index()["application"]
    files = [b"f %d %d \0%s\0" % (each.size + larger, place, each.name.encode()) for place, each in enumerate(members)]
    directories = opened.manifest.archive("application").members - len(members)
    made = [b"d 40 %d \0directory-%d\0" % (1000 + place, place) for place in range(directories)]
    return b"".join(files[leave_out:] + made) + extra


def stage(opened: BackupSet, host: Told, archive: str = "application") -> None:
    stage_by_signed_url(
        host, opened, archive, DIRECTORY, Command(("tar",)), identity=b"AGE-SECRET-KEY-1FAKE", signature_checked=True,
        emit=ignore, phase_name="stage",
    )  # fmt: skip


def test_tree_that_is_what_the_index_says_is_taken(opened: BackupSet) -> None:
    stage(opened, Told(tree(opened)))


def test_tree_with_another_size_is_damaged(opened: BackupSet) -> None:
    with pytest.raises(SetDamaged, match="was not unpacked as the index says"):
        stage(opened, Told(tree(opened, larger=1)))


def test_tree_that_lacks_a_file_is_damaged(opened: BackupSet) -> None:
    with pytest.raises(SetDamaged, match="was not unpacked, and 0 more"):
        stage(opened, Told(tree(opened, leave_out=1)))


def test_tree_with_fewer_things_than_the_archive_has_members_is_damaged(opened: BackupSet) -> None:
    archive = replace(opened.manifest.archive("application"), members=1 << 20)
    others = tuple(each for each in opened.manifest.archives if each.name != "application")
    more = replace(opened, manifest=replace(opened.manifest, archives=(archive, *others)))
    with pytest.raises(SetDamaged, match="members were unpacked of 1048576"):
        stage(more, Told(tree(opened)))


def test_tree_with_a_file_that_nobody_knows_is_refused(opened: BackupSet) -> None:
    with pytest.raises(UnsafeMember, match="its index does not know"):
        stage(opened, Told(tree(opened, extra=b"f 3 77 \0more\0")))


def test_archive_that_the_index_does_not_know_is_damaged(opened: BackupSet) -> None:
    renamed = replace(opened.manifest.archive("application"), name="renamed")
    more = replace(opened, manifest=replace(opened.manifest, archives=(*opened.manifest.archives, renamed)))
    with pytest.raises(SetDamaged, match="the index does not know the renamed archive"):
        stage(more, Told(tree(opened)), "renamed")


@pytest.mark.parametrize(
    ("said", "error"),
    [("age: no identity matched any of the recipients", IdentityMismatch), ("age: killed", HostUnfit)],
)
def test_unsealing_that_ended_badly_is_told_by_its_cause(
    opened: BackupSet, said: str, error: type[DrtoolError]
) -> None:
    ended = CommandFailed("sh ended", status=Ended.NOT_UNSEALED, stderr=said)
    with pytest.raises(error):
        stage(opened, Told(tree(opened), ended))
