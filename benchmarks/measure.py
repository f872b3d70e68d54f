"""Run one command line and say what it took: the whole tree of its processes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAUSE = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Taken:
    """Wall clock and processor time in seconds, peak resident memory in bytes, summed over the tree."""

    seconds: float
    cpu_seconds: float
    peak_memory: int


class Failed(Exception):
    """A command ended with an error; says which and with what last words."""


def run(command: Sequence[str], environment: dict[str, str]) -> Taken:
    """Run to the end. Processor time is what the kernel accounts to it and to all it waited for. Raises Failed."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        watch = _Watch(process.pid)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        watch.stop()
    if process.returncode:
        raise Failed(f"{command[0]} ended with {process.returncode}: {said.decode(errors='replace')[-2000:]}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, watch.peak)


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants every 50 ms; pages that two share count twice."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(_PAUSE):
            self.peak = max(self.peak, _resident(self._pid))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _resident(pid: int) -> int:
    total = 0
    with suppress(OSError):  # it ended meanwhile
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        for task in Path(f"/proc/{pid}/task").iterdir():  # a thread's children are listed with the thread
            children = (task / "children").read_text().split()
            total += sum(_resident(int(child)) for child in children)
    return total
