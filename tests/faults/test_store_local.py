"""What a full, broken or forbidden disk does to a directory store, and what killed writers leave."""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from drtool.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreFull
from drtool.stores.conformance import forward_only, noise
from drtool.stores.local import LocalStore, rename_if_absent

MIB = 1 << 20
OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "store").mkdir()
    return LocalStore(tmp_path / "store")


def _files(store: LocalStore) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


def _read(store: LocalStore, key: str) -> bytes:
    with store.open(key) as body:
        return body.read()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs with these options; only root may."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted: list[Path] = []

    def make(options: str) -> Path:
        folder = tmp_path / f"mount-{len(mounted)}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_full_disk_is_named_and_nothing_is_left_on_it(mount: Callable[[str], Path]) -> None:
    store = LocalStore(mount("size=4m"))
    store.put("a/old", io.BytesIO(OLD))

    with pytest.raises(StoreFull, match="a/new"):
        store.put("a/new", forward_only(noise(8 * MIB)))
    with pytest.raises(StoreFull):
        store.put("a/old", forward_only(noise(8 * MIB)))

    assert _files(store) == ["a/old"]
    assert _read(store, "a/old") == OLD
    assert store.put("a/fits", forward_only(noise(2 * MIB))).size == 2 * MIB


def test_file_size_limit_is_a_full_store(store: LocalStore) -> None:
    """The same for everybody who is not root: a limit of the process in place of a small disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    try:
        with pytest.raises(StoreFull):
            store.put("one", forward_only(noise(3 * MIB)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert _files(store) == []


def test_directory_that_takes_no_files_denies_access(store: LocalStore, request: pytest.FixtureRequest) -> None:
    if os.geteuid() == 0:  # whom no permission stops
        store = LocalStore(request.getfixturevalue("mount")("size=1m,ro"))
    else:
        store.path.chmod(0o500)

    with pytest.raises(StoreAccessDenied, match="one"):
        store.put("one", io.BytesIO(NEW))


def test_error_of_the_source_is_not_taken_for_one_of_the_store(store: LocalStore) -> None:
    def source() -> Iterator[bytes]:
        yield NEW
        raise OSError(errno.ENOSPC, "the producer's own disk is full")

    with pytest.raises(OSError, match="the producer's own disk"):
        store.put("one", forward_only(source()))

    assert _files(store) == []


#: Every call that a put makes to the operating system to change something.
_CALLS = ("open", "write", "fsync", "mkdir", "link", "replace")


@pytest.mark.parametrize("only_if_absent", [False, True])
def test_put_with_any_one_call_failing_leaves_the_old_object_or_the_new(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, only_if_absent: bool
) -> None:
    """Fail the n-th call for n = 1, 2, 3, … until a put makes fewer."""
    before = None if only_if_absent else OLD
    for nth in count(1):
        store.delete(["a/b/one"])
        if before:
            store.put("a/b/one", io.BytesIO(before))
        with monkeypatch.context() as patch:
            calls = _fail_nth_call(patch, nth)
            failed = _put_fails(store, only_if_absent=only_if_absent)
        found = _read(store, "a/b/one") if [*store.list("")] else None
        assert found in ((before, NEW) if failed else (NEW,))
        assert _files(store) == (["a/b/one"] if found else [])
        if len(calls) < nth:
            assert not failed
            assert set(calls) >= {"open", "write", "fsync", "link" if only_if_absent else "replace"}
            return


def _put_fails(store: LocalStore, *, only_if_absent: bool) -> bool:
    try:
        store.put("a/b/one", io.BytesIO(NEW), only_if_absent=only_if_absent)
    except StoreError as error:
        assert "Input/output error" in str(error)
        return True
    return False


def _fail_nth_call(patch: pytest.MonkeyPatch, nth: int) -> list[str]:
    calls: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == nth:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        return call

    for name in _CALLS:
        patch.setattr(os, name, failing(name, getattr(os, name)))
    return calls


def _start_writer(store: LocalStore) -> subprocess.Popen[bytes]:
    """Start a process that is in the middle of a put of ``one``."""
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from drtool.stores.local import LocalStore
        LocalStore(Path({str(store.path)!r})).put("one", sys.stdin.buffer)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert writer.stdin
    writer.stdin.write(b"x" * 3 * MIB)  # returns when all but a pipe's buffer was read
    writer.stdin.flush()
    return writer


def test_leftover_of_a_killed_writer_is_hidden_and_removed_by_the_next_put(store: LocalStore) -> None:
    writer = _start_writer(store)
    assert len(_files(store)) == 1
    writer.kill()
    writer.wait()
    assert writer.stdin
    writer.stdin.close()
    assert len(_files(store)) == 1
    assert [*store.list("")] == []

    store.put("two", io.BytesIO(NEW))

    assert _files(store) == ["two"]


def test_unfinished_upload_of_a_live_writer_is_left_alone(store: LocalStore) -> None:
    writer = _start_writer(store)

    store.put("two", io.BytesIO(NEW))
    assert len(_files(store)) == 2
    writer.communicate(b"y", timeout=60)

    assert writer.returncode == 0
    assert _read(store, "one") == b"x" * 3 * MIB + b"y"
    assert _files(store) == ["one", "two"]


def test_put_into_a_folder_that_is_being_emptied_succeeds(store: LocalStore) -> None:
    """Deleting prunes empty folders; a put that just made one makes it again."""
    done = threading.Event()

    def empty() -> None:
        while not done.is_set():
            store.delete(["deep/er/one"])

    with ThreadPoolExecutor(1) as threads:
        emptied = threads.submit(empty)
        try:
            for number in range(150):
                store.put(f"deep/er/{number}", io.BytesIO(b""))
                store.delete([f"deep/er/{number}"])
        finally:
            done.set()
        emptied.result()
    assert [*store.path.iterdir()] == []


def test_folder_and_object_of_one_name_exclude_each_other_with_a_clear_error(store: LocalStore) -> None:
    store.put("a/b", io.BytesIO(OLD))

    for key, only_if_absent in (("a", False), ("a", True), ("a/b/c", False), ("a/b/c", True)):
        with pytest.raises(StoreError, match="an object and a folder at once"):
            store.put(key, io.BytesIO(NEW), only_if_absent=only_if_absent)
    for key in ("a", "a/b/c"):
        with pytest.raises(ObjectMissing):
            store.stat(key)
        with pytest.raises(ObjectMissing):
            _read(store, key)
    store.delete(["a", "a/b/c"])

    assert _files(store) == ["a/b"]


def test_objects_are_readable_for_nobody_else(store: LocalStore) -> None:
    before = os.umask(0)
    try:
        store.put("a/b/one", io.BytesIO(NEW))
    finally:
        os.umask(before)

    assert stat.S_IMODE((store.path / "a/b/one").stat().st_mode) == 0o600
    assert stat.S_IMODE((store.path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((store.path / "a/b").stat().st_mode) == 0o700


def test_what_is_not_an_object_of_ours_does_not_show(store: LocalStore) -> None:
    store.put("one", io.BytesIO(NEW))
    (store.path / "with space").write_bytes(b"")
    (store.path / "~1234.part").write_bytes(b"")
    (store.path / "link").symlink_to("one")
    (store.path / "out").symlink_to("/etc")
    os.mkfifo(store.path / "pipe")

    assert [info.key for info in store.list("")] == ["one"]
    for key in ("link", "pipe"):
        with pytest.raises(ObjectMissing):
            store.stat(key)
    with pytest.raises(ObjectMissing):
        _read(store, "link")


def test_file_that_gets_shorter_while_it_is_read_is_an_error_and_no_end(store: LocalStore) -> None:
    store.put("one", forward_only(noise(4 * MIB)))

    with store.open("one") as body:
        body.read(100)
        os.truncate(store.path / "one", 2 * MIB)
        with pytest.raises(StoreError, match="lost its end"):
            body.read()


def test_rename_if_absent_renames_or_refuses(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(NEW)
    (tmp_path / "b").write_bytes(OLD)

    with pytest.raises(FileExistsError):
        rename_if_absent(tmp_path / "a", tmp_path / "b")
    rename_if_absent(tmp_path / "a", tmp_path / "c")

    assert (tmp_path / "b").read_bytes() == OLD
    assert (tmp_path / "c").read_bytes() == NEW
    assert not (tmp_path / "a").exists()


def test_file_system_without_hard_links_gets_renames(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))  # what vfat says

    monkeypatch.setattr(os, "link", refuse)
    store.put("one", io.BytesIO(OLD), only_if_absent=True)

    with pytest.raises(StoreError, match="exists already"):
        store.put("one", io.BytesIO(NEW), only_if_absent=True)
    assert _read(store, "one") == OLD
