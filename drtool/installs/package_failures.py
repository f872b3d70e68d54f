"""What apt, dpkg, dnf and rpm say when they fail, and what to do about it. Texts of apt 1.8 to 3.0 and dnf 4, in C."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drtool.core.packages import Package
from drtool.errors import CommandFailed, DrtoolError, HostUnfit

_SHOWN = 200  # characters of a line
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
# What a manager calls an error, before anything else that it printed last, like hints for a person at a terminal.
_TELLING = re.compile(
    r"^(E:|Error:|error:|dpkg(-deb)?: error|dpkg: unrecoverable)|[Nn]o space left|not enough free space"
)
_EMPTY = re.compile(r"(E:|Error:?|error:)\s*")


@dataclass(frozen=True, slots=True)
class _Cause:
    pattern: re.Pattern[str]
    message: str
    hint: str


def _cause(pattern: str, message: str, hint: str) -> _Cause:
    return _Cause(re.compile(pattern), message, hint)


_LOCKED = re.compile(
    r"Could not get lock|Unable to acquire the dpkg frontend lock|Unable to lock (the administration|directory)"
    r"|(frontend lock|status database) (was|is) locked by another process|is another process using it"
    r"|application is currently holding the (yum|dnf) lock|can't create transaction lock"
    r"|already locked by \d+"
)
_INTERRUPTED = re.compile(r"dpkg was interrupted, you must manually run")
_HELD = re.compile(r"Held packages were changed")
_LACKING = re.compile(r"have unmet dependencies|Depends: .* but it is not (installable|going to be installed)")

# In this order: a full disk also breaks archives, a dead network also leaves packages unfound.
_CAUSES = (
    _cause(
        r"(?i)no space left on device|you don't have enough free space|more space needed on|needs \d+\w* more space",
        "there is not enough room",
        "Make room: GitLab's package takes about 1.5 GB to fetch and 4 GB below /opt.",
    ),
    _cause(
        r"NO_PUBKEY|EXPKEYSIG|KEYEXPIRED|BADSIG|couldn't be verified|is not signed|unauthenticated packages"
        r"|GPG check FAILED|Public key for .* is not installed|Signature verification failed|does not verify",
        "its signature is not trusted",
        "Fetch GitLab's signing key anew, as its installation page says: it is prolonged, and changed, now and then.",
    ),
    _cause(
        r"Could not resolve|Temporary failure resolving|Could not connect|Unable to connect"
        r"|Connection (timed out|refused)|Network is unreachable|Couldn't resolve host|Curl error"
        r"|Failed to download metadata|Cannot download|Failed to fetch|Error downloading packages",
        "the package repository cannot be read",
        "Give the host a way to its repository, or give the package as a file.",
    ),
    _cause(
        r"architecture .* does not match system|does not have a compatible architecture|incompatible arch",
        "the package is for another architecture",
        "Give the package that was made for the host's architecture.",
    ),
    _cause(
        r"No such file or directory|cannot access archive",
        "a file is not there",
        "Check the path of the package.",
    ),
    _cause(
        r"not a Debian format archive|unexpected end of file|corrupted filesystem tarfile|lzma error|not an rpm package"
        r"|error: .* (signature|digest|header).*(BAD|read failed)|Can not load RPM|unexpected EOF"
        r"|Could not read meta data|cpio: |Failed to open: |has bad magic|Hash Sum mismatch|package.* payload",
        "the package file is damaged",
        "Fetch the package again, and compare its SHA-256.",
    ),
    _cause(
        r"remove is disabled|conflicts with|Conflicts: |conflicting requests",
        "it does not fit what is installed",
        "Look at what the host's package manager says, or take a fresh host.",
    ),
    _cause(
        r"unmet dependencies|nothing provides",
        "what the package needs besides is not to be had",
        "Give the host a way to its distribution's repositories.",
    ),
    _cause(
        r"Unable to locate package|Version .* was not found|No match for argument|Unable to find a match",
        "the host's repositories do not have it",
        "Configure GitLab's own repository for this edition on the host, or give the package as a file.",
    ),
    _cause(
        r"Permission denied|are you root|superuser privileges|must be run (as|with) ",
        "only root may install packages",
        "Reach the host as root, or as somebody who may use sudo.",
    ),
    _cause(
        r"post-installation script subprocess|scriptlet failed",
        "the package's own script failed",
        "Look at /var/log/gitlab on the host; the same command goes on from there.",
    ),
)


def locked_out(output: str) -> str:
    """The line that says that another package manager is at work, worth another try in a moment; empty if none does."""
    return next((_shortened(line) for line in output.splitlines() if _LOCKED.search(line)), "")


def was_interrupted(output: str) -> bool:
    """Whether dpkg was killed in the middle some time ago, and wants to end that first."""
    return _INTERRUPTED.search(output) is not None


def was_held(output: str) -> bool:
    """Whether somebody holds a package that was to be changed."""
    return _HELD.search(output) is not None


def lacks_command(output: str) -> bool:
    """Whether dnf has no such command, because a plugin is not installed."""
    return "No such command" in output


def lacks_dependencies(output: str) -> bool:
    """Whether apt knows no way to what the package needs; with fresh lists it may."""
    return _LACKING.search(output) is not None


def failure_of(package: Package, host: str, output: str, failed: CommandFailed) -> DrtoolError:
    """Build the error for a package manager that ended badly, with the line that tells most."""
    for cause in _CAUSES:
        for line in output.splitlines():
            if cause.pattern.search(line):
                message = f"{package} cannot be installed on {host}, {cause.message}: {_shortened(line)}"
                return HostUnfit(message, hint=cause.hint)
    return CommandFailed(
        f"{package} cannot be installed on {host}: {telling_line(output) or failed}",
        status=failed.status,
        stderr=without_credentials(output),
        hint="Look at the host; the same command may be run again.",
    )


def telling_line(output: str) -> str:
    """The first line that is called an error, or else the last; without credentials of repositories."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = next((line for line in lines if _TELLING.match(line) and not _EMPTY.fullmatch(line)), "")
    return _shortened(telling or (lines[-1] if lines else ""))


def without_credentials(text: str) -> str:
    """Hide name and password in URLs: mirrors are often reached with some."""
    return _CREDENTIALS.sub("…@", text)


def _shortened(line: str) -> str:
    return without_credentials(line.strip())[:_SHOWN]
