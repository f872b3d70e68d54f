"""A look over SSH at hosts in containers: a bare machine, a GitLab, and those that may not be restored onto."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drtool.clock import SystemClock
from drtool.core.fitness import judge_target
from drtool.core.host import Host
from drtool.core.needs import Needs
from drtool.errors import HostUnfit
from drtool.hosts import Runner
from drtool.inspection import inspect
from drtool.installs.omnibus import Omnibus
from tests.integration import hosts
from tests.integration.engine import Engine
from tests.integration.hosts import SUDOER, VISITOR, Factory

pytestmark = pytest.mark.engine("docker")

MIB = 1 << 20


@pytest.fixture(scope="module")
def gitlab(engine: Engine, network: Any, host_keys: Path) -> Iterator[hosts.Host]:
    with hosts.host_factory(engine, network, host_keys) as make:
        yield make("looked-at")


def test_a_bare_machine_lacks_nothing_but_gitlab(host: Factory) -> None:
    seen = look(host("bare", gitlab=False).runner())
    assert seen.installation is None and seen.empty
    assert seen.system.package_manager == "apt" and seen.tar and seen.tar.kind == "gnu"
    needs = needs_for("18.9.0")
    assert refused(seen, needs) == ["no-gitlab"]
    assert refused(seen, replace(needs, installs=True)) == []


def test_a_gitlab_after_its_first_start_is_fit_for_a_set_of_its_version(gitlab: hosts.Host) -> None:
    seen = look(gitlab.runner())
    assert seen.installation and seen.database and seen.backups
    assert seen.postgresql == int(gitlab.sql("show server_version_num")) // 10_000
    assert seen.projects == 0
    assert refused(seen, needs_for(seen.installation.version)) == []


@pytest.mark.parametrize(("user", "sudo", "expected"), [(SUDOER, True, []), (SUDOER, False, ["not-root"])])
def test_sudo_makes_the_difference(gitlab: hosts.Host, user: str, sudo: bool, expected: list[str]) -> None:
    seen = look(gitlab.runner(user, sudo=sudo))
    assert seen.installation
    assert refused(seen, needs_for(seen.installation.version))[:1] == expected


def test_whom_sudo_does_not_know_is_refused_before_anything_else(gitlab: hosts.Host) -> None:
    with pytest.raises(HostUnfit, match="sudo does not let this user be root") as raised:
        look(gitlab.runner(VISITOR, sudo=True))
    assert "NOPASSWD" in raised.value.hint


def test_a_backup_disk_that_is_too_small_is_refused_with_its_size(host: Factory) -> None:
    seen = look(host("small", tmpfs={"/var/opt/gitlab/backups": "size=64m,mode=700"}).runner())
    assert seen.installation
    needs = replace(needs_for(seen.installation.version), staged_size=65 * MIB)
    (found,) = [one for one in judge_target(seen, needs) if one.severity == "refuse"]
    assert found.code == "disk"
    assert "/var/opt/gitlab/backups has 64.0 MiB free, needed are 65.0 MiB for staging" in found.message


def look(runner: Runner) -> Host:
    return inspect(Omnibus(), runner, SystemClock())


def needs_for(version: str) -> Needs:
    return Needs("20260113T031500Z-7f3a", version, staged_size=MIB, staged_members=10)


def refused(seen: Host, needs: Needs) -> list[str]:
    return [one.code for one in judge_target(seen, needs) if one.severity == "refuse"]
