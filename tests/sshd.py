"""A real OpenSSH server on loopback, with keys, a certificate authority and accounts of its own.

As root it runs in a mount namespace where /etc has one more account that may use sudo, so that nothing of this
machine is changed. As anybody else it lets that user in, and has no sudo.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.hosts.ssh_target import SshTarget

OPERATOR = "drtool-operator"
_UID = 54321
_SECONDS = 20
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NAMESPACE = """
set -e
for file in passwd shadow sudoers; do mount --bind "$1/etc-$file" "/etc/$file"; done
shift
exec "$@"
"""


@dataclass(frozen=True)
class SshServer:
    """A running server. ``target`` lets in by a key; the other keys below ``folder`` are for tests of trust."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    operator: bool

    @property
    def target(self) -> SshTarget:
        return SshTarget(
            "127.0.0.1",
            getpass.getuser(),
            self.port,
            identity_files=(self.folder / "id",),
            use_agent=False,
            known_hosts=(self.folder / "known_hosts",),
            connect_timeout=timedelta(seconds=_SECONDS),
        )

    @property
    def sudo_target(self) -> SshTarget:
        if not self.operator:
            pytest.skip("an account that may use sudo needs root, sudo, and mount namespaces")
        return replace(self.target, user=OPERATOR, sudo=True)

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host.pub").read_text().split()[:2])

    def at(self, port: int, **changes: object) -> SshTarget:
        """Return the target for somebody who forwards a port to this server."""
        known = self.folder / f"known_hosts-{port}"
        known.write_text(f"[127.0.0.1]:{port} {self.host_key}\n")
        return replace(self.target, port=port, known_hosts=(known,), **changes)  # type: ignore[arg-type]  # passed on as they come

    def sessions(self) -> list[int]:
        """Return the server's processes that serve connections, the one that listens excluded."""
        found: list[int] = []
        new = [self.process.pid]
        while new:
            children = Path(f"/proc/{new[0]}/task/{new[0]}/children")
            new = new[1:] + ([int(child) for child in children.read_text().split()] if children.exists() else [])
            found = [*found, *new]
        return [one for one in dict.fromkeys(found) if _name(one).startswith("sshd")]


def make_key(path: Path, *arguments: str) -> Path:
    """Make a key pair without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, *arguments, "-f", str(path)], check=True
    )
    return path


def certify(folder: Path, key: Path, *principals: str) -> Path:
    """Sign the key by the server's user authority; the certificate lies beside it."""
    authority = ["ssh-keygen", "-q", "-s", str(folder / "authority"), "-I", "test", "-n", ",".join(principals)]
    subprocess.run([*authority, f"{key}.pub"], check=True)
    return key.with_name(f"{key.name}-cert.pub")


@contextmanager
def ssh_server(folder: Path, *settings: str) -> Iterator[SshServer]:
    """Run sshd on a free port of 127.0.0.1 until the block is left. Skips where there is none."""
    program = shutil.which("sshd", path=_PATH)
    if program is None:
        pytest.skip("no sshd: install openssh-server")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("host", "id", "authority"):
        make_key(folder / name)
    port = _free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "authorized_keys").write_text((folder / "id.pub").read_text())
    (folder / "config").write_text("\n".join([*_configuration(folder, port), *settings, ""]))
    operator = os.geteuid() == 0 and _make_operator(folder)
    command = [program, "-D", "-f", str(folder / "config"), "-E", str(folder / "log")]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(_inside(folder, command) if operator else command, stdin=subprocess.DEVNULL)
    server = SshServer(folder, process, port, operator)
    try:
        _await(port, process, folder / "log")
        yield server
    finally:
        for one in [*server.sessions(), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def sshd() -> Iterator[SshServer]:
    """Not below pytest's folder, which only we may enter: sshd reads the keys as the account that logs in."""
    with tempfile.TemporaryDirectory(prefix="sshd-") as folder, ssh_server(Path(folder)) as server:
        yield server


def _configuration(folder: Path, port: int) -> list[str]:
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"TrustedUserCAKeys {folder}/authority.pub",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",  # temporary folders of pytest belong to others as well
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxStartups 100",
        "LogLevel VERBOSE",
    ]


def _make_operator(folder: Path) -> bool:
    """Write the files for a namespace with one more account; False where there is none to be had."""
    passwd, shadow = Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text()
    for name, text in {
        "passwd": f"{passwd.rstrip()}\n{OPERATOR}:x:{_UID}:{_UID}::/:/bin/sh\n",
        "shadow": f"{shadow.rstrip()}\n{OPERATOR}:*:20000:0:99999:7:::\n",
        "sudoers": f"root ALL=(ALL:ALL) ALL\n{OPERATOR} ALL=(ALL:ALL) NOPASSWD: ALL\n",
    }.items():
        path = folder / f"etc-{name}"
        path.touch(mode=0o644 if name == "passwd" else 0o440)
        path.write_text(text)
    if not (shutil.which("sudo", path=_PATH) and shutil.which("unshare", path=_PATH)):
        return False
    return subprocess.run(_inside(folder, ["true"]), capture_output=True).returncode == 0


def _inside(folder: Path, command: list[str]) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _NAMESPACE, "sh", str(folder), *command]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not run: {log.read_text() if log.exists() else ''}")
        time.sleep(0.02)


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text()
    except OSError:
        return ""
