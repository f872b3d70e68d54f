"""Installing GitLab's package with real dnf and rpm, on a Debian that says it is another distribution."""

from __future__ import annotations

import pytest

from drtool.core.packages import package_of
from drtool.errors import Busy, HostUnfit, VersionMismatch
from drtool.installing import release_package
from tests.integration.package_hosts import (
    VERSION,
    Clock,
    Host,
    enterprise,
    package_file,
)

__all__ = ["enterprise"]

pytestmark = pytest.mark.engine("docker")

CE = package_of("16.11.6")


def test_dnf_installs_exactly_that_version_and_holds_it(enterprise: Host) -> None:
    enterprise.write("/etc/gitlab/gitlab.rb", "external_url 'https://git.example.com'\n")
    outcome = enterprise.install()
    assert (outcome.changed, outcome.held) == (True, True)
    assert not enterprise.has("/var/opt/gitlab/bootstrapped")
    enterprise.sh("dnf -y upgrade")
    assert enterprise.version() == "16.11.6"
    again = enterprise.install()
    assert (again.changed, again.held) == (False, True)
    release_package(enterprise.runner, CE)
    release_package(enterprise.runner, CE)
    enterprise.sh("dnf -y upgrade")
    assert enterprise.version() == "17.0.0"


def test_dnf_without_its_plugin_holds_nothing_and_says_so(enterprise: Host) -> None:
    enterprise.sh("rm /usr/lib/python3/dist-packages/dnf-plugins/versionlock.py")
    outcome = enterprise.install()
    assert (outcome.changed, outcome.held) == (True, False)
    assert enterprise.noticed() == ["not-held"]
    release_package(enterprise.runner, CE)


def test_dnf_changes_no_other_version_and_no_other_edition(enterprise: Host) -> None:
    enterprise.sh("dnf -y install gitlab-ce-16.11.5")
    with pytest.raises(VersionMismatch, match=r"gitlab-ce 16\.11\.5-ce\.0\.el9"):
        enterprise.install()
    with pytest.raises(VersionMismatch, match=r"needs gitlab-ee"):
        enterprise.install(version="16.11.6-ee")
    assert enterprise.version() == "16.11.5"


def test_dnf_names_what_is_offered(enterprise: Host) -> None:
    with pytest.raises(HostUnfit, match=r"do not have gitlab-ce 16\.11\.9-ce\.0: .*16\.11\.6-ce\.0\.el9, 17\.0\.0"):
        enterprise.install(version="16.11.9")
    with pytest.raises(HostUnfit, match=r"they know no gitlab-jh"):
        enterprise.install(version="16.11.6-jh")


def test_dnf_installs_a_file_although_no_repository_answers(enterprise: Host) -> None:
    machine = enterprise.sh("uname -m").strip()
    enterprise.install()  # brings what rpm's scripts need
    enterprise.sh("rpm --erase gitlab-ce; dnf -y versionlock clear; rm -rf /srv/rpm /var/cache/dnf")
    assert enterprise.install(package_file(f"gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm")).held
    assert enterprise.version() == "16.11.6"


def test_dnf_refuses_wrong_and_broken_files(enterprise: Host) -> None:
    machine = enterprise.sh("uname -m").strip()
    there = "x86_64" if machine == "aarch64" else "aarch64"
    with pytest.raises(VersionMismatch, match=r"is gitlab-ce 16\.11\.7-ce\.0\.el9"):
        enterprise.install(package_file(f"gitlab-ce-16.11.7-ce.0.el9.{machine}.rpm"))
    with pytest.raises(HostUnfit, match=f"is for {there}"):
        enterprise.install(package_file(f"gitlab-ce-16.11.6-ce.0.el9.{there}.rpm"))
    enterprise.sh(f"truncate -s -600 /srv/files/gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm")
    with pytest.raises(HostUnfit, match="the package file is damaged"):
        enterprise.install(package_file(f"gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm"))
    assert not enterprise.has(VERSION)


def test_dnf_tells_of_repositories_out_of_reach_and_of_signatures(enterprise: Host) -> None:
    enterprise.write("/etc/yum.repos.d/gitlab.repo", "[gitlab]\nname=gitlab\nbaseurl=http://127.0.0.1:1/rpm\n")
    with pytest.raises(HostUnfit, match="the package repository cannot be read"):
        enterprise.install()
    enterprise.write("/etc/yum.repos.d/gitlab.repo", "[gitlab]\nname=gitlab\nbaseurl=file:///srv/rpm\ngpgcheck=1\n")
    with pytest.raises(HostUnfit, match="its signature is not trusted"):
        enterprise.install()
    assert not enterprise.has(VERSION)


def test_dnf_is_kept_out_by_another_one(enterprise: Host) -> None:
    enterprise.sh("mkdir -p /var/lib/dnf /var/cache/dnf; sleep 600 >/dev/null 2>&1 & echo $! > /run/holder")
    enterprise.sh("cat /run/holder > /var/lib/dnf/rpmdb_lock.pid; cat /run/holder > /var/cache/dnf/metadata_lock.pid")
    with pytest.raises(Busy):
        enterprise.install()
    clock = Clock(meanwhile=lambda: enterprise.sh("rm -f /var/lib/dnf/*_lock.pid /var/cache/dnf/*_lock.pid"))
    assert enterprise.install(clock=clock).changed
