"""What ``check`` asks about keys and files: can others read or change what they must not? Changes nothing.

Each answers with what was seen and what to do about it, which is empty when nothing is to be done.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from drtool.errors import ConfigError
from drtool.signing import refuse_exposed

Seen = tuple[str, str]


def look_at_identities(config: Path, references: Sequence[str]) -> Seen:
    """Say whether this host could open its own backups: whoever breaks into it could then, too."""
    named = [Path(text.removeprefix("file:")) for text in references if text.startswith("file:")]
    here = dict.fromkeys(str(path) for path in (*named, config.with_name("identity.txt")) if path.is_file())
    here |= dict.fromkeys(text for text in references if text.startswith("env:") and text[4:] in os.environ)
    if not here:
        return "no private key on this host", ""
    return f"on this host: {', '.join(here)}", "Move it away, unless you restore here: a backup needs no private key."


def check_permissions(files: Iterable[Path], secrets: Iterable[str]) -> Seen:
    """Raise ConfigError for a file that others could change, SecretExposed for a secret that they could read."""
    checked = [_refuse_changeable(path) for path in files]
    for path in (Path(text.removeprefix("file:")) for text in secrets if text.startswith("file:")):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint="It should hold a secret, readable by its owner alone.")
        refuse_exposed(path)
        checked.append(path)
    return f"{len(checked)} files that nobody else can change or read", ""


def _refuse_changeable(path: Path) -> Path:
    """The file, and the directory in which it could be replaced."""
    for each in (path, path.parent):
        try:
            found = each.stat()
        except OSError as problem:
            raise ConfigError(f"{each}: cannot be looked at: {problem.strerror}", hint="Run as root.") from problem
        if found.st_mode & 0o022 and not (each.is_dir() and found.st_mode & 0o1000):
            raise ConfigError(
                f"{each}: mode {found.st_mode & 0o7777:04o}, others can change it", hint=f"chmod go-w {each}"
            )
        if found.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{each}: belongs to user {found.st_uid}, who can change it", hint=f"chown root {each}")
    return path
