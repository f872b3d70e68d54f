"""A configured drtool beside a sandbox, and the real console script to run on it: what an operator has."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtool.demo import ciphers
from drtool.demo.sandbox import Sandbox
from drtool.hosts.local import LocalRunner
from drtool.initialise import Made, initialise
from tests import sandboxes

PROGRAM = Path(sys.executable).with_name("drtool")
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What ``--json`` printed. Fails when a line is something else."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start the console script with clean settings; output goes to pipes."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DRTOOL_CONFIG", "NO_COLOR")}
    environment.update(options.pop("environment", {}))
    command = [str(PROGRAM), *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **{**pipes, "text": True, "env": environment, **options})


def drtool(*arguments: str | Path, **options: Any) -> Ran:
    """Run the console script to its end."""
    with start(*arguments, **options) as process:
        stdout, stderr = process.communicate()
    return Ran(process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Playground:
    """One directory with a host, an empty store, keys and a configuration."""

    base: Path
    host: Sandbox
    made: Made

    @property
    def store(self) -> Path:
        return self.base / "store"

    def drtool(self, *arguments: str | Path, **options: Any) -> Ran:
        """Run a command; the playground's configuration is given by DRTOOL_CONFIG."""
        environment = {"DRTOOL_CONFIG": str(self.made.config), **options.pop("environment", {})}
        return drtool(*arguments, environment=environment, **options)

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        return start(*arguments, environment={"DRTOOL_CONFIG": str(self.made.config)}, **options)

    def configure(self, name: str, *changes: tuple[str, str]) -> Path:
        """Write a changed copy of the configuration. Fails when there is nothing to change."""
        text = self.made.config.read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = self.made.config.with_name(name)
        path.write_text(text)
        return path


@contextmanager
def playground(base: Path) -> Iterator[Playground]:
    """A running host with the content of a real archive; no set in the store yet."""
    sandboxes.require()
    with sandboxes.observed(base / "host") as host:
        _seal_a_token(host)
        yield lay_out(base, host)


def _seal_a_token(host: Sandbox) -> None:
    """Give the archive's instance what every GitLab has: a value that its secrets open."""
    key_base = json.loads(host.gitlab_secrets.read_text())["gitlab_rails"]["db_key_base"]
    token = ciphers.encrypt_token("a fake registration token", key_base)
    host.sql(f"UPDATE application_settings SET runners_registration_token_encrypted = '{token}'")


def lay_out(base: Path, host: Sandbox) -> Playground:
    """Keys, store and configuration for a host, as ``drtool init`` makes them, with an identity at hand."""
    (base / "store").mkdir()
    made = initialise(
        base / "drtool",
        LocalRunner(),
        instance="gitlab",
        host=platform.node(),
        store=base / "store",
        state=base / "state",
        prefix=host.root,
    )
    text = made.config.read_text()
    made.config.write_text(
        text.replace('# identities = ["file:/path/to/identity.txt"]', 'identities = ["file:identity.txt"]')
    )
    return Playground(base, host, made)


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        time.sleep(0.02)


def snapshot(*roots: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below these directories: its mode and its bytes. To compare before and after."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (status.st_mode, content)
    return found
