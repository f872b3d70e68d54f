"""Where gitaly-backup keeps what: the layouts of 16.11: legacy (to 14.9), pointer (15.0 on), manifest (16.10 on)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """One bundle of a chain; paths are below the sink."""

    bundle: str
    refs: str
    hooks: str
    previous_refs: str = ""


@dataclass(frozen=True)
class Backup:
    """The chain of one repository: the first step is full, the others are increments."""

    identifier: str
    steps: list[Step] = field(default_factory=list)
    head: str = ""


class Layout(Protocol):
    """``storage`` and ``path`` name the repository; ``path`` ends in .git."""

    def begin(self, storage: str, path: str, identifier: str) -> Backup: ...

    def begin_increment(self, storage: str, path: str, identifier: str) -> Backup:
        """Add a step to the latest backup; a full one when there is none."""
        ...

    def commit(self, storage: str, path: str, backup: Backup) -> None: ...

    def find(self, storage: str, path: str, identifier: str) -> Backup | None:
        """The backup of that ID; of an empty ID, the latest."""
        ...


def layout(name: str, sink: Path) -> Layout:
    layouts: dict[str, Callable[[Path], Layout]] = {"manifest": Manifests, "pointer": Pointers, "legacy": Legacy}
    return layouts[name](sink)


class Manifests:
    """``manifests/S/P/B.toml`` lists the steps in ``S/P/B``; ``+latest.toml`` is a copy of the newest."""

    def __init__(self, sink: Path) -> None:
        self.sink = sink

    def begin(self, storage: str, path: str, identifier: str) -> Backup:
        return Backup(identifier, [self._step(storage, path, identifier, 1)])

    def begin_increment(self, storage: str, path: str, identifier: str) -> Backup:
        latest = self.find(storage, path, "")
        if latest is None:
            return self.begin(storage, path, identifier)
        step = self._step(storage, path, identifier, len(latest.steps) + 1)
        return Backup(identifier, [*latest.steps, replace(step, previous_refs=latest.steps[-1].refs)])

    def commit(self, storage: str, path: str, backup: Backup) -> None:
        lines = ["object_format = 'sha1'", f"head_reference = '{backup.head}'"]
        for step in backup.steps:
            lines += ["", "[[steps]]", f"bundle_path = '{step.bundle}'", f"ref_path = '{step.refs}'"]
            if step.previous_refs:
                lines.append(f"previous_ref_path = '{step.previous_refs}'")
            lines.append(f"custom_hooks_path = '{step.hooks}'")
        for name in (backup.identifier, "+latest"):
            write(self.sink / "manifests" / storage / path / f"{name}.toml", "\n".join(lines) + "\n")

    def find(self, storage: str, path: str, identifier: str) -> Backup | None:
        file = self.sink / "manifests" / storage / path / f"{identifier or '+latest'}.toml"
        return _read_manifest(file, identifier) if file.exists() else None

    @staticmethod
    def _step(storage: str, path: str, identifier: str, number: int) -> Step:
        stem = f"{storage}/{path}/{identifier}/{number:03d}"
        return Step(f"{stem}.bundle", f"{stem}.refs", f"{stem}.custom_hooks.tar")


class Pointers:
    """``R/LATEST`` names the ID, ``R/B/LATEST`` the last step; increments are written beside the first step."""

    def __init__(self, sink: Path) -> None:
        self.sink = sink

    def begin(self, storage: str, path: str, identifier: str) -> Backup:  # noqa: ARG002 - this layout has no storages
        return Backup(identifier, [self._step(path, identifier, 1)])

    def begin_increment(self, storage: str, path: str, identifier: str) -> Backup:
        latest = self.find(storage, path, "")
        if latest is None:
            return self.begin(storage, path, identifier)
        step = self._step(path, latest.identifier, len(latest.steps) + 1)
        return Backup(latest.identifier, [*latest.steps, replace(step, previous_refs=latest.steps[-1].refs)])

    def commit(self, storage: str, path: str, backup: Backup) -> None:  # noqa: ARG002 - as all of its kind
        stem = path.removesuffix(".git")
        write(self.sink / stem / backup.identifier / "LATEST", f"{len(backup.steps):03d}")
        write(self.sink / stem / "LATEST", backup.identifier)

    def find(self, storage: str, path: str, identifier: str) -> Backup | None:  # noqa: ARG002 - as all of its kind
        folder = self.sink / path.removesuffix(".git")
        if not identifier and (folder / "LATEST").exists():
            identifier = (folder / "LATEST").read_text()
        if not identifier or not (folder / identifier / "LATEST").exists():
            return None
        last = int((folder / identifier / "LATEST").read_text())
        return Backup(identifier, [self._step(path, identifier, number) for number in range(1, last + 1)])

    @staticmethod
    def _step(path: str, identifier: str, number: int) -> Step:
        stem = f"{path.removesuffix('.git')}/{identifier}/{number:03d}"
        return Step(f"{stem}.bundle", f"{stem}.refs", f"{stem}.custom_hooks.tar")


class Legacy:
    """``R.bundle``, ``R.refs``, ``R/custom_hooks.tar``: one backup, no IDs, no increments."""

    def __init__(self, sink: Path) -> None:
        self.sink = sink

    def begin(self, storage: str, path: str, identifier: str) -> Backup:  # noqa: ARG002 - as all of its kind
        stem = path.removesuffix(".git")
        return Backup(identifier, [Step(f"{stem}.bundle", f"{stem}.refs", f"{stem}/custom_hooks.tar")])

    def begin_increment(self, storage: str, path: str, identifier: str) -> Backup:
        return self.begin(storage, path, identifier)

    def commit(self, storage: str, path: str, backup: Backup) -> None:
        """Nothing to write: the files are the backup."""

    def find(self, storage: str, path: str, identifier: str) -> Backup | None:
        backup = self.begin(storage, path, identifier)
        return backup if (self.sink / backup.steps[0].refs).exists() else None


def _read_manifest(file: Path, identifier: str) -> Backup:
    head, steps = "", list[dict[str, str]]()
    for line in file.read_text().splitlines():
        if line == "[[steps]]":
            steps.append({})
        elif entry := re.fullmatch(r"(\w+) = '(.*)'", line):
            if steps:
                steps[-1][entry[1]] = entry[2]
            elif entry[1] == "head_reference":
                head = entry[2]
    chain = [
        Step(step["bundle_path"], step["ref_path"], step["custom_hooks_path"], step.get("previous_ref_path", ""))
        for step in steps
    ]
    return Backup(identifier, chain, head)


def write(path: Path, content: str | bytes) -> None:
    """Write a file of a backup: 0600 in directories of 0700, as gitaly-backup 16.11 does."""
    make_directory(path.parent)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def make_directory(path: Path) -> None:
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
