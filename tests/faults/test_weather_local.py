"""A directory on a bad disk: at least 500 failing calls of the operating system, and what they left.

Every call that changes or reads something fails in turn, in every way that disks, quotas and mounts fail.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreFull
from drtool.stores.conformance import forward_only
from drtool.stores.local import LocalStore

MIB = 1 << 20
OLD, NEW = b"old" * 1000, random.Random("a disk").randbytes(2 * MIB + 4321)
KEY = "a/b/one"
WRITING = ("open", "write", "fsync", "fstat", "mkdir", "link", "replace", "unlink")
READING = ("open", "fstat", "lseek", "readv")
CLEANING = ("unlink", "rmdir", "fsync", "stat")
ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT]
FULL, DENIED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES)


class Disk:
    """Fails the calls whose numbers are in ``failing``, counted from 1."""

    def __init__(self, patch: pytest.MonkeyPatch, names: tuple[str, ...], failing: set[int], number: int) -> None:
        self.calls = self.hits = 0
        self._failing, self._number = failing, number
        for name in names:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls in self._failing:
                self.hits += 1
                raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **options)

        return call


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "store").mkdir()
    return LocalStore(tmp_path / "store")


def _files(store: LocalStore) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


def _read(store: LocalStore) -> bytes | None:
    try:
        with store.open(KEY) as body:
            return body.read()
    except ObjectMissing:
        return None


def _judge(error: StoreError, number: int) -> None:
    """A full disk and a forbidden one have names of their own, each with what to do about it."""
    if number in FULL:
        assert isinstance(error, StoreFull)
    if number in DENIED:
        assert isinstance(error, StoreAccessDenied)
    assert error.hint or number not in (*FULL, *DENIED)


@pytest.mark.parametrize(
    ("before", "only_if_absent"),
    [(None, False), (None, True), (OLD, False)],
    ids=["first", "only if absent", "replaces"],
)
def test_put_on_a_failing_disk_leaves_the_old_object_or_the_new_one_and_nothing_else(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, before: bytes | None, only_if_absent: bool
) -> None:
    """Fail call 1, 2, 3, …, alone and with the one after it, until a put makes fewer; in every way."""
    happened = 0
    for number in ERRORS:
        for twice in (False, True):
            for nth in count(1):
                store.delete([KEY])
                if before:
                    store.put(KEY, forward_only([before]))
                error = None
                with monkeypatch.context() as patch:
                    disk = Disk(patch, WRITING, {nth, nth + 1} if twice else {nth}, number)
                    try:
                        store.put(KEY, forward_only([NEW]), only_if_absent=only_if_absent)
                    except StoreError as caught:
                        error = caught
                found = _read(store)
                if error:
                    _judge(error, number)
                    assert found in (before, NEW)
                else:
                    assert found == NEW
                happened += disk.hits
                if not disk.hits:
                    break
                store.put("another", forward_only([b"x"]))  # the next put removes what could not be removed
                store.delete(["another"])
                assert _files(store) == ([KEY] if found else [])
    assert happened >= 170  # 510 of the three cases


@pytest.mark.parametrize("limit", [1, 1000, 4096, MIB - 1])
def test_put_on_a_disk_that_takes_little_at_a_time_is_complete(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A write may take fewer bytes than it was given, and says so."""
    content = NEW[: limit * 60]
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, chunk: write(file, memoryview(chunk)[:limit]))
        store.put(KEY, forward_only([content]))

    assert _read(store) == content


def test_read_from_a_failing_disk_gives_the_exact_bytes_or_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, forward_only([NEW]))
    happened = 0
    for number in ERRORS:
        for nth in count(1):
            with monkeypatch.context() as patch:
                disk = Disk(patch, READING, {nth}, number)
                try:
                    assert _read(store) == NEW
                    failed = False
                except StoreError as error:
                    assert not isinstance(error, ObjectMissing), "what cannot be read is not missing"
                    failed = True
            happened += disk.hits
            assert failed == bool(disk.hits)
            if not disk.hits:
                break
    assert happened >= 20


def test_delete_on_a_failing_disk_is_finished_by_the_next(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = 0
    for number in ERRORS:
        for nth in count(1):
            store.put(KEY, forward_only([OLD]))
            with monkeypatch.context() as patch:
                disk = Disk(patch, CLEANING, {nth}, number)
                try:
                    store.delete([KEY])
                    assert _read(store) is None
                except StoreError as error:
                    _judge(error, number)
                    assert _read(store) in (OLD, None)
            happened += disk.hits
            store.delete([KEY])
            assert _files(store) == []
            if not disk.hits:
                break
    assert happened >= 20
