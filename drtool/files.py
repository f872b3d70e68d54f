"""Files for people, on the machine where drtool runs: whole or not there, and nobody else's to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from drtool.errors import ConfigError, DrtoolError


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when the block ends well, readable by its owner alone. Raises ConfigError.

    What an interrupted try left is replaced, and never written into: in a directory that others may write to, it may
    be theirs, or a link to something else.
    """
    refuse_existing(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as problem:
        raise DrtoolError(f"{partial}: {problem.strerror}", hint="Make room, or give another place.") from problem
    finally:
        partial.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that may be there already; nobody ever reads half of it. Raises DrtoolError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as problem:
        raise DrtoolError(f"{path}: cannot be written: {problem.strerror}", hint="Make room, or mend it.") from problem
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise ConfigError if there is anything of that name."""
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: is there already", hint="Give another name, or move it away.")


def make_private(path: Path, *, exist_ok: bool = False) -> None:
    """Make a directory that only its owner may enter. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=exist_ok)
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be made: {problem.strerror}", hint="Give a place that you can write to."
        ) from problem
