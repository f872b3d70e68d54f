"""The lock of 15.5 and later: a file with a PID, and its known weaknesses, kept as they are."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import Console, Quit, RakeAborted


@contextmanager
def locked(console: Console) -> Iterator[None]:
    """Hold the lock while the block runs, or end with status 1."""
    host = console.host
    if host.release < (15, 5):
        yield
        return
    _acquire(console, host.pid_file)
    try:
        yield
    finally:
        try:
            host.pid_file.unlink()
        except FileNotFoundError as error:
            raise RakeAborted("Errno::ENOENT", f"No such file or directory @ apply2files - {host.pid_file}") from error
        console.pid_file_deleted(host.pid_file)


def _acquire(console: Console, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        if content.strip():
            _judge(console, path, content)
        # 18.9 rewinds and writes, and does not truncate: a longer stale PID leaves its last digits behind ours.
        with path.open("r+") as rewound:
            rewound.write(str(os.getpid()))


def _judge(console: Console, path: Path, content: str) -> None:
    if console.host.release < (16, 0):
        console.raw("There is a backup and restore task in progress.\n")
        console.raw(f"If there is no other process running, please remove the file manually: {path}")
        raise Quit
    digits = re.match(r"\s*(\d+)", content)
    pid = int(digits[1]) if digits else 0  # Ruby's to_i; and process group 0 is always there
    if _runs(pid):
        console.raw("Backup and restore in progress:")
        console.raw(f"  There is a backup and restore task in progress (PID {content}).")
        console.raw("  Try to run the current task once the previous one ends.")
        raise Quit
    console.raw(f"The PID file {path} exists and contains {content}, but the process is not running.")
    console.raw(f"The PID file will be rewritten with the current process ID {os.getpid()}.")


def _runs(pid: int) -> bool:
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        return False
    except OverflowError as error:
        raise RakeAborted("RangeError", f"bignum too big to convert into `int': {pid}") from error
    return True
