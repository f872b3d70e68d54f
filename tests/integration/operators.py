"""The operator's machine of a bad day: a home with ssh settings, a configuration, the identity, and the command line.

It is this machine, in a folder: drtool runs in a process of its own there, as an operator would run it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drtool.demo.census import Census
from tests.integration.engine import Engine
from tests.integration.hosts import Host, host_factory

_PROJECT = Path(__file__).parents[2]
_SECONDS = 300
_BULK = 8 << 20
_SETTINGS, _STORE = "/etc/drtool", "/srv/gitlab-backups"


@dataclass(frozen=True)
class Operator:
    """``home`` holds all there is: .ssh, dr (configuration, keys, state) and, where it is a directory, the store."""

    home: Path

    @property
    def identity(self) -> Path:
        return self.home / "dr/identity.txt"

    @property
    def state(self) -> Path:
        return self.home / "state"

    def knows(self, host: Host, name: str, *, port: int | None = None, also: str = "") -> None:
        """Let ``name`` reach a host, by another port of this machine if one is given.

        Its own host key is trusted, and ``also``: a host that was restored and starts anew shows the set's.
        """
        reached = port or host.port
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        key = host_key(host)
        (folder / f"known_hosts-{name}").write_text(
            "".join(f"[127.0.0.1]:{reached} {one}\n" for one in (key, also) if one)
        )
        lines = ("HostName 127.0.0.1", f"Port {reached}", f"IdentityFile {host.key}", "IdentitiesOnly yes")
        known = f"UserKnownHostsFile {folder}/known_hosts-{name}"
        (folder / "config").write_text("\n    ".join([f"Host {name}", *lines, known]) + "\n")

    def run(self, *words: str, answer: str | None = None, environment: dict[str, str] | None = None) -> Ended:
        """Run a command of drtool to its end, with its output piped."""
        process = self.start(*words, environment=environment, stdin=subprocess.PIPE)
        said, problem = process.communicate(answer, timeout=_SECONDS)
        return Ended(process.returncode, said, problem)

    def start(self, *words: str, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a command of drtool."""
        surroundings = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRTOOL_", "SSH_"))},
            "HOME": str(self.home),
            "DRTOOL_CONFIG": str(self.home / "dr/drtool.toml"),
            **(environment or {}),
        }
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-c", "import sys; from drtool.cli import main; sys.exit(main())", *words]
        return subprocess.Popen(command, env=surroundings, cwd=_PROJECT, text=True, **pipes)

    def restore(self, *words: str, to: str = "root@new-host", set_id: str = "latest") -> Ended:
        return self.run("restore", set_id, "--to", to, "--identity", str(self.identity), "--yes", *words)

    def journals(self) -> list[Path]:
        return sorted((self.state / "runs").glob("*.jsonl")) if (self.state / "runs").is_dir() else []

    def entries(self) -> list[dict[str, Any]]:
        """What the journals say so far, the last line left out while it is being written."""
        lines = (line for path in self.journals() for line in path.read_text().splitlines(keepends=True))
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def again(self, home: Path) -> Operator:
        """Another machine with the same settings, keys and store, on which nothing was run yet."""
        home.mkdir()
        for name in ("dr", "store"):
            if (self.home / name).exists():
                shutil.copytree(self.home / name, home / name)
        return _settle(Operator(home), str(self.home), str(home))


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command said and how it ended."""

    status: int
    said: str
    problem: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.said}{self.problem}"

    def succeeded(self) -> Ended:
        assert self.status == 0, str(self)
        return self


@dataclass(frozen=True)
class Original:
    """A small instance that was lost: its census, and an operator's machine with the set of it. 8 MiB and more."""

    census: Census
    operator: Operator
    host_key: str


@pytest.fixture(scope="session")
def original(
    engine: Engine, network: Any, host_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Original]:
    with host_factory(engine, network, host_keys) as make:
        old = make("old-host")
        old.seed(projects=5, rows=1000, bulk_bytes=_BULK)
        prepare_host(old)
        old.check("drtool", "backup")
        key = host_key(old)
        yield Original(old.census(), operator_of(old, tmp_path_factory.mktemp("operator") / "home"), key)


def host_key(host: Host) -> str:
    """What sshd of a host shows, as known_hosts has it behind the name."""
    return host.known_hosts.read_text().splitlines()[0].split(" ", 1)[1]


def prepare_host(host: Host) -> None:
    """Let drtool make its keys and a configuration on a host, with a directory for the backups."""
    host.check("mkdir", "-p", _STORE)
    host.check("drtool", "init", "--store", _STORE)


def operator_of(host: Host, home: Path) -> Operator:
    """Carry what a host's drtool made to an operator's machine: configuration, keys and the store, if it is there."""
    (home / "dr").mkdir(parents=True)
    fetch(host, _SETTINGS, home / "dr")
    if _STORE in (home / "dr/drtool.toml").read_text():
        fetch(host, _STORE, home / "store")
    found = _settle(Operator(home), _SETTINGS, str(home / "dr"))
    return _settle(_settle(found, _STORE, str(home / "store")), "/var/lib/drtool", str(found.state))


def fetch(host: Host, path: str, target: Path) -> None:
    """Copy a directory of a host to this machine."""
    chunks, _ = host.container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in _below(archive):
            archive.extract(member, target, filter="data")


def _below(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        _, _, name = member.name.partition("/")
        yield member.replace(name=name or ".", uid=os.geteuid(), gid=os.getegid(), deep=False)


def _settle(operator: Operator, old: str, new: str) -> Operator:
    path = operator.home / "dr/drtool.toml"
    path.write_text(path.read_text().replace(f'"{old}', f'"{new}'))
    return operator
