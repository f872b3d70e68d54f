"""Which package a backup set needs, and where it may come from, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from drtool.core.versions import package_for, parse_version
from drtool.errors import ConfigError, VersionMismatch

PACKAGE_NAMES = ("gitlab-ce", "gitlab-ee", "gitlab-jh", "gitlab-fips")
"""They all own /opt/gitlab, so a host has one of them at most."""

_EDITIONS = {"gitlab-ce": "ce", "gitlab-ee": "ee", "gitlab-jh": "jh", "gitlab-fips": "ee"}
_SPELLING = re.compile(r"(?P<name>gitlab-[a-z]+)=(?P<version>[0-9][A-Za-z0-9.+~_-]{0,99})", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"/[A-Za-z0-9._+~@%,:/=-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Package:
    """``version`` without what rpm adds for a distribution; ``text`` is what GitLab's VERSION file has to say."""

    name: str
    version: str
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class FromRepository:
    """Whatever repository with GitLab's packages the host is configured with."""

    kind: Literal["repository"] = "repository"

    def __str__(self) -> str:
        return "the host's package repository"


@dataclass(frozen=True, slots=True)
class FromHost:
    """A package file that lies on the host."""

    path: PurePosixPath
    sha256: str | None = None
    kind: Literal["host"] = "host"

    def __post_init__(self) -> None:
        _refuse_odd_path(self.path)
        _refuse_odd_digest(self.sha256)

    def __str__(self) -> str:
        return f"{self.path} on the host"


@dataclass(frozen=True, slots=True)
class FromHere:
    """A package file on the machine where drtool runs, to be sent."""

    path: PurePosixPath
    sha256: str | None = None
    kind: Literal["here"] = "here"

    def __post_init__(self) -> None:
        _refuse_odd_digest(self.sha256)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class FromStore:
    """A package file under a key of the store, read by drtool and sent."""

    key: str
    sha256: str | None = None
    kind: Literal["store"] = "store"

    def __post_init__(self) -> None:
        _refuse_odd_digest(self.sha256)

    def __str__(self) -> str:
        return f"{self.key} in the store"


PackageSource = FromRepository | FromHost | FromHere | FromStore


def package_of(version: str, package: str | None = None) -> Package:
    """The package that leaves ``version`` in GitLab's VERSION file.

    ``package`` (``gitlab-ee=18.9.0-rc42.ee.0``) names it where the version alone does not tell. Raises HostUnfit for
    what is no version, VersionMismatch when no package was published or another version's is named, ConfigError.
    """
    wanted = parse_version(version)
    spelled = package or package_for(wanted)
    if spelled is None:
        raise VersionMismatch(
            f"no package of GitLab {wanted} was published",
            hint="Install that build by hand, or name its package; then restore.",
        )
    found = _SPELLING.fullmatch(spelled)
    if not found or found["name"] not in PACKAGE_NAMES:
        raise ConfigError(
            f"{spelled[:120]!r} is no package of GitLab", hint="Write it as apt does: gitlab-ee=16.11.6-ee.0"
        )
    number = f"{wanted.major}.{wanted.minor}.{wanted.patch}"
    begins = re.match(r"\d+\.\d+\.\d+(?!\d)", found["version"], re.ASCII)
    if not begins or begins[0] != number or _EDITIONS[found["name"]] != wanted.edition:
        raise VersionMismatch(
            f"{spelled} is no package of GitLab {wanted}",
            hint="A backup is restored by exactly its own version and edition.",
        )
    return Package(found["name"], found["version"], wanted.text)


def _refuse_odd_path(path: PurePosixPath) -> None:
    # apt takes an argument for a file only if it begins with a slash, and dnf reads * and ? in one.
    if not _FILE.fullmatch(str(path)) or ".." in path.parts:
        raise ConfigError(
            f"{str(path)[:200]!r} cannot be installed from",
            hint="Give an absolute path of letters, digits and ._+~@%,:=- to the package file.",
        )


def _refuse_odd_digest(sha256: str | None) -> None:
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ConfigError(f"{sha256[:80]!r} is no SHA-256: 64 hex digits in lower case")
