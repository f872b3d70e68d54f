"""GitLab-shaped hosts in containers: PostgreSQL, Gitaly, Redis, sshd, runit or systemd are real, and what they do is.

Only Rails' commands are drtool's stand-in. With DRTOOL_TEST_GITLAB_IMAGE they are GitLab's own; see real_gitlab.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from docker.errors import APIError, NotFound

from drtool.demo.census import Census, Files, Repository, Rows
from drtool.hosts.ssh import SshRunner, open_ssh
from drtool.hosts.ssh_target import SshTarget
from tests.integration import real_gitlab
from tests.integration.engine import Engine
from tests.sshd import make_key

SUDOER, VISITOR = "deployer", "visitor"
Variant = Literal["runit", "systemd"]

_PROJECT = Path(__file__).parents[2]
_START_SECONDS = 60
_CONNECT_SECONDS = 20
_SSH = 22
_SYSTEMD_TMPFS = {"/run": "", "/run/lock": ""}


@dataclass
class Host:
    """A running host. ``address`` is its name on the network of hosts and servers."""

    container: Any
    folder: Path
    port: int
    address: str
    variant: Variant
    gitlab: bool
    is_real: bool = False
    _runners: list[SshRunner] = field(default_factory=list)

    @property
    def key(self) -> Path:
        """The private key that lets in as root, as SUDOER (who may sudo) and as VISITOR (who may not)."""
        return self.folder.parent / "id"

    @property
    def known_hosts(self) -> Path:
        """Knows the host by its port on loopback and by its address on the network."""
        return self.folder / "known_hosts"

    @property
    def target(self) -> SshTarget:
        return self.target_of("root")

    def target_of(self, user: str, *, sudo: bool = False) -> SshTarget:
        return SshTarget(
            "127.0.0.1",
            user,
            self.port,
            identity_files=(self.key,),
            use_agent=False,
            known_hosts=(self.known_hosts,),
            sudo=sudo,
            connect_timeout=timedelta(seconds=_CONNECT_SECONDS),
        )

    def runner(self, user: str = "root", *, sudo: bool = False) -> SshRunner:
        """Connect. It is closed when the host goes."""
        runner = open_ssh(self.target_of(user, sudo=sudo))
        self._runners.append(runner)
        return runner

    def exec(self, *argv: str, user: str = "", environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command in the container, without ssh; return its status and what it said."""
        result = self.container.exec_run(list(argv), user=user, environment=dict(environment or {}))
        return int(result.exit_code), result.output.decode(errors="replace")

    def check(self, *argv: str, user: str = "") -> str:
        """Run a command that must succeed."""
        status, output = self.exec(*argv, user=user)
        assert status == 0, f"{' '.join(argv)} ended with status {status}:\n{output}"
        return output

    def sql(self, text: str) -> str:
        """Run SQL as the superuser and return rows as ``a|b`` lines."""
        return self.check("/opt/gitlab/bin/gitlab-psql", "-XAtqc", text).strip()

    def write(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file of root's. Not below a tmpfs of a stopped container."""
        put(self.container, {path: content}, mode=mode)

    def seed(self, *, projects: int = 48, rows: int = 100_000, bulk_bytes: int = 0) -> None:
        """Fill a fresh GitLab: 48 projects make 63 repositories; ``rows`` of them in the largest table."""
        if self.is_real:
            real_gitlab.seed(self.container, projects)
        else:
            self._installed("seed", str(projects), str(rows), str(bulk_bytes))

    def census(self) -> Census:
        """Count and digest everything a backup must carry; see drtool.demo.census.difference."""
        found = json.loads(self._installed("census"))
        return Census(
            tables={name: Rows(**value) for name, value in found["tables"].items()},
            sequences=found["sequences"],
            definitions=found["definitions"],
            repositories={name: Repository(**value) for name, value in found["repositories"].items()},
            components={name: Files(**value) for name, value in found["components"].items()},
            secrets=found["secrets"],
        )

    def configure(self, **settings: object) -> None:
        """Change settings of the stand-in; see drtool/demo/standin/settings.py."""
        self._installed("configure", json.dumps(settings))

    def switch(self, **switches: object) -> None:
        """Turn failures of the stand-in on and off; see drtool/demo/standin/switches.py."""
        self._installed("switch", json.dumps(switches))

    def set_version(self, version: str) -> None:
        """Let another GitLab version be installed, with nothing migrated."""
        self._installed("set-version", version)

    def wait(self, seconds: float = _START_SECONDS) -> None:
        """Wait until sshd lets in, and GitLab is ready if it is there."""
        deadline = time.monotonic() + seconds
        while not (self._greets() and self._is_ready()):
            self.container.reload()
            if self.container.status != "running" or time.monotonic() > deadline:
                raise RuntimeError(f"{self.address} is not ready: {self._state()}")
            time.sleep(0.05)

    def restart(self) -> None:
        """Stop it in good order, start it and wait until it is ready. Addresses stay; connections do not."""
        self._close()
        self.container.restart(timeout=_START_SECONDS)
        self.wait(real_gitlab.START_SECONDS if self.is_real else _START_SECONDS)

    def kill(self) -> None:
        """Lose power: nothing is stopped, written or said. ``container.start()`` brings it back."""
        self._close()
        self.container.kill()

    def destroy(self) -> None:
        """Lose the host and everything on it. May be called twice."""
        self._close()
        with contextlib.suppress(NotFound, APIError):
            self.container.remove(force=True, v=True)

    def _installed(self, *arguments: str) -> str:
        if self.is_real:
            pytest.skip("this is GitLab's own image, and the stand-in is not in it")
        return self.check("python3", "-m", "drtool.demo.installed", *arguments)

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _is_ready(self) -> bool:
        if not self.gitlab:
            return True
        try:
            return self.exec("/opt/gitlab/bin/gitlab-healthcheck", "--fail", "--max-time", "5")[0] == 0
        except APIError:  # it ends just now
            return False

    def _state(self) -> str:
        said = b"".join(self.container.logs(stream=True, follow=False)).decode(errors="replace")[-1500:]
        with contextlib.suppress(APIError):
            said += self.exec("/opt/gitlab/bin/gitlab-ctl", "status")[1]
        return said

    def _close(self) -> None:
        for runner in self._runners:
            runner.close()
        self._runners.clear()


class Factory(Protocol):
    def __call__(
        self,
        name: str = ...,
        *,
        variant: Variant = ...,
        gitlab: bool = ...,
        seeded: bool = ...,
        tmpfs: Mapping[str, str] | None = ...,
    ) -> Host:
        """Start a host, known as ``name`` to the others on the network.

        ``gitlab`` is False for a machine before the installation; ``seeded`` hosts hold 63 repositories and more than
        100,000 rows, others a GitLab after its first start. ``tmpfs`` maps directories to ``size=64m`` and the like.
        """
        ...


@pytest.fixture(scope="session")
def network(engine: Engine) -> Iterator[Any]:
    """The network that hosts share; connect a server's container to it with an alias."""
    with engine.network() as made:
        yield made


@pytest.fixture(scope="session")
def host_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the key pair that all hosts let in, and one directory per host."""
    folder = tmp_path_factory.mktemp("hosts")
    make_key(folder / "id")
    return folder


@pytest.fixture
def host(engine: Engine, network: Any, host_keys: Path) -> Iterator[Factory]:
    """Make hosts, which are gone at the end of the test."""
    with host_factory(engine, network, host_keys) as make:
        yield make


@contextlib.contextmanager
def host_factory(engine: Engine, network: Any, keys: Path) -> Iterator[Factory]:
    """Make hosts for as long as the block lasts: for fixtures of a wider scope."""
    made: list[Host] = []

    def make(
        name: str = "gitlab",
        *,
        variant: Variant = "runit",
        gitlab: bool = True,
        seeded: bool = False,
        tmpfs: Mapping[str, str] | None = None,
    ) -> Host:
        real = real_gitlab.image(engine.client) if gitlab else None
        image = real or engine.image("gitlab" if gitlab else "host")
        one = _start(engine, image, network, keys / f"{name}-{len(os.listdir(keys))}", name, variant, tmpfs or {})
        one.gitlab, one.is_real = gitlab, real is not None
        made.append(one)
        if real:
            real_gitlab.open_ssh(one.container, _login_files(one))
        one.wait(real_gitlab.START_SECONDS if real else _START_SECONDS)
        if gitlab and not real:
            # Each installation makes secrets of its own; those of the image are everybody's.
            one.check("sh", "-c", "rm /etc/gitlab/gitlab-secrets.json && gitlab-ctl reconfigure")
        if seeded:
            one.seed()
        return one

    try:
        yield make
    finally:
        for one in made:
            one.destroy()


def put(container: Any, files: Mapping[str, bytes], *, mode: int = 0o644, owner: str = "root") -> None:
    """Write files into a container, running or not."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode, member.size, member.uname = mode, len(content), owner
            archive.addfile(member, io.BytesIO(content))
    container.put_archive("/", packed.getvalue())


def _start(
    engine: Engine,
    image: str,
    network: Any,
    folder: Path,
    name: str,
    variant: Variant,
    tmpfs: Mapping[str, str],
) -> Host:
    folder.mkdir()
    port = _free_port()
    options: dict[str, Any] = {"tmpfs": dict(tmpfs)}
    if variant == "systemd":
        options = _systemd(engine, options)
    container = engine.create(
        image,
        hostname=f"{name}.example.com",
        # A fixed port, so that it is the same after a restart.
        ports={f"{_SSH}/tcp": ("127.0.0.1", port)},
        network=network.name,
        networking_config={network.name: engine.client.api.create_endpoint_config(aliases=[name])},
        **options,
    )
    one = Host(container, folder, port, name, variant, gitlab=True)
    try:
        make_key(folder / "host")
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        one.known_hosts.write_text(f"[127.0.0.1]:{port} {key}\n{name} {key}\n")
        for (path, mode), content in _login_files(one).items():
            put(container, {path: content}, mode=mode)
        container.put_archive("/", _drtool())
        container.start()
    except BaseException:
        one.destroy()
        raise
    return one


def _systemd(engine: Engine, options: dict[str, Any]) -> dict[str, Any]:
    """Say how systemd can be process 1 without a privileged container."""
    tmpfs = {**_SYSTEMD_TMPFS, **options["tmpfs"]}
    common = {"tmpfs": tmpfs, "cap_add": ["SYS_ADMIN"], "stop_signal": "SIGRTMIN+3"}
    if str(engine.client.info().get("CgroupVersion", "1")) == "1":
        return {
            **common,
            "command": ["/sbin/init"],
            "volumes": {"/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "ro"}},
        }
    # Version 2: the container's own tree is mounted read-only, and an AppArmor profile would forbid to change that.
    start = ["sh", "-c", "mount -o remount,rw /sys/fs/cgroup && exec /sbin/init"]
    return {**common, "command": start, "cgroupns": "private", "security_opt": ["apparmor=unconfined"]}


def _login_files(one: Host) -> dict[tuple[str, int], bytes]:
    """The keys of sshd, and those that it lets in, by path and mode."""
    public = one.key.with_suffix(".pub").read_bytes()
    homes = ("/root", f"/home/{SUDOER}", f"/home/{VISITOR}")
    return {
        ("/etc/ssh/ssh_host_ed25519_key", 0o600): (one.folder / "host").read_bytes(),
        ("/etc/ssh/ssh_host_ed25519_key.pub", 0o644): (one.folder / "host.pub").read_bytes(),
        **{(f"{home}/.ssh/authorized_keys", 0o644): public for home in homes},
    }


def _drtool() -> bytes:
    """Pack drtool as it is now, and the units it comes with."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted((_PROJECT / "drtool").rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                _add(archive, path, f"opt/drtool/src/{path.relative_to(_PROJECT)}")
        for path in sorted((_PROJECT / "contrib/systemd").iterdir()):
            _add(archive, path, f"etc/systemd/system/{path.name}")
    return packed.getvalue()


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    content = path.read_bytes()
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o644, int(path.stat().st_mtime)
    archive.addfile(member, io.BytesIO(content))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
