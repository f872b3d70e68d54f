"""Which package a set needs, the commands that install it, and what package managers mean by what they say."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from drtool.core.packages import FromHere, FromHost, FromStore, Package, package_of
from drtool.errors import CommandFailed, ConfigError, DrtoolError, HostUnfit, VersionMismatch
from drtool.installs import package_failures as failures
from drtool.installs import packages
from drtool.installs.packages import Installed, Manager, Offer

CE = Package("gitlab-ce", "16.11.6-ce.0", "16.11.6")
EE = Package("gitlab-ee", "16.11.6-ee.0", "16.11.6-ee")
HOSTILE = [
    "16.11.6; reboot", "16.11.6 --force", "--help", "-o=x", "16.11.6\n17.0.0", "16.11.6$(id)", "16.11.6`id`", "16.11.*",
    "16.11.6-ce.0=1", "../16.11.6", "16.11.6-ee/x", "16.11.6\x00", "\uff11\uff16.11.6", "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "named", "expected"),
    [
        ("16.11.6", None, CE),
        ("16.11.6-ee\n", None, EE),
        ("17.3.1-jh", None, Package("gitlab-jh", "17.3.1-jh.0", "17.3.1-jh")),
        ("16.7.0-ce", None, Package("gitlab-ce", "16.7.0-ce.0", "16.7.0-ce")),
        ("16.11.6-ee", "gitlab-ee=16.11.6-ee.0", EE),
        ("18.9.0-rc42-ee", "gitlab-ee=18.9.0-rc42.ee.0", Package("gitlab-ee", "18.9.0-rc42.ee.0", "18.9.0-rc42-ee")),
        ("16.11.6-ee", "gitlab-fips=16.11.6-fips.0", Package("gitlab-fips", "16.11.6-fips.0", "16.11.6-ee")),
        ("13.1.1", "gitlab-ce=13.1.1+rnightly.159756.b2b5f05e-0",
         Package("gitlab-ce", "13.1.1+rnightly.159756.b2b5f05e-0", "13.1.1")),
    ],
)  # fmt: skip
def test_the_package_follows_from_the_version_or_is_named(version: str, named: str | None, expected: Package) -> None:
    assert package_of(version, named) == expected


@pytest.mark.parametrize("version", ["18.9.0-pre", "18.9.0-rc42-ee", "9.2.0.rc1"])
def test_a_version_without_a_published_package_has_to_be_named(version: str) -> None:
    with pytest.raises(VersionMismatch, match="no package of GitLab"):
        package_of(version)


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("16.11.6", "gitlab-ce=16.11.5-ce.0"),
        ("16.11.6", "gitlab-ce=16.11.60-ce.0"),
        ("16.11.6", "gitlab-ee=16.11.6-ee.0"),
        ("16.11.6-jh", "gitlab-ee=16.11.6-ee.0"),
        ("16.11.6-ee", "gitlab-ce=16.11.6-ce.0"),
    ],
)
def test_a_package_of_another_version_or_edition_is_refused(version: str, named: str) -> None:
    with pytest.raises(VersionMismatch):
        package_of(version, named)


@pytest.mark.parametrize("version", HOSTILE)
def test_a_hostile_version_becomes_no_package(version: str) -> None:
    with pytest.raises(HostUnfit):
        package_of(version)


@pytest.mark.parametrize(
    "named",
    [*(f"gitlab-ce={text}" for text in HOSTILE if text not in {"16.11.*"}), "nginx=16.11.6", "gitlab-runner=16.11.6",
     "gitlab-ce", "gitlab-ce=16.11.*",
     "--gitlab-ce=16.11.6", "gitlab-ce=16.11.6-ce.0 reboot", "gitlab-ce=16.11.6-ce.0/x"],
)  # fmt: skip
def test_a_hostile_name_becomes_no_package(named: str) -> None:
    with pytest.raises(ConfigError):
        package_of("16.11.6", named)


@pytest.mark.parametrize("path", ["gitlab.deb", "/a b.deb", "/a/../b.deb", "/a*.deb", "/a;b.deb", "/a\n.deb", "-o.deb"])
def test_a_path_that_a_manager_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        FromHost(PurePosixPath(path))


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    for make in (
        lambda: FromHost(PurePosixPath("/a.deb"), digest),
        lambda: FromHere(PurePosixPath("a.deb"), digest),
        lambda: FromStore("a.deb", digest),
    ):
        with pytest.raises(ConfigError, match="SHA-256"):
            make()


@pytest.mark.parametrize(
    ("text", "manager"),
    [
        ("ID=debian\n", "apt"),
        ("ID=ubuntu\nID_LIKE=debian\n", "apt"),
        ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt"),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ('ID="amzn"\nID_LIKE="fedora"\n', "dnf"),
        ("ID=rhel\n", "dnf"),
    ],
)
def test_the_manager_is_told_by_the_distribution(text: str, manager: Manager) -> None:
    assert packages.manager_of(text) == manager


@pytest.mark.parametrize("text", ["", "ID=sles\nID_LIKE=suse\n", "ID=alpine\n", "nonsense"])
def test_another_distribution_is_refused(text: str) -> None:
    with pytest.raises(HostUnfit):
        packages.manager_of(text)


@pytest.mark.parametrize(
    ("manager", "output", "expected"),
    [
        ("apt", "adduser\t3.1\tall\tinstall ok installed\n", ()),
        ("apt", "gitlab-runner\t16.11.6\tamd64\tinstall ok installed\n", ()),
        ("apt", "gitlab-ce\t16.11.6-ce.0\tamd64\tinstall ok installed\n",
         (Installed("gitlab-ce", "16.11.6-ce.0", "amd64", "installed"),)),
        ("apt", "gitlab-ce\t16.11.6-ce.0\tamd64\thold ok installed\n",
         (Installed("gitlab-ce", "16.11.6-ce.0", "amd64", "installed", held=True),)),
        ("apt", "gitlab-ce\t16.11.6-ce.0\tamd64\tinstall ok half-configured\n",
         (Installed("gitlab-ce", "16.11.6-ce.0", "amd64", "broken"),)),
        ("apt", "gitlab-ce\t16.11.6-ce.0\tamd64\tinstall reinstreq installed\n",
         (Installed("gitlab-ce", "16.11.6-ce.0", "amd64", "broken"),)),
        ("apt", "gitlab-ce\t16.11.6-ce.0\tamd64\tdeinstall ok config-files\n", ()),
        ("apt", "gitlab-ce\t\tamd64\thold ok not-installed\n", ()),
        ("dnf", "gitlab-ee\t16.11.6-ee.0.el9\tx86_64\n",
         (Installed("gitlab-ee", "16.11.6-ee.0.el9", "x86_64", "installed"),)),
        ("dnf", "", ()),
    ],
)  # fmt: skip
def test_installed_packages_are_read(manager: Manager, output: str, expected: tuple[Installed, ...]) -> None:
    assert packages.parse_installed(manager, output) == expected


@pytest.mark.parametrize(
    ("manager", "output"), [("apt", "gitlab-ce\n"), ("apt", "gitlab-ce\t1\tamd64\todd\n"), ("dnf", "gitlab-ee\t1\n")]
)
def test_a_list_that_cannot_be_understood_is_not_taken_for_none(manager: Manager, output: str) -> None:
    with pytest.raises(HostUnfit):
        packages.parse_installed(manager, output)


@pytest.mark.parametrize(
    ("version", "same"),
    [("16.11.6-ee.0", True), ("16.11.6-ee.0.el9", True), ("16.11.6-ee.0.amazon2023", True), ("16.11.6-ee.01", False),
     ("16.11.6-ee.0.1", False), ("16.11.60-ee.0", False), ("16a11.6-ee.0", False), ("16.11.6-ce.0.el9", False)],
)  # fmt: skip
def test_a_spelling_is_the_same_version_but_for_the_distribution(version: str, same: bool) -> None:
    assert packages.is_package(Installed("gitlab-ee", version, "x86_64", "installed"), EE) is same
    assert not packages.is_package(Installed("gitlab-ce", version, "x86_64", "installed"), EE)


MADISON = """\
 gitlab-ce | 17.0.0-ce.0 | https://mirror.example.com/debian trixie/main amd64 Packages
 gitlab-ce | 16.11.6-ce.0 | https://mirror.example.com/debian trixie/main amd64 Packages
 gitlab-ce | 16.9.0-ce.0 | https://mirror.example.com/debian trixie/main Sources
 gitlab-ce-more | 1 | https://mirror.example.com/debian trixie/main amd64 Packages
W: something else
"""
REPOQUERY = "Last metadata check\ngitlab-ee\t16.11.6-ee.0.el9\taarch64\n\ngitlab-ee\t16.11.6-ee.0.el9\tx86_64\n\n"


def test_offers_are_read() -> None:
    assert packages.parse_offered("apt", MADISON, CE) == (Offer("17.0.0-ce.0"), Offer("16.11.6-ce.0"))
    assert packages.parse_offered("dnf", REPOQUERY, EE) == (
        Offer("16.11.6-ee.0.el9", "aarch64"),
        Offer("16.11.6-ee.0.el9", "x86_64"),
    )


def test_the_operand_names_exactly_one_package() -> None:
    assert packages.choose("apt", packages.parse_offered("apt", MADISON, CE), CE, "amd64") == "gitlab-ce=16.11.6-ce.0"
    offers = packages.parse_offered("dnf", REPOQUERY, EE)
    assert packages.choose("dnf", offers, EE, "x86_64") == "gitlab-ee-16.11.6-ee.0.el9.x86_64"
    with pytest.raises(HostUnfit, match="is offered for aarch64 only"):
        packages.choose("dnf", offers[:1], EE, "x86_64")


def test_what_is_offered_instead_is_named_newest_last() -> None:
    offers = tuple(Offer(f"16.{minor}.0-ce.0") for minor in (9, 11, 10, 2, 1, 8))
    with pytest.raises(
        HostUnfit, match=r"they have 16\.2\.0-ce\.0, .*16\.9\.0-ce\.0, 16\.10\.0-ce\.0, 16\.11\.0-ce\.0$"
    ):
        packages.choose("apt", offers, CE, "amd64")


@pytest.mark.parametrize("manager", ["apt", "dnf"])
def test_an_installation_asks_nothing_and_knows_no_url(manager: Manager) -> None:
    command = packages.install(manager, "operand")
    assert command.argv[0] == "env"
    assert "EXTERNAL_URL=http://gitlab.example.com" in command.argv
    assert command.argv[-2:] == ("install", "operand")
    assert command.timeout is not None
    assert "--yes" in command.argv or "--assumeyes" in command.argv


def test_an_installation_removes_and_downgrades_nothing() -> None:
    assert "--no-remove" in packages.install("apt", "x").argv
    for manager in ("apt", "dnf"):
        assert not any("downgrade" in word or "allowerasing" in word for word in packages.install(manager, "x").argv)


@pytest.mark.parametrize("manager", ["apt", "dnf"])
def test_a_plan_shows_what_a_person_would_type(manager: Manager) -> None:
    shown = [packages.shown(command) for command in packages.install_commands(manager, CE, "operand")]
    assert shown[0].startswith("apt-get " if manager == "apt" else "dnf ")
    assert "gitlab-ce" in shown[1]
    assert packages.unhold_commands(manager, CE)[0].argv[-1] == "gitlab-ce"


@pytest.mark.parametrize(
    ("line", "held"),
    [("gitlab-ce-0:16.11.6-ce.0.el9.*", True), ("gitlab-ce-16.11.6-ce.0.*", True),
     ("gitlab-ce-0:16.11.5-ce.0.el9.*", False),
     ("!gitlab-ce-0:16.11.6-ce.0.el9.*", False), ("gitlab-ee-0:16.11.6-ce.0.el9.*", False), ("", False)],
)  # fmt: skip
def test_a_lock_of_dnf_is_found(line: str, held: bool) -> None:
    assert packages.is_held(f"Last metadata check\n{line}\n", CE) is held


def test_a_file_is_judged_by_what_it_says_of_itself() -> None:
    packages.judge_file("gitlab-ce\t16.11.6-ce.0\tamd64\n", CE, "amd64", "a file")
    packages.judge_file("warning: NOKEY\ngitlab-ee\t16.11.6-ee.0.el9\tx86_64\n", EE, "x86_64", "a file")
    with pytest.raises(VersionMismatch):
        packages.judge_file("gitlab-ce\t16.11.5-ce.0\tamd64\n", CE, "amd64", "a file")
    with pytest.raises(VersionMismatch):
        packages.judge_file("gitlab-ee\t16.11.6-ee.0\tamd64\n", CE, "amd64", "a file")
    with pytest.raises(HostUnfit, match="is for arm64"):
        packages.judge_file("gitlab-ce\t16.11.6-ce.0\tarm64\n", CE, "amd64", "a file")
    with pytest.raises(HostUnfit, match="does not say"):
        packages.judge_file("", CE, "amd64", "a file")


def test_a_file_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError):
        packages.describe_file("dnf", PurePosixPath("/gitlab.deb"))
    with pytest.raises(ConfigError):
        packages.describe_file("apt", PurePosixPath("/gitlab.rpm"))


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "not enough room"),
        (
            "Error Summary\nDisk Requirements:\n   At least 812MB more space needed on the / filesystem.",
            "not enough room",
        ),
        ("dpkg: error processing archive\n failed to write (No space left on device)", "not enough room"),
        (
            "W: GPG error: https://m.example.com: signatures couldn't be verified: NO_PUBKEY 0123456789ABCDEF",
            "signature",
        ),
        ("Error: GPG check FAILED", "signature"),
        ("Err:1 https://m.example.com x\n  Temporary failure resolving 'm.example.com'", "cannot be read"),
        ("Error: Failed to download metadata for repo 'gitlab'", "cannot be read"),
        ("dpkg: error: package architecture (arm64) does not match system (amd64)", "another architecture"),
        ("dpkg-deb: error: unexpected end of file in archive member", "damaged"),
        ("E: Packages need to be removed but remove is disabled.", "does not fit"),
        ("E: Unable to locate package gitlab-ce", "do not have it"),
        ("Error: Unable to find a match: gitlab-ce", "do not have it"),
        (
            "Error: This command has to be run with superuser privileges (under the root user on most systems).",
            "only root",
        ),
        ("dpkg: error: installed gitlab-ce package post-installation script subprocess returned error", "own script"),
    ],
)
def test_a_failure_is_told_with_its_cause_and_a_hint(output: str, cause: str) -> None:
    error = _failure(f"Reading package lists...\n{output}\nlast line")
    assert isinstance(error, HostUnfit)
    assert cause in str(error)
    assert error.hint


def test_a_failure_without_a_known_cause_ends_with_what_was_said() -> None:
    error = _failure("some\nE: it rained\nnotes\n")
    assert isinstance(error, CommandFailed)
    assert str(error).endswith("on new-host: E: it rained")
    assert error.status == 100
    assert str(_failure("")).endswith("apt-get ended")


def test_credentials_of_a_repository_are_in_no_message() -> None:
    error = _failure("E: Failed to fetch https://me:fake-secret@m.example.com/x  404  Not Found")
    assert "fake-secret" not in str(error)
    odd = _failure("E: odd https://me:fake-secret@m.example.com/x")
    assert isinstance(odd, CommandFailed)
    assert "fake-secret" not in f"{odd} {odd.stderr}"


@pytest.mark.parametrize(
    "line",
    [
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr)",
        "E: Could not get lock /var/lib/dpkg/lock - open (11: Resource temporarily unavailable)",
        "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
        "dpkg: error: dpkg frontend lock was locked by another process with pid 7",
        "metadata already locked by 19",
        "error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)",
    ],
)
def test_a_lock_is_recognized(line: str) -> None:
    assert failures.locked_out(f"Reading\n{line}\nmore") == line
    assert failures.locked_out("E: Unable to locate package gitlab-ce") == ""


def _failure(output: str) -> DrtoolError:
    return failures.failure_of(CE, "new-host", output, CommandFailed("apt-get ended", status=100))
