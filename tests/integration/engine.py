"""The container engine of the tests: the machine's own or, where none runs and we are root, a dockerd of ours.

All test processes share it: whoever comes first starts it, and it ends after the last one. See dockerd.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, DockerException, NotFound

from tests.integration import images

# The container that is to tidy up behind us would have to be pulled; before testcontainers is imported.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

_START_SECONDS = 60
_STOP_SECONDS = 40
_OWNER = "drtool-tests.owner"
_CALL_SECONDS = 600  # a step of a build can be silent for long


class EngineMissing(Exception):
    """There is none, and none could be started. ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers. Ports of its containers are to be published on 127.0.0.1."""

    client: Any
    state: Path

    def image(self, name: str) -> str:
        """The tag of an image of ours (a directory beside images/__init__.py), which is built if it is not there."""
        if found := images.find(self.client, name):
            return found
        for parent in images.PARENTS[name]:
            self.image(parent)
        with _lock(self.state / f"image-{name}", fcntl.LOCK_EX):  # other images may be built meanwhile
            return images.find_or_build(self.client, name)

    def container(self, image: str, *ports: int, **options: Any) -> Any:
        """Make a testcontainers' container of an image of ours, not started yet, with these ports on loopback."""
        from testcontainers.core.container import DockerContainer

        # The label finds it again should this process be killed.
        made: Any = DockerContainer(self.image(image), labels={_OWNER: str(os.getpid())}, **options)
        made.ports.update({str(port): ("127.0.0.1", None) for port in ports})
        return made

    def create(self, image: str, **options: Any) -> Any:
        """Make a container by the engine's own client, not started yet: for files that must be there before."""
        return self.client.containers.create(image, labels={_OWNER: str(os.getpid())}, detach=True, **options)

    @contextlib.contextmanager
    def network(self) -> Iterator[Any]:
        """Make a network in which containers find each other by their aliases."""
        made = self.client.networks.create(
            f"{_OWNER}-{os.getpid()}-{uuid.uuid4().hex[:8]}", labels={_OWNER: str(os.getpid())}
        )
        try:
            yield made
        finally:
            made.reload()
            for joined in made.containers:  # a server that outlives the network
                made.disconnect(joined, force=True)
            made.remove()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Mark what uses it, also through another fixture, with ``pytest.mark.engine("docker")``."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(running())
        except EngineMissing as reason:
            pytest.skip(f"no container engine: {reason}")
        yield found


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """Find the machine's engine, or share one with all other test processes. Raises EngineMissing."""
    state = _state_directory()
    url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(_connected(url))
        except EngineMissing as reason:
            url = stack.enter_context(shared_dockerd(state, reason))
            client = stack.enter_context(_connected(url))
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DOCKER_HOST", url)  # for testcontainers
            _remove_orphans(client)
            yield Engine(client, state)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[Any]:
    if not url.startswith("unix://"):
        raise EngineMissing(f"{url} is not on this machine, and ports are published on loopback alone")
    try:
        client = docker.DockerClient(url, timeout=_CALL_SECONDS)
    except DockerException as error:
        raise EngineMissing(f"{url} does not answer: {error}") from error
    with contextlib.closing(client):
        yield client


@contextlib.contextmanager
def shared_dockerd(state: Path, reason: EngineMissing) -> Iterator[str]:
    """Share our dockerd, started if need be, and see it end if we were its last user. Yields its URL."""
    if os.geteuid() != 0:
        raise EngineMissing(f"{reason}; only root can start one") from reason
    url = f"unix://{state}/docker.sock"
    try:
        with _lock(state / "users", fcntl.LOCK_SH):
            with _lock(state / "start", fcntl.LOCK_EX):
                if not _answers(url):
                    _start(state, url)
            yield url
    finally:
        _wait_for_lock(state / "guard")


def _answers(url: str) -> bool:
    try:
        with _connected(url):
            return True
    except EngineMissing:
        return False


def _start(state: Path, url: str) -> None:
    """Start dockerd. Raises EngineMissing with the end of its log."""
    if shutil.which("dockerd") is None:
        raise EngineMissing("dockerd is not installed; as root on Debian, `make test` does that")
    guard = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("dockerd.py")), str(state)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests, which then let go of it
    )
    deadline = time.monotonic() + _START_SECONDS
    while guard.poll() is None and time.monotonic() < deadline:
        if _answers(url):
            return
        time.sleep(0.1)
    guard.terminate()
    guard.wait()
    log = state / "dockerd.log"
    said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise EngineMissing(f"dockerd did not start:\n{said}")


def _remove_orphans(client: Any) -> None:
    """Remove containers and networks whose test process was killed."""
    for container in client.containers.list(all=True, filters={"label": _OWNER}, ignore_removed=True):
        if not Path(f"/proc/{container.labels[_OWNER]}").exists():
            with contextlib.suppress(NotFound, APIError):  # another process does the same
                container.remove(force=True, v=True)
    for network in client.networks.list(filters={"label": _OWNER}):
        if not Path(f"/proc/{network.attrs['Labels'][_OWNER]}").exists():
            with contextlib.suppress(NotFound, APIError):
                network.remove()


def _state_directory() -> Path:
    """A directory of this user for sockets and locks, the same for all of their test processes."""
    root = Path("/run") if os.geteuid() == 0 else Path(tempfile.gettempdir())
    directory = root / f"drtool-tests-{os.geteuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise EngineMissing(f"{directory} belongs to somebody else")
    return directory


@contextlib.contextmanager
def _lock(path: Path, kind: int) -> Iterator[Any]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield file


def _wait_for_lock(path: Path) -> None:
    """Wait until the dockerd that we may have been the last to use is gone. If others still use it, they will wait."""
    deadline = time.monotonic() + _STOP_SECONDS
    with path.open("a") as file:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(0.1)
