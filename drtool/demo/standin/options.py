"""What a run was asked to do: environment variables, also given as ``NAME=value`` arguments of rake."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .console import truthy
from .settings import Host

# The order in which 18.9 writes :skipped; unknown words are dropped without a word.
SKIPPABLE = (
    "tar", "remote", "db", "uploads", "builds", "artifacts", "lfs", "terraform_state", "registry", "pages",
    "repositories", "packages", "ci_secure_files", "external_diffs",
)  # fmt: skip


@dataclass
class Options:
    """Lists are empty when unset. ``merge`` takes over what a backup's manifest says, as GitLab does."""

    backup: str | None
    previous_backup: str | None
    incremental: bool
    raw_skip: str | None
    skipped: set[str] = field(default_factory=set)
    storages: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    skip_paths: list[str] = field(default_factory=list)
    force: bool = False
    copy: bool = False
    compress: str = ""
    decompress: str = ""

    @classmethod
    def from_environment(cls, host: Host) -> Options:
        environment = os.environ
        modern_force = host.release >= (16, 0)
        force = environment.get("force") or (environment.get("FORCE") if modern_force else None)
        rsyncable = " --rsyncable" if truthy(environment.get("GZIP_RSYNCABLE")) else ""
        return cls(
            backup=environment.get("BACKUP"),
            previous_backup=environment.get("PREVIOUS_BACKUP"),
            incremental=truthy(environment.get("INCREMENTAL")),
            raw_skip=environment.get("SKIP"),
            skipped=set(_words(environment.get("SKIP"))),
            storages=_words(environment.get("REPOSITORIES_STORAGES")),
            paths=_words(environment.get("REPOSITORIES_PATHS")),
            skip_paths=_words(environment.get("SKIP_REPOSITORIES_PATHS")),
            force=truthy(force) if modern_force else force == "yes",
            copy=environment.get("STRATEGY") == "copy",
            compress=environment.get("COMPRESS_CMD") or f"gzip{rsyncable} -c -1",
            decompress=environment.get("DECOMPRESS_CMD") or "gzip -cd",
        )

    def skips(self, word: str) -> bool:
        return word in self.skipped

    @property
    def normalised_skip(self) -> str:
        return ",".join(word for word in SKIPPABLE if word in self.skipped)

    def merge(self, manifest: dict[str, str | None]) -> None:
        """Take over the base's or the archive's own lists, once and for all (also into increments, 18.9)."""
        self.skipped |= set(_words(manifest.get("skipped")))
        self.storages = self.storages or _words(manifest.get("repositories_storages"))
        self.paths = self.paths or _words(manifest.get("repositories_paths"))
        self.skip_paths = self.skip_paths or _words(manifest.get("skip_repositories_paths"))


def _words(value: str | None) -> list[str]:
    return [word for word in (value or "").split(",") if word]
