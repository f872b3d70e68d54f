"""Installing GitLab's package with real apt and dpkg: it holds a VERSION file, and behaves like the real one."""

from __future__ import annotations

import threading

import pytest

from drtool.core.packages import package_of
from drtool.errors import Busy, CommandFailed, HostUnfit, VersionMismatch
from drtool.events import Waiting
from drtool.installing import look_at_packages, refuse_unfit, release_package
from tests.integration.engine import Engine
from tests.integration.package_hosts import (
    VERSION,
    Clock,
    Host,
    debian,
    package_host,
    wait_for,
)

__all__ = ["debian"]

pytestmark = pytest.mark.engine("docker")

CE = package_of("16.11.6")
HOLD_DPKG = """
import fcntl, time
file = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
open("/run/locked", "w").close()
time.sleep(600)
"""


def test_exactly_the_package_of_the_set_is_installed_and_held(debian: Host) -> None:
    outcome = debian.install()

    assert (outcome.changed, outcome.held) == (True, True)
    assert debian.version() == "16.11.6"
    assert debian.sh("apt-mark showhold") == "gitlab-ce\n"
    debian.sh("apt-get -y upgrade")
    assert debian.version() == "16.11.6"
    assert "gitlab-recommended" not in debian.sh("dpkg-query -W")
    assert debian.noticed() == []


def test_a_release_from_hold_lets_upgrades_in_again(debian: Host) -> None:
    debian.install()
    release_package(debian.runner, CE)
    release_package(debian.runner, CE)
    debian.sh("apt-get -y upgrade")
    assert debian.version() == "17.0.0"


def test_what_is_there_already_is_left_alone(debian: Host) -> None:
    debian.install()
    before = debian.sh("stat -c %Z /var/lib/dpkg/info/gitlab-ce.list")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (False, True)
    assert debian.sh("stat -c %Z /var/lib/dpkg/info/gitlab-ce.list") == before


def test_a_package_that_was_there_without_a_hold_is_held(debian: Host) -> None:
    debian.sh("apt-get update && apt-get -y install gitlab-ce=16.11.6-ce.0")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (False, True)
    assert debian.sh("apt-mark showhold") == "gitlab-ce\n"


def test_gitlab_is_not_configured_by_its_installation(debian: Host) -> None:
    debian.install()
    assert not debian.has("/etc/gitlab/gitlab-secrets.json")
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_a_configuration_that_was_there_starts_nothing_and_stays(debian: Host) -> None:
    mine = "external_url 'https://git.example.com'\n"
    debian.write("/etc/gitlab/gitlab.rb", mine)
    debian.install()
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == mine
    assert debian.sh("ls /etc/gitlab") == "gitlab.rb\n"
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_without_these_precautions_the_package_does_configure_itself(debian: Host) -> None:
    debian.write("/etc/gitlab/gitlab.rb", "external_url 'https://git.example.com'\n")
    debian.sh("apt-get update && apt-get -y install gitlab-ce=16.11.6-ce.0")
    assert debian.has("/etc/gitlab/gitlab-secrets.json")


def test_a_configuration_stays_when_the_installation_fails(debian: Host) -> None:
    debian.write("/etc/gitlab/gitlab.rb", "mine\n")
    with pytest.raises(HostUnfit):
        debian.install(version="16.11.9")
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == "mine\n"


@pytest.mark.parametrize("version", ["16.11.5", "17.0.0"])
def test_another_version_is_refused_and_left_alone(debian: Host, version: str) -> None:
    debian.sh(f"apt-get update && apt-get -y install gitlab-ce={version}-ce.0")
    with pytest.raises(
        VersionMismatch, match=rf"new-host has gitlab-ce {version}-ce\.0.*needs gitlab-ce 16\.11\.6-ce\.0"
    ):
        debian.install()
    assert debian.version() == version


def test_another_edition_is_not_replaced(debian: Host) -> None:
    debian.install(version="16.11.6-ee")
    with pytest.raises(VersionMismatch, match="gitlab-ee"):
        refuse_unfit(CE, look_at_packages(debian.runner), debian.runner)
    with pytest.raises(VersionMismatch, match="gitlab-ee"):
        debian.install()
    assert debian.version() == "16.11.6-ee"


def test_a_version_that_nobody_offers_is_named_with_those_that_are(debian: Host) -> None:
    with pytest.raises(HostUnfit, match=r"do not have gitlab-ce 16\.11\.9-ce\.0: .* they have .*16\.11\.6.*17\.0\.0"):
        debian.install(version="16.11.9")
    with pytest.raises(HostUnfit, match=r"they know no gitlab-jh"):
        debian.install(version="16.11.6-jh")


def test_a_package_with_another_version_inside_is_found_out(debian: Host) -> None:
    with pytest.raises(VersionMismatch, match=r"'16\.9\.9'.*'16\.9\.8'"):
        debian.install(version="16.9.9")


def test_a_package_without_its_files_is_found_out(debian: Host) -> None:
    debian.install()
    debian.sh(f"rm {VERSION}")
    with pytest.raises(HostUnfit, match=r"is installed on new-host, and .*VERSION cannot be read"):
        debian.install()


def test_a_hold_on_what_is_not_there_yields_to_the_right_package(debian: Host) -> None:
    debian.sh("apt-get update && apt-mark hold gitlab-ce")
    assert debian.install().held
    assert debian.version() == "16.11.6"


def test_a_package_killed_in_the_middle_is_finished_by_the_next_run(debian: Host) -> None:
    mine = "external_url 'https://git.example.com'\n"
    debian.write("/etc/gitlab/gitlab.rb", mine)
    debian.write("/etc/during-postinst", "touch /run/reached; sleep 600\n")
    raised: list[BaseException] = []

    def interrupted() -> None:
        try:
            debian.install()
        except BaseException as problem:  # noqa: BLE001 - looked at below
            raised.append(problem)

    thread = threading.Thread(target=interrupted)
    thread.start()
    wait_for(debian, "/run/reached")
    debian.sh("kill -9 $(pidof apt-get) $(pidof dpkg) $(pidof sleep | tr ' ' '\\n' | grep -v '^1$')")
    thread.join()
    assert isinstance(raised[0], CommandFailed)
    assert look_at_packages(debian.runner).installed[0].state == "broken"

    debian.sh("rm /etc/during-postinst")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (True, True)
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == mine
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_a_run_killed_with_the_configuration_aside_leaves_none_of_it_behind(debian: Host) -> None:
    debian.install()
    debian.write("/etc/gitlab/gitlab.rb.drtool-aside", "mine\n")
    debian.install()
    assert debian.sh("cat /etc/gitlab/gitlab.rb; ls /etc/gitlab") == "mine\ngitlab.rb\n"


@pytest.mark.parametrize("how", ["--unpack", "--install"])
def test_a_package_left_half_done_is_finished(debian: Host, how: str) -> None:
    debian.write("/etc/during-postinst", "exit 1\n")
    debian.sh(f"dpkg {how} /srv/files/gitlab-ce_16.11.6-ce.0_$(dpkg --print-architecture).deb || true")
    debian.sh("rm /etc/during-postinst")
    assert debian.install().changed
    assert debian.sh("dpkg --audit") == ""


def test_an_interrupted_dpkg_is_finished_first(debian: Host) -> None:
    debian.write(
        "/var/lib/dpkg/updates/0000", "Package: gitlab-nothing\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert debian.install().changed


def test_a_failing_script_of_the_package_is_told_and_may_be_tried_again(debian: Host) -> None:
    debian.write("/etc/during-postinst", "echo 'Running handlers: no space on this planet' >&2; exit 7\n")
    with pytest.raises(HostUnfit, match=r"the package's own script failed: .*gitlab-ce"):
        debian.install()
    debian.sh("rm /etc/during-postinst")
    assert debian.install().changed


def test_a_lock_is_waited_for(debian: Host) -> None:
    _hold_dpkg(debian)
    clock = Clock(meanwhile=lambda: debian.sh("kill $(cat /run/holder) 2>/dev/null; sleep 0.2"))
    assert debian.install(clock=clock).changed
    assert any(isinstance(event, Waiting) for event in debian.events)


def test_a_lock_is_waited_for_only_so_long(debian: Host) -> None:
    _hold_dpkg(debian)
    with pytest.raises(Busy, match="Could not get lock /var/lib/dpkg/lock-frontend"):
        debian.install()
    assert sum(isinstance(event, Waiting) for event in debian.events) > 1


def _hold_dpkg(host: Host) -> None:
    host.write("/run/hold.py", HOLD_DPKG)
    host.sh("setsid python3 /run/hold.py >/dev/null 2>&1 & echo $! > /run/holder")
    wait_for(host, "/run/locked")


def test_a_repository_that_is_not_signed_is_not_used(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/gitlab.list", "deb file:/srv/deb ./\n")
    with pytest.raises(HostUnfit, match="its signature is not trusted"):
        debian.install()
    assert not debian.has(VERSION)


def test_a_repository_out_of_reach_is_told(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/gitlab.list", "deb http://user:fake-password@127.0.0.1:1/deb ./\n")
    with pytest.raises(HostUnfit, match="the package repository cannot be read") as raised:
        debian.install()
    assert "fake-password" not in f"{raised.value} {debian.events}"


def test_another_repository_out_of_reach_does_not_matter(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/other.list", "deb http://127.0.0.1:1/other ./\n")
    assert debian.install().changed
    assert debian.noticed() == ["old-package-lists"]


def test_a_full_disk_is_told(engine: Engine) -> None:
    with package_host(engine, **{"/opt/gitlab": "size=8k"}) as host:
        host.sh("head -c 1M /dev/zero > /opt/gitlab/ballast || true")
        with pytest.raises(HostUnfit, match=r"there is not enough room: .*No space left"):
            host.install()
        host.sh("rm /opt/gitlab/ballast; mount -o remount,size=1m /opt/gitlab || true")
