"""GitLab versions: what the VERSION file says, which package that is, and whether two are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from drtool.errors import HostUnfit, VersionMismatch

Edition = Literal["ce", "ee", "jh"]

_VERSION = re.compile(
    r"(?P<major>\d+)\.(?P<minor>\d+)\.(?P<patch>\d+)(?:[-.]?(?P<pre>pre|rc\d+))?(?:-(?P<edition>ce|ee|jh))?",
    re.ASCII,
)
_PACKAGES: dict[Edition, str] = {"ce": "gitlab-ce", "ee": "gitlab-ee", "jh": "gitlab-jh"}


@dataclass(frozen=True, slots=True)
class GitLabVersion:
    """A GitLab version. ``text`` is what the VERSION file holds, without the line end; no suffix is CE."""

    text: str
    major: int
    minor: int
    patch: int
    edition: Edition
    pre_release: str = ""

    def __str__(self) -> str:
        return self.text

    def at_least(self, major: int, minor: int = 0) -> bool:
        """Tell whether this is that release or a later one; pre-releases count as the release they lead to."""
        return (self.major, self.minor) >= (major, minor)


def parse_version(text: str) -> GitLabVersion:
    """Read the content of a VERSION file or the ``:gitlab_version`` of a backup. HostUnfit if it is neither.

    Community Edition adds no suffix; ``-ce`` occurs only in documentation, and is understood.
    """
    text = text.strip()
    found = _VERSION.fullmatch(text)
    if not found:
        raise HostUnfit(f"{text[:80]!r} is no GitLab version")
    pre = found["pre"] or ""
    major, minor, patch = int(found["major"]), int(found["minor"]), int(found["patch"])
    return GitLabVersion(text, major, minor, patch, _edition(found["edition"]), pre)


def package_for(version: GitLabVersion | str) -> str | None:
    """Name the package to install, as apt takes it: ``gitlab-ee=18.9.0-ee.0``. None if none was ever published.

    Source: omnibus-gitlab's doc/development/package_version_format.md; the trailing 0 is the package's own revision.
    """
    if isinstance(version, str):
        version = parse_version(version)
    if version.pre_release:
        return None
    number = f"{version.major}.{version.minor}.{version.patch}"
    return f"{_PACKAGES[version.edition]}={number}-{version.edition}.0"


def same_version(of_set: str, of_target: str) -> None:
    """Raise VersionMismatch unless both strings are equal, character for character, as GitLab's restore demands.

    Neither string is parsed for the comparison: an edition or patch that drtool does not know must differ as well.
    Source: GitLab 18.9 compares :gitlab_version with the VERSION file as plain strings, and so did all before it.
    """
    if of_set.strip() == of_target.strip():
        return
    message = f"the backup set is of GitLab {of_set.strip()!r}, the target runs {of_target.strip()!r}"
    raise VersionMismatch(message, hint=_hint(of_set))


def _hint(of_set: str) -> str:
    try:
        package = package_for(of_set)
    except HostUnfit:
        package = None
    if package is None:
        return "Install exactly the set's build on the target; no package was published for it."
    return f"Install exactly this package on the target, and restore again: {package}"


def _edition(suffix: str | None) -> Edition:
    match suffix:
        case "ee" | "jh":
            return suffix
        case _:
            return "ce"
