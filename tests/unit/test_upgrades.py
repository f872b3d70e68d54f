"""What a host shows while its packages are replaced, read line by line."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from drtool.errors import CommandFailed
from drtool.installs.omnibus import Omnibus
from drtool.installs.upgrades import list_unfinished, look_for_upgrades, parse_unfinished, parse_upgrades

HOST = Omnibus()
US = "^ 700\n^ 1\n"
CTL = "/opt/gitlab/embedded/bin/omnibus-ctl gitlab /opt/gitlab/embedded/service/omnibus-ctl*"


def test_a_quiet_host_has_nothing_at_work() -> None:
    assert _seen() == ()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("/usr/bin/dpkg --status-fd 23 --no-triggers --unpack gitlab-ee.deb", "dpkg"),
        ("apt-get --yes install gitlab-ee=18.9.1-ee.0", "apt-get"),
        ("/usr/bin/python3 /usr/bin/unattended-upgrade", "unattended-upgrade"),
        ("/usr/bin/python3.9 /usr/bin/dnf --assumeyes upgrade", "dnf"),
        ("rpm -Uvh gitlab-ee.rpm", "rpm"),
    ],
)
def test_whoever_holds_a_package_managers_lock_is_named(words: str, named: str) -> None:
    assert _seen(("812 /var/lib/dpkg/lock-frontend", words)) == (
        f"a package manager is at work: {named} (process 812)",
    )


def test_a_package_manager_that_holds_two_locks_is_told_once() -> None:
    holder = "apt-get dist-upgrade"
    assert len(_seen(("5 /var/lib/dpkg/lock-frontend", holder), ("5 /var/lib/dpkg/lock", holder))) == 1


def test_a_lock_whose_holder_is_hidden_or_ended_meanwhile_counts_until_the_next_look() -> None:
    assert _seen(("812 /var/lib/dpkg/lock", "")) == ("a package manager is at work (process 812)",)


@pytest.mark.parametrize("command", ["reconfigure", "upgrade", "pg-upgrade", "revert-pg-upgrade"])
def test_gitlab_ctl_that_replaces_something_is_at_work(command: str) -> None:
    for words in (
        f"/bin/bash /opt/gitlab/bin/gitlab-ctl {command}",
        f"/opt/gitlab/embedded/bin/ruby {CTL} {command}",
        f"{CTL} {command} -V 16",
    ):
        assert _seen(("31 gitlab", words)) == (f"gitlab-ctl {command} is at work (process 31)",)


def test_chef_of_gitlabs_own_is_a_reconfigure_and_one_of_the_companys_is_none() -> None:
    rest = "-z -c /opt/gitlab/embedded/cookbooks/solo.rb"
    for name in ("cinc-client", "chef-client"):
        ours = f"/opt/gitlab/embedded/bin/ruby /opt/gitlab/embedded/bin/{name} {rest}"
        assert _seen(("44 gitlab", ours)) == ("gitlab-ctl reconfigure is at work (process 44)",)
        assert _seen(("44 gitlab", f"/opt/cinc/embedded/bin/ruby /opt/cinc/bin/{name} -d")) == ()


@pytest.mark.parametrize(
    "words",
    [
        "/bin/bash /opt/gitlab/bin/gitlab-ctl tail",
        f"/opt/gitlab/embedded/bin/ruby {CTL} status",
        f"/opt/gitlab/embedded/bin/ruby {CTL} upgrade-check",
        "vim -p notes.txt todo.txt /opt/gitlab/bin/gitlab-ctl upgrade",
        "grep reconfigure /opt/gitlab/bin/gitlab-ctl",
        "less /var/log/gitlab/reconfigure/1768273200.log",
        "/srv/copy/opt/gitlab/bin/gitlab-ctl reconfigure",
    ],
)
def test_what_replaces_nothing_is_not_taken_for_a_reconfigure(words: str) -> None:
    assert _seen(("31 gitlab", words)) == ()


def test_below_another_root_gitlab_is_another_one() -> None:
    ours = _output(("31 gitlab", "/bin/bash /opt/gitlab/bin/gitlab-ctl reconfigure"))
    assert parse_upgrades(ours, Omnibus(PurePosixPath("/srv/box"))) == ()


def test_what_waits_for_drtool_is_not_waited_for() -> None:
    """A hook of apt's may take a backup before anything is replaced: apt is above it, and holds its lock."""
    assert _seen(("700 /var/lib/dpkg/lock-frontend", "apt-get upgrade")) == ()
    assert _seen(("701 /var/lib/dpkg/lock-frontend", "apt-get upgrade"))


@pytest.mark.parametrize("output", [b"", b"sh: not found\n", b" a word of nobody's\n^ 1\n", b"= x y\n^ 1\n"])
def test_another_answer_is_not_taken_for_a_quiet_host(output: bytes) -> None:
    with pytest.raises(CommandFailed):
        parse_upgrades(output, HOST)


def test_the_look_asks_for_the_locks_below_the_root() -> None:
    argv = look_for_upgrades(Omnibus(PurePosixPath("/srv/box"))).argv
    assert "/srv/box/var/lib/dpkg/lock-frontend" in argv
    assert "/srv/box/var/lib/rpm/.rpm.lock" in argv


def test_a_package_that_dpkg_did_not_finish_is_named() -> None:
    output = (
        b"gitlab-runner\t18.9.1\tinstall ok half-configured\n"
        b"gitlab-ce\t\tunknown ok not-installed\n"
        b"gitlab-ee\t18.9.1-ee.0\tinstall ok half-configured\n"
        b"gitlab-jh\t18.9.1\thold ok installed\n"
        b"gitlab-fips\t18.9.1\tdeinstall ok config-files\n"
    )
    assert parse_unfinished(output) == ("gitlab-ee 18.9.1-ee.0 is half-configured",)
    assert "--admindir=/var/lib/dpkg" in list_unfinished(HOST).argv


def _seen(*found: tuple[str, str]) -> tuple[str, ...]:
    return parse_upgrades(_output(*found), HOST)


def _output(*found: tuple[str, str]) -> bytes:
    told = "".join(f"= {who}\n" + "".join(f" {word}\n" for word in words.split()) for who, words in found)
    return (told + US).encode()
