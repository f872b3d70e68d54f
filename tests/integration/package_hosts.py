"""Hosts with real package managers, and what drtool would do on them.

The image's script make-packages says what is in which repository.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.core.packages import FromHost, FromRepository, PackageSource, package_of
from drtool.events import Event, Noticed
from drtool.hosts import Runner
from drtool.hosts.prefix import docker_exec, open_prefixed
from drtool.installing import Outcome, install_package
from drtool.installs.omnibus import Omnibus
from drtool.stores.memory import MemoryStore
from tests.integration.engine import Engine

VERSION = "/opt/gitlab/embedded/service/gitlab-rails/VERSION"


class Clock:
    """Lets no time pass but what is slept, and does something whenever it should sleep."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._seconds = 0.0
        self._meanwhile = meanwhile

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, duration: timedelta) -> None:
        self._seconds += duration.total_seconds()
        self._meanwhile()


class Host:
    """One container, and what drtool would do on it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.events: list[Event] = []

    def sh(self, script: str) -> str:
        return self.runner.run(Command(("sh", "-c", script), timedelta(minutes=2))).decode()

    def install(
        self,
        source: PackageSource | None = None,
        version: str = "16.11.6",
        *,
        store: MemoryStore | None = None,
        clock: Clock | None = None,
    ) -> Outcome:
        package = package_of(version)
        return install_package(
            self.runner, package, source or FromRepository(), self.events.append, clock or Clock(),
            install=Omnibus(), store=store, patience=timedelta(seconds=15),
        )  # fmt: skip

    def version(self) -> str:
        return self.sh(f"cat {VERSION}").strip()

    def has(self, path: str) -> bool:
        return self.sh(f"test -e {path} && echo yes || echo no") == "yes\n"

    def write(self, path: str, text: str) -> None:
        self.runner.run(Command(("sh", "-c", 'mkdir -p "${0%/*}" && cat > "$0"', path)), stdin=text.encode())

    def noticed(self) -> list[str]:
        return [event.code for event in self.events if isinstance(event, Noticed)]


@pytest.fixture
def debian(engine: Engine) -> Iterator[Host]:
    with package_host(engine) as host:
        yield host


@pytest.fixture
def enterprise(engine: Engine) -> Iterator[Host]:
    with package_host(engine) as host:
        host.sh("become-enterprise-linux")
        yield host


@contextmanager
def package_host(engine: Engine, **mounts: str) -> Iterator[Host]:
    made = engine.container("packages").with_command("sleep infinity")
    for path, options in mounts.items():
        made.with_tmpfs_mount(path, options)
    with (
        made as container,
        closing(open_prefixed(docker_exec(container.get_wrapped_container().id), "new-host")) as runner,
    ):
        yield Host(runner)


def wait_for(host: Host, path: str) -> None:
    deadline = time.monotonic() + 60
    while not host.has(path):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def package_file(name: str) -> FromHost:
    return FromHost(PurePosixPath(f"/srv/files/{name}"))


@pytest.fixture
def here(debian: Host) -> str:
    return debian.sh("dpkg --print-architecture").strip()
