"""Commands that install GitLab's package with apt or dnf. Nothing here runs anything.

Configuration and secrets come after the package, and ``reconfigure`` after them. The package would reconfigure by
itself when it knows a URL: from EXTERNAL_URL, on a first installation on EC2 from the cloud, or (deb) from a gitlab.rb
that is there already; without a URL it starts nothing and makes no secrets. So EXTERNAL_URL says what the package
itself takes for none, and a gitlab.rb has to be elsewhere meanwhile. Source: omnibus-gitlab, package scripts and
``gitlab-ctl upgrade``; skip-auto-reconfigure is looked at too late there to help.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Final, Literal, assert_never

from drtool.core.command import Command
from drtool.core.packages import PACKAGE_NAMES, Package
from drtool.errors import ConfigError, HostUnfit, VersionMismatch

Manager = Literal["apt", "dnf"]

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)

_SUFFIX: dict[Manager, str] = {"apt": ".deb", "dnf": ".rpm"}
_APT_IDS = {"debian", "ubuntu"}
_DNF_IDS = {"rhel", "centos", "fedora", "almalinux", "rocky", "ol", "amzn"}
_ANY_ARCHITECTURE = {"all", "noarch"}

_ENVIRONMENT = (
    "env", "DEBIAN_FRONTEND=noninteractive", "APT_LISTCHANGES_FRONTEND=none", "NEEDRESTART_SUSPEND=1",
    "EXTERNAL_URL=http://gitlab.example.com",
)  # fmt: skip
# Who changed a configuration file keeps it; nobody is there to be asked.
_KEEP_FILES = ("--force-confdef", "--force-confold")
_APT_GET = (*_ENVIRONMENT, "apt-get", "--yes", "-o", "Dpkg::Use-Pty=0")
_DNF = (*_ENVIRONMENT, "dnf", "--assumeyes", "--setopt=exit_on_lock=True")
# A host without a way to its repositories can install a file, and hold it, all the same.
_ALONE = ("--setopt=*.skip_if_unavailable=True",)


@dataclass(frozen=True, slots=True)
class Installed:
    """A package of GitLab on a host; a ``broken`` one did not come to its end."""

    name: str
    version: str
    architecture: str
    state: Literal["installed", "broken"]
    held: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A version that the host's repositories have, as the manager spells it; no architecture means the host's."""

    version: str
    architecture: str = ""


def read_os_release() -> Command:
    return Command(("cat", "--", "/etc/os-release"), MINUTE)


def manager_of(os_release: str) -> Manager:
    """Tell apt from dnf by the content of os-release: a host can have both programs. HostUnfit if it is neither."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    ids = [word.strip("\"'") for key in ("ID", "ID_LIKE") for word in fields.get(key, "").split()]
    if _APT_IDS.intersection(ids):
        return "apt"
    if _DNF_IDS.intersection(ids):
        return "dnf"
    raise HostUnfit(
        f"drtool installs packages with apt and dnf, and this host is {' '.join(ids)[:80] or 'of no known kind'}",
        hint="Install GitLab's package by hand, and restore without --install.",
    )


def architecture(manager: Manager) -> Command:
    """Print what packages call the host's architecture."""
    return Command(("dpkg", "--print-architecture") if manager == "apt" else ("uname", "-m"), MINUTE)


def list_installed(manager: Manager) -> Command:
    """Print every package that the host knows, for ``parse_installed``. Exits 0 when GitLab's are not among them."""
    match manager:
        case "apt":
            fields = r"${Package}\t${Version}\t${Architecture}\t${Status}\n"
            return Command(("dpkg-query", "--show", f"--showformat={fields}"), MINUTE)
        case "dnf":
            fields = r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n"
            return Command(("rpm", "--query", "--all", "--queryformat", fields, "gitlab-*"), MINUTE)
        case _:
            assert_never(manager)


def parse_installed(manager: Manager, output: str) -> tuple[Installed, ...]:
    """Read what ``list_installed`` printed, GitLab's packages alone. HostUnfit if it is something else."""
    lines = (line.split("\t") for line in output.splitlines())
    found = (_installed(manager, fields) for fields in lines if fields[0] in PACKAGE_NAMES)
    return tuple(one for one in found if one)


def refuse_other(package: Package, installed: tuple[Installed, ...], host: str) -> None:
    """Raise VersionMismatch if the host has another version or edition, or only a part of one."""
    for found in installed:
        if not is_package(found, package):
            raise VersionMismatch(
                f"{host} has {found.name} {found.version}, and the set needs {package}",
                hint="Take a fresh host; or, if nothing on this one is needed, `gitlab-ctl cleanse` and remove "
                f"{found.name} first. drtool neither up- nor downgrades.",
            )


def is_package(found: Installed, package: Package) -> bool:
    return found.name == package.name and _same(found.version, package)


def refresh() -> Command:
    """Let apt read the repositories' lists. Ends badly when any of them could not be read."""
    return Command((*_APT_GET, "-o", "APT::Update::Error-Mode=any", "update"), 15 * MINUTE)


def list_offered(manager: Manager, package: Package) -> Command:
    """Print the versions that the host's repositories have, for ``parse_offered``."""
    match manager:
        case "apt":
            return Command(("apt-cache", "madison", package.name), 5 * MINUTE)
        case "dnf":
            fields = r"%{name}\t%{version}-%{release}\t%{arch}\n"
            words = ("--quiet", "--refresh", "repoquery", "--showduplicates", "--queryformat", fields, package.name)
            return Command((*_DNF, *words), 15 * MINUTE)
        case _:
            assert_never(manager)


def parse_offered(manager: Manager, output: str, package: Package) -> tuple[Offer, ...]:
    """Read what ``list_offered`` printed; other lines, like warnings, are passed over."""
    found = []
    for line in output.splitlines():
        words = [word.strip() for word in line.split("|" if manager == "apt" else "\t")]
        if len(words) != 3 or words[0] != package.name:
            continue
        if manager == "dnf":
            found.append(Offer(words[1], words[2]))
        elif words[2].endswith(" Packages"):
            found.append(Offer(words[1]))
    return tuple(dict.fromkeys(found))


def choose(manager: Manager, offers: tuple[Offer, ...], package: Package, host_architecture: str) -> str:
    """The operand that makes the manager install exactly this package. HostUnfit if it is not offered."""
    fitting = [offer for offer in offers if _same(offer.version, package)]
    if not fitting:
        versions = ", ".join(sorted({offer.version for offer in offers}, key=_by_number)[-5:])
        raise HostUnfit(
            f"the host's repositories do not have {package}: "
            + (f"of {package.name} they have {versions}" if versions else f"they know no {package.name}"),
            hint="Configure GitLab's own repository for this edition on the host, or give the package as a file.",
        )
    for offer in fitting:
        if offer.architecture in {"", host_architecture, *_ANY_ARCHITECTURE}:
            return f"{package.name}={offer.version}" if manager == "apt" else _nevra(package, offer)
    raise HostUnfit(
        f"{package} is offered for {fitting[0].architecture} only, and the host is {host_architecture}",
        hint="Restore onto a host of another architecture, or give the package as a file.",
    )


def describe_file(manager: Manager, path: PurePosixPath) -> Command:
    """Print name, version and architecture of a package file, for ``judge_file``. ConfigError for another kind."""
    if path.suffix != _SUFFIX[manager]:
        raise ConfigError(
            f"{path} does not end in {_SUFFIX[manager]}, and the host installs packages with {manager}",
            hint="Give the package that was made for the host's distribution.",
        )
    match manager:
        case "apt":
            words: tuple[str, ...] = ("dpkg-deb", "--show", r"--showformat=${Package}\t${Version}\t${Architecture}\n")
        case "dnf":
            fields = r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n"
            words = ("rpm", "--query", "--queryformat", fields, "--package")
        case _:
            assert_never(manager)
    return Command((*words, str(path)), 5 * MINUTE)


def judge_file(output: str, package: Package, host_architecture: str, name: str) -> None:
    """Raise VersionMismatch, or HostUnfit for another architecture, unless this file is the package. ``name`` it."""
    fields = [line.split("\t") for line in output.splitlines() if line.count("\t") == 2]
    if len(fields) != 1:
        raise HostUnfit(f"{name} does not say which package it is", hint="Fetch the package again.")
    found, version, made_for = fields[0]
    if found != package.name or not _same(version, package):
        raise VersionMismatch(f"{name} is {found} {version}, and the set needs {package}", hint=f"Give {package}.")
    if made_for not in {host_architecture, *_ANY_ARCHITECTURE}:
        raise HostUnfit(
            f"{name} is for {made_for}, and the host is {host_architecture}",
            hint="Give the package that was made for the host's architecture.",
        )


def install(manager: Manager, operand: str) -> Command:
    """Install what ``choose`` named, or the package file at an absolute path; upgrades and removes nothing of others.

    Recommended packages stay away: a mail server that was not there before is none of a restore's business.
    """
    match manager:
        case "apt":
            keep = [word for option in _KEEP_FILES for word in ("-o", f"Dpkg::Options::={option}")]
            words = ("--no-remove", "--no-install-recommends", *keep, "install", operand)
            return Command((*_APT_GET, *words), HOUR)
        case "dnf":
            alone = _ALONE if operand.startswith("/") else ()
            return Command((*_DNF, "--setopt=install_weak_deps=False", *alone, "install", operand), HOUR)
        case _:
            assert_never(manager)


def finish_interrupted() -> Command:
    """Let dpkg end what was killed in the middle, of whatever package: before that apt does nothing at all."""
    return Command((*_ENVIRONMENT, "dpkg", *_KEEP_FILES, "--configure", "--pending"), HOUR)


def hold(manager: Manager, package: Package, version: str) -> Command:
    """Keep the package from being upgraded. ``version`` as installed. With dnf it needs the plugin versionlock."""
    match manager:
        case "apt":
            return Command(("apt-mark", "hold", package.name), 5 * MINUTE)
        case "dnf":
            return Command((*_DNF, *_ALONE, "versionlock", "add", f"{package.name}-{version}"), 5 * MINUTE)
        case _:
            assert_never(manager)


def list_held() -> Command:
    """Print what dnf's plugin versionlock keeps."""
    return Command((*_DNF, *_ALONE, "--quiet", "versionlock", "list"), 5 * MINUTE)


def is_held(output: str, package: Package) -> bool:
    """Read what ``list_held`` printed."""
    wanted = re.compile(rf"{re.escape(package.name)}-(?:\d+:)?{re.escape(package.version)}(?:\.[a-z*]\S*)?")
    return any(wanted.fullmatch(line.strip()) for line in output.splitlines())


def unhold_commands(manager: Manager, package: Package) -> tuple[Command, ...]:
    """Allow upgrades again, for the time after the restore."""
    match manager:
        case "apt":
            return (Command(("apt-mark", "unhold", package.name), 5 * MINUTE),)
        case "dnf":
            return (Command((*_DNF, *_ALONE, "versionlock", "delete", package.name), 5 * MINUTE),)
        case _:
            assert_never(manager)


def install_commands(manager: Manager, package: Package, operand: str) -> tuple[Command, ...]:
    """What a person would type to the same end, for a plan to show."""
    return (install(manager, operand), hold(manager, package, package.version))


def shown(command: Command) -> str:
    """A command as people know it, without the environment and options that keep it from asking."""
    words = command.argv[len(_ENVIRONMENT) :] if command.argv[: len(_ENVIRONMENT)] == _ENVIRONMENT else command.argv
    return shlex.join(words)


def file_name(manager: Manager, package: Package) -> str:
    """What to call a package file that is sent."""
    return f"{package.name}_{package.version}{_SUFFIX[manager]}"


def _installed(manager: Manager, fields: list[str]) -> Installed | None:
    if manager == "dnf" and len(fields) == 3:
        name, version, made_for = fields
        return Installed(name, version, made_for, "installed")
    if manager == "apt" and len(fields) == 4 and len(status := fields[3].split()) == 3:
        name, version, made_for, _ = fields
        want, error, state = status
        if state in {"not-installed", "config-files"}:
            return None
        whole = (error, state) == ("ok", "installed")
        return Installed(name, version, made_for, "installed" if whole else "broken", want == "hold")
    raise HostUnfit(f"the host's list of packages says {fields!r}", hint="Repair its package database first.")


def _same(version: str, package: Package) -> bool:
    """Whether a manager's spelling is this version: rpm adds the distribution, as in 16.11.6-ee.0.el9."""
    return re.fullmatch(rf"{re.escape(package.version)}(\.[a-z]\S*)?", version) is not None


def _nevra(package: Package, offer: Offer) -> str:
    return f"{package.name}-{offer.version}.{offer.architecture}"


def _by_number(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
