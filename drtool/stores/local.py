"""A directory as a store: a disk, a mount, a second machine's export.

Layout: the key is the path. Unfinished uploads are files ``~<random>.part`` in the top directory; ``~`` is in no
key, so they never show. A name cannot be an object and a folder at once: ``a`` and ``a/b`` exclude each other here.
Symbolic links inside the directory are not ours: they are neither listed nor read as objects.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from drtool.errors import BucketMissing, ObjectExists, ObjectMissing, StoreAccessDenied, StoreError, StoreFull
from drtool.stores import Capabilities, ObjectInfo
from drtool.stores.keys import check_key, check_lock, check_prefix, check_span, is_name

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_OFFERED = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOLCK)
_PUBLISH_ATTEMPTS = 20


class LocalStore:
    """Objects as files (0600) in folders (0700) below ``path``, which must exist: it may be a mount that is not there.

    A put is durable when it returns: the file and every directory above it up to ``path`` were flushed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.capabilities = Capabilities(conditional_put=True)

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,  # noqa: ARG002  the contract offers it; a file needs no plan
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        path = self._locate(key)
        check_lock(self.name, self.capabilities, lock_until)
        with self._errors(key):
            self._remove_dead_uploads()
            if only_if_absent and path.is_file():
                raise _exists(self, key)
            unfinished = _Unfinished.create(self.path)
        try:
            # Outside of _errors: what the source raises is the producer's, also when it is an OSError.
            while chunk := source.read(_CHUNK):
                with self._errors(key):
                    unfinished.write(chunk)
            with self._errors(key):
                written = unfinished.flush()
                self._publish(unfinished, path, key, only_if_absent=only_if_absent)
                self._flush_directories(path.parent)
        finally:
            unfinished.discard()
        return _info(key, written)

    @contextlib.contextmanager
    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> Iterator[BinaryIO]:
        path = self._locate(key)
        check_span(start, size)
        with self._errors(key), self._missing_is(key):
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with self._errors(key):
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    self._raise_missing(key)
                if version not in ("", _version(status)):
                    raise StoreError(f"{self.name}: {key} was replaced")
                os.lseek(file, start, os.SEEK_SET)
            rest = max(0, status.st_size - start)
            with io.BufferedReader(_Body(self, key, file, rest if size is None else min(rest, size)), _CHUNK) as body:
                yield cast(BinaryIO, body)
        finally:
            os.close(file)

    def stat(self, key: str) -> ObjectInfo:
        path = self._locate(key)
        with self._errors(key), self._missing_is(key):
            status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            self._raise_missing(key)
        return _info(key, status)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, _ = check_prefix(prefix).rpartition("/")
        return self._walk(f"{folder}/" if folder else "", prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove the files, then the folders that became empty; a put that needs one of those makes it again."""
        folders: set[Path] = set()
        for key in keys:
            path = self._locate(key)
            with self._errors(key), contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
                folders.add(path.parent)
        with self._errors(""):
            self.path.stat()
            for folder in folders:
                self._flush_directories(self._prune(folder))

    def signed_url(self, key: str, *, ttl: timedelta) -> str:  # noqa: ARG002  a directory has no address
        raise StoreError(f"{self.name}: no URL leads to {check_key(key)}")

    def _locate(self, key: str) -> Path:
        return self.path / check_key(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what is below ``folder`` ("" or ending in "/") and matches, in byte order of whole keys."""
        for name in self._names(folder):
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                # Deleted since the folder was read: then it is not there, which is no error for a listing.
                with contextlib.suppress(ObjectMissing):
                    yield self.stat(key)

    def _names(self, folder: str) -> Sequence[str]:
        """Return what is in ``folder``, sorted; a folder's name ends in "/", so that ``a-b`` comes before ``a/b``."""
        with self._errors(folder):
            try:
                with os.scandir(self.path / folder) as found:
                    names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in found]
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return []
        return sorted(name for name in names if is_name(name))

    def _publish(self, unfinished: _Unfinished, path: Path, key: str, *, only_if_absent: bool) -> None:
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                self._make_directories(path.parent)
                if only_if_absent:
                    unfinished.become_if_absent(path)
                else:
                    unfinished.path.replace(path)
            except FileNotFoundError:
                # A delete pruned the empty folder between the two calls. Or the store is gone: then not again.
                self._check_root()
                if not os.path.lexists(unfinished.path):
                    raise StoreError(f"{self.name}: the unfinished upload of {key} was removed by somebody") from None
            except FileExistsError:
                if only_if_absent and not path.is_dir():
                    raise _exists(self, key) from None
                raise
            else:
                return
        raise StoreError(f"{self.name}: the folder of {key} kept disappearing")

    def _make_directories(self, folder: Path) -> None:
        missing = [part for part in (folder, *folder.parents) if part.is_relative_to(self.path) and part != self.path]
        for part in reversed(missing):
            try:
                part.mkdir(mode=0o700)
            except FileExistsError:
                if not part.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(part)) from None

    def _flush_directories(self, folder: Path) -> None:
        """Flush ``folder`` and all above it up to the store: another writer may have made some of them just now."""
        for part in (folder, *folder.parents):
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile; then there is nothing in it to keep
                _flush_directory(part)
            if part == self.path:
                return

    def _prune(self, folder: Path) -> Path:
        """Remove empty folders from here upwards and return the first that stays. ``rmdir`` refuses a filled one."""
        while folder != self.path:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent
        return folder

    def _remove_dead_uploads(self) -> None:
        with os.scandir(self.path) as found:
            leftovers = [Path(entry.path) for entry in found if _Unfinished.is_name(entry.name)]
        for path in leftovers:
            _Unfinished.remove_if_dead(path)

    def _check_root(self) -> None:
        if not self.path.is_dir():
            raise BucketMissing(
                f"{self.name}: no such directory", hint=f"Mount it, or make it: install -d -m 0700 {self.name}"
            )

    def _raise_missing(self, key: str) -> NoReturn:
        self._check_root()
        raise ObjectMissing(f"{self.name}: no object {key}")

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn what the operating system says into our errors."""
        try:
            yield
        except OSError as error:
            where = f"{self.name}/{key}: {error.strerror or error}"
            if error.errno in _FULL:
                raise StoreFull(where, hint="Make room, or raise the quota; nothing was left behind.") from error
            if error.errno in _DENIED:
                raise StoreAccessDenied(where, hint="Run drtool as the user who owns the directory.") from error
            self._check_root()
            if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                where += " (a name cannot be an object and a folder at once in a directory)"
            raise StoreError(where) from error

    @contextlib.contextmanager
    def _missing_is(self, key: str) -> Iterator[None]:
        """Read "no such file", "its folder is a file" and "it is a symbolic link" as: no such object."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            self._raise_missing(key)


class _Unfinished:
    """A file that is being written, locked by its writer for as long as it lives.

    The kernel drops the lock (flock) when the writer ends, however it ends: who gets the lock of somebody
    else's file has proof that its writer is dead. Where a file system has no flock, nothing is ever removed.
    """

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file

    @staticmethod
    def is_name(name: str) -> bool:
        return name.startswith("~") and name.endswith(".part")

    @classmethod
    def create(cls, folder: Path) -> _Unfinished:
        while True:
            path = folder / f"~{secrets.token_hex(8)}.part"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            created = cls(path, file)
            try:
                created._lock()
                if os.fstat(file).st_nlink:
                    return created
            except BaseException:
                created.discard()
                raise
            os.close(file)  # somebody took it for dead before the lock was ours

    @classmethod
    def remove_if_dead(cls, path: Path) -> None:
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return  # finished meanwhile, or another user's
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, *_NOT_OFFERED, *_DENIED):
                raise
        finally:
            os.close(file)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def flush(self) -> os.stat_result:
        os.fsync(self._file)
        return os.fstat(self._file)

    def become_if_absent(self, path: Path) -> None:
        """Take the name ``path`` in one step, or raise FileExistsError."""
        try:
            os.link(self.path, path)
        except FileExistsError:
            # NFS may execute the call, lose the reply and answer the repetition with EEXIST: look whose it is.
            if not os.path.samestat(path.lstat(), os.fstat(self._file)):
                raise
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            rename_if_absent(self.path, path)

    def discard(self) -> None:
        """Remove the name if it is still there, and end the lock. What was published under a key stays."""
        # A name that cannot be removed now must not hide why the put failed; the next put removes it.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise


class _Body(io.RawIOBase):
    """The bytes of one file, to the size it had when opened. A file that got shorter is an error, not an end."""

    def __init__(self, store: LocalStore, key: str, file: int, left: int) -> None:
        self._store, self._key, self._file, self._left = store, key, file, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        with self._store._errors(self._key):
            count = os.readv(self._file, [memoryview(buffer)[: self._left]]) if self._left else 0
        if self._left and not count:
            raise StoreError(f"{self._store.name}: {self._key} lost its end while it was being read")
        self._left -= count
        return count


def rename_if_absent(source: Path, target: Path) -> None:
    """Rename, or raise FileExistsError. For file systems without hard links (vfat, CIFS): renameat2, Linux 3.15."""
    current_directory, no_replace = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of linux/fcntl.h and linux/fs.h
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(current_directory, os.fsencode(source), current_directory, os.fsencode(target), no_replace) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _flush_directory(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return ObjectInfo(key, status.st_size, changed_at, version=_version(status))


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _exists(store: LocalStore, key: str) -> ObjectExists:
    return ObjectExists(f"{store.name}: {key} exists already")
