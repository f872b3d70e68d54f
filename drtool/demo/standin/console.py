"""How GitLab 18.9 speaks: timestamped lines, colours on a terminal, silence with CRON, prompts; and the ways to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import IO, Any, NoReturn

from .settings import Host

_COLOURS = {"info": "36", "warning": "33", "error": "31"}
_TRUE = ("true", "t", "yes", "y", "1", "on")


class Quit(Exception):
    """End with this status; what must be cleaned up is cleaned up."""

    def __init__(self, status: int = 1) -> None:
        super().__init__(status)
        self.status = status


class RakeAborted(Exception):
    """An exception of GitLab's code: its Ruby class and message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.kind}: {message} ({self.kind})"


def backup_error(message: str) -> RakeAborted:
    return RakeAborted("Backup::Error", message)


def missing_file(path: object) -> RakeAborted:
    return RakeAborted("Errno::ENOENT", f"No such file or directory @ rb_sysopen - {path}")


def truthy(value: str | None) -> bool:
    return value is not None and value.lower() in _TRUE


class Console:
    """Standard output as GitLab uses it. With CRON set, nothing but prompts gets through."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.silent = "CRON" in os.environ
        self.coloured = sys.stdout.isatty()

    def say(self, text: str, level: str = "info") -> None:
        """Print one timestamped record, which may have several lines, and log it."""
        self._log(text, level)
        line = f"{_now()} -- {text}"
        self.raw(f"\x1b[{_COLOURS[level]}m{line}\x1b[0m" if self.coloured else line)

    def pid_file_deleted(self, path: object) -> None:
        # This one line is coloured in another way than all others (seen on a terminal, 18.9).
        blue, green, end = ("\x1b[34m", "\x1b[32m", "\x1b[0m") if self.coloured else ("", "", "")
        text = f"{blue}-- Deleting backup and restore PID file at [{end}{path}{blue}] ... {end}{green}done{end}"
        self.raw(f"{_now()} {text}")

    def raw(self, text: str) -> None:
        if not self.silent:
            self.put(text + "\n")

    def put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def ask(self) -> bool:
        """Ask until the answer is yes or no. The end of input ends the run, as in GitLab."""
        if truthy(os.environ.get("GITLAB_ASSUME_YES")):
            return True
        while True:
            question = "Do you want to continue (yes/no)? "
            self.put(f"\x1b[34m{question}\x1b[0m" if self.coloured else question)
            answer = sys.stdin.readline()
            if not answer:
                raise RakeAborted("NoMethodError", "undefined method `chomp' for nil")
            if answer.rstrip("\n") in ("yes", "no"):
                return answer.rstrip("\n") == "yes"

    def phase(self, name: str) -> None:
        """Mark the start of a phase: the switches ``pause`` and ``kill`` act here."""
        if seconds := self.pause_in(name):
            time.sleep(seconds)
        if self.host.switch("kill") == name:
            die()

    def pause_in(self, name: str) -> float:
        phase, _, seconds = str(self.host.switch("pause") or "").partition(":")
        return float(seconds or 0) if phase == name else 0.0

    def _log(self, text: str, level: str) -> None:
        if not self.host.log.parent.is_dir():
            return
        record = {"severity": level.upper()[:5].replace("WARNI", "WARN"), "time": _stamp(), "message": text}
        with self.host.log.open("a") as log:
            log.write(json.dumps(record) + "\n")


def die() -> NoReturn:
    """End as by SIGKILL: no handler, no cleaning up."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived SIGKILL")


def wait_for(*children: subprocess.Popen[Any]) -> list[int]:
    """Wait for all of them. A signal to us alone is acted upon only after they ended (seen with SIGTERM, 18.9)."""
    try:
        return [child.wait() for child in children]
    finally:
        for child in children:
            child.wait()
            _close(child.stdout)
            _close(child.stdin)


def _close(stream: IO[Any] | None) -> None:
    if stream is not None and not stream.closed:
        stream.close()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
