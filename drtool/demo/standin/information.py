"""backup_information.yml: the manifest of a GitLab backup, written byte for byte as Ruby's YAML does, and read back."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .console import RakeAborted, missing_file
from .options import Options
from .settings import Host

FILE_NAME = "backup_information.yml"
Manifest = dict[str, str | None]

# key -> the first release that writes it (facts about 10 to 18.9)
_KEYS: dict[str, tuple[int, int]] = {
    "db_version": (0, 0),
    "backup_created_at": (0, 0),
    "gitlab_version": (0, 0),
    "tar_version": (0, 0),
    "installation_type": (11, 4),
    "skipped": (0, 0),
    "repositories_storages": (15, 0),
    "repositories_paths": (15, 1),
    "skip_repositories_paths": (16, 1),
    "repositories_server_side": (16, 3),
    "backup_id": (16, 8),
    "full_backup_id": (16, 8),
}


@dataclass(frozen=True)
class Moment:
    """When a backup began: the epoch in its name and the nanoseconds in its manifest are of one clock reading."""

    nanoseconds: int

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time_ns())

    @property
    def epoch(self) -> int:
        return self.nanoseconds // 10**9

    @property
    def date(self) -> datetime:
        return datetime.fromtimestamp(self.epoch, UTC)

    def __str__(self) -> str:
        return f"{self.date:%Y-%m-%d %H:%M:%S}.{self.nanoseconds % 10**9:09d}"


def backup_id(host: Host, moment: Moment, name: str | None) -> str:
    """Name a backup: BACKUP's base name, or what this release derives from the time."""
    if name is not None and name.strip():
        return Path(name).name
    parts = [str(moment.epoch)]
    if host.release >= (8, 15):
        parts.append(f"{moment.date:%Y_%m_%d}")
    if host.release >= (9, 2):
        parts.append(host.version)
    return "_".join(parts)


def build(host: Host, options: Options, *, db_version: str, moment: Moment, full_backup_id: str | None) -> Manifest:
    """Put the manifest together. Values are plain; ``write`` knows how to print them."""
    everything: Manifest = {
        "db_version": db_version,
        "backup_created_at": str(moment),
        "gitlab_version": host.version,
        "tar_version": _tar_version(),
        "installation_type": host.installation_type,
        # Up to 15 whatever SKIP said is kept; later releases put the words in order.
        "skipped": options.normalised_skip if host.release >= (16, 0) else options.raw_skip,
        "repositories_storages": ",".join(options.storages),
        "repositories_paths": ",".join(options.paths),
        "skip_repositories_paths": ",".join(options.skip_paths),
        "repositories_server_side": "false",
        "backup_id": backup_id(host, moment, options.backup),
        "full_backup_id": full_backup_id,
    }
    return {key: value for key, value in everything.items() if host.release >= _KEYS[key]}


def write(host: Host, manifest: Manifest) -> None:
    lines: list[str] = []
    for key, value in manifest.items():
        if key == "backup_created_at":
            lines += _time_lines(str(value), tagged=host.release >= (14, 0))
        elif value is None:
            lines.append(f":{key}:")
        else:
            plain = key == "repositories_server_side"
            lines.append(f":{key}: {value if plain else _scalar(value)}")
    (host.backups / FILE_NAME).write_text("\n".join(lines) + "\n")


def read(path: Path) -> Manifest:
    """Read a manifest of any shape. Unknown keys and broken YAML end the run, as they do in GitLab."""
    if not path.exists():
        raise missing_file(path)
    manifest: Manifest = {}
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith((" ", "---")) or not line.strip():
            continue
        entry = re.fullmatch(r":(\w+):(?: (.*))?", line)
        if entry is None:
            raise RakeAborted("Psych::SyntaxError", f"({path}): could not find expected ':' near {line!r}")
        value = entry[2]
        manifest[entry[1]] = value.strip("'\"") if value is not None else None
    unknown = [key for key in manifest if key not in _KEYS]
    if unknown:
        raise RakeAborted("ArgumentError", f"unknown keywords: {', '.join(unknown)}")
    return manifest


def _time_lines(moment: str, *, tagged: bool) -> list[str]:
    if not tagged:
        return [f":backup_created_at: {moment} Z"]
    return [
        ":backup_created_at: !ruby/object:ActiveSupport::TimeWithZone",
        f"  utc: {moment} Z",
        "  zone: !ruby/object:ActiveSupport::TimeZone",
        "    name: Etc/UTC",
        f"  time: {moment} Z",
    ]


def _scalar(text: str) -> str:
    """Quote what would not come back as a string: empty, numbers (also with underscores), words of YAML."""
    number = re.fullmatch(r"[-+]?[0-9][0-9_,]*(\.[0-9_]*)?", text)
    if not text or number or text.lower() in ("true", "false", "yes", "no", "on", "off", "null", "~"):
        return f"'{text}'"
    if re.search(r"^[\s&*!|>'\"%@`#?{\[,-]|: | #|\s$", text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _tar_version() -> str:
    output = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=True).stdout
    return output.splitlines()[0]
