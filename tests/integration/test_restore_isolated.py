"""A restored host that is to send nothing: isolated before it starts, also when it starts anew in the middle."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drtool.demo.census import difference
from tests.integration.hosts import Factory, Host
from tests.integration.operators import Operator, Original

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

TASK = "/opt/gitlab/embedded/service/gitlab-rails/tmp/backup_restore.pid"
_SECONDS = 300
_TALKERS = ("puma", "sidekiq")
_ISOLATED = ("--to", "root@new-host", "--isolate", "--yes")


@pytest.fixture
def operator(original: Original, tmp_path: Path) -> Operator:
    return original.operator.again(tmp_path / "home")


@pytest.fixture
def target(host: Factory, operator: Operator, original: Original) -> Host:
    made = host("new-host")
    operator.knows(made, "new-host", also=original.host_key)
    return made


def test_an_isolated_restore_sends_nothing_until_it_is_lifted(
    target: Host, operator: Operator, original: Original
) -> None:
    operator.restore("--isolate").succeeded()

    seen = operator.run("isolation", "--on", "root@new-host").succeeded()
    assert "root@127.0.0.1" in seen.said
    assert "is isolated." in seen.said
    assert "stopped" in seen.said
    target.check("gitlab-ctl", "status")
    assert "email_enabled: false" in target.check("cat", "/var/opt/gitlab/gitlab-rails/etc/gitlab.yml")
    assert difference(original.census, target.census()) != []

    operator.run("isolation", "--on", "root@new-host", "--lift").succeeded()
    assert "is not isolated" in operator.run("isolation", "--on", "root@new-host").succeeded().said
    assert "email_enabled: true" in target.check("cat", "/var/opt/gitlab/gitlab-rails/etc/gitlab.yml")
    assert difference(original.census, target.census()) == []
    target.check("gitlab-ctl", "status")


def test_a_host_that_starts_anew_in_an_isolated_restore_does_not_talk(
    target: Host, operator: Operator, original: Original
) -> None:
    target.switch(pause="repositories:120")
    process = operator.start("restore", "latest", *_ISOLATED, "--identity", str(operator.identity))
    _await(lambda: target.exec("test", "-s", TASK)[0] == 0)
    target.kill()
    process.communicate(timeout=_SECONDS)
    target.container.start()
    _await(lambda: target.exec("gitlab-ctl", "status", "gitaly", "postgresql")[0] == 0 and _greets(target))

    time.sleep(3)  # runit looks for services every five seconds, and starts at once what it found
    for service in _TALKERS:
        assert target.exec("gitlab-ctl", "status", service)[1].startswith("down:"), service

    target.switch(pause=None)
    operator.restore("--isolate").succeeded()
    assert "is isolated." in operator.run("isolation", "--on", "root@new-host").succeeded().said
    target.check("gitlab-ctl", "status")
    target.restart()  # from here on it starts them with the host again, isolated

    operator.run("isolation", "--on", "root@new-host", "--lift").succeeded()
    assert difference(original.census, target.census()) == []


def _greets(host: Host) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", host.port), 1) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
