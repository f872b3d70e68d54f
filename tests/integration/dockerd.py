"""Runs a dockerd of the tests' own for as long as anybody holds a lock on the file of its users.

A process of its own, so that dockerd ends even if every test process is killed. Called with the directory for its
socket, its log and the locks.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Apart from the machine's own docker: a dockerd that the operator stopped has containers that must stay stopped.
STORAGE = Path("/var/lib/drtool-tests")
_STOP_SECONDS = 30


def main(state: Path) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with (state / "guard").open("w") as guard, (state / "users").open("a") as users:
        fcntl.flock(guard, fcntl.LOCK_EX)  # until we end; who wants to see dockerd gone waits for it
        with (state / "dockerd.log").open("wb") as log:
            process = subprocess.Popen(_command(state), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None and not _is_free(users):
                time.sleep(0.2)
            # From here on new users wait at their lock until dockerd is gone, and start another one.
            return process.poll() or 0
        finally:
            _stop(process)


def _command(state: Path) -> tuple[str, ...]:
    return (
        *("setpriv", "--pdeathsig", "TERM"),  # were this process killed, dockerd would have to go too
        "dockerd",
        f"--host=unix://{state}/docker.sock",
        f"--pidfile={state}/docker.pid",
        f"--exec-root={state}/exec",
        f"--data-root={STORAGE}",
        "--group=root",
    )


def _is_free(users: object) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]  # an open file
    except BlockingIOError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
