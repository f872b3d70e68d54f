"""The manifest that Gitaly writes for a repository (16.6 on): TOML that lists the steps of its backup."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any, Final

from drtool.errors import SetDamaged

_OBJECT_FORMATS: Final = ("sha1", "sha256")


@dataclass(frozen=True, slots=True)
class Key:
    """Which repository; ``path`` ends in .git. Layouts before the manifests know no storage."""

    storage: str
    path: str

    def __str__(self) -> str:
        return f"{self.storage}/{self.path}" if self.storage else self.path


@dataclass(frozen=True, slots=True)
class Chain:
    """One repository's steps, first the full one, as names without ending; ``empty`` is None where nobody says so."""

    key: Key
    stems: tuple[str, ...]
    object_format: str = ""
    head: str = ""
    empty: bool | None = None
    non_existent: bool = False
    has_refs: bool = True


def read_manifest(key: Key, content: bytes) -> Chain:
    """Read a repository's manifest. SetDamaged, without the repository's name, for one that says too little."""
    try:
        fields = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise SetDamaged(f"its manifest is not understood: {problem}") from problem
    # Both came with GitLab 17.5 (Gitaly's change 7315).
    non_existent, empty = _flag(fields, "non_existent"), _flag(fields, "empty")
    if fields.get("object_format", "") not in _OBJECT_FORMATS and not non_existent:
        raise SetDamaged(f"its manifest names no object format: {fields.get('object_format')!r}")
    head = fields.get("head_reference", "")
    steps = fields.get("steps", [])
    if not isinstance(head, str) or not isinstance(steps, list):
        raise SetDamaged("its manifest is not understood: head_reference or steps")
    stems = tuple(_stem(key, step, empty) for step in steps)
    return Chain(key, stems, fields.get("object_format", ""), head, empty, bool(non_existent))


def _flag(fields: dict[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise SetDamaged(f"its manifest says {name} = {str(value)[:40]!r}")
    return value


def _stem(key: Key, step: object, empty: bool | None) -> str:
    """Take what bundle and refs of a step are called, without their endings. An empty repository has no bundle."""
    fields = step if isinstance(step, dict) else {}
    bundle, refs = str(fields.get("bundle_path", "")), str(fields.get("ref_path", ""))
    stem = refs.removesuffix(".refs")
    if not refs or (bundle.removesuffix(".bundle") != stem and (bundle or not empty)):
        raise SetDamaged("its manifest has a step without bundle and refs")
    if not stem.startswith((f"{key}/", f"{key.path.removesuffix('.git')}/")):
        raise SetDamaged(f"its manifest leads to {stem}")
    return stem
