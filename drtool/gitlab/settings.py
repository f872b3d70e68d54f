"""What GitLab's rendered configuration says, as far as a restore depends on it.

The Linux package renders it from ``gitlab.rb`` at each reconfigure: gitlab.yml, database.yml, Gitaly's config.toml.
All three hold secrets. None is kept here, and no part of them gets into an error: what is not understood is None.
Sources: omnibus-gitlab's templates, 11 to 18; GitLab 18.9 for the object storage that all components share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from drtool.core.host import Settings

_STORED: Final = (
    "artifacts", "external_diffs", "lfs", "uploads", "packages", "terraform_state", "pages", "ci_secure_files",
)  # fmt: skip
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def parse_settings(gitlab_yml: str | None, database_yml: str | None) -> Settings | None:
    """Read what is there of the two; None if neither can be understood."""
    gitlab, database = _production(gitlab_yml), _production(database_yml)
    if gitlab is None and database is None:
        return None
    registry = _at(gitlab, "registry", "enabled")
    storages = _at(gitlab, "repositories", "storages")
    path = _at(gitlab, "backup", "path")
    named = storages if isinstance(storages, dict) else {}
    return Settings(
        registry=registry if isinstance(registry, bool) else None,
        storages=tuple(sorted(map(str, named))) or None,
        remote_storages=tuple(sorted(str(name) for name, storage in named.items() if _is_remote(storage))),
        object_storage=tuple(sorted(_in_object_storage(gitlab or {}))),
        database_host=_database_host(database),
        backup_path=path if isinstance(path, str) and path.startswith("/") else None,
    )


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """What GitLab's own backup is told. ``keep_time`` in seconds, 0 for ever; ``uploads``: archives go to a bucket."""

    path: str | None
    keep_time: int
    uploads: bool


def parse_backup_settings(gitlab_yml: str) -> BackupSettings | None:
    """Read them; None if the file cannot be understood."""
    gitlab = _production(gitlab_yml)
    if gitlab is None:
        return None
    path, keep = _at(gitlab, "backup", "path"), _at(gitlab, "backup", "keep_time")
    return BackupSettings(
        path=path if isinstance(path, str) and path else None,
        keep_time=keep if isinstance(keep, int) else 0,
        uploads=bool(_at(gitlab, "backup", "upload", "connection")),
    )


def parse_storage_paths(gitaly_toml: str | None) -> dict[str, str]:
    """Read the directory of every storage that this host's Gitaly serves; empty if that cannot be understood."""
    import tomllib

    try:
        found = tomllib.loads(gitaly_toml or "").get("storage")
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    tables = [table for table in found if isinstance(table, dict)] if isinstance(found, list) else []
    paths = {str(table.get("name")): str(table.get("path")) for table in tables}
    return {name: path for name, path in paths.items() if path.startswith("/")}


def _production(text: str | None) -> dict[str, Any] | None:
    import yaml  # paid for by those who look at a target

    try:
        document = yaml.safe_load(text or "")
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    found = document.get("production") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else None


def _at(table: object, *names: str) -> object:
    for name in names:
        table = table.get(name) if isinstance(table, dict) else None
    return table


def _is_remote(storage: object) -> bool:
    address = _at(storage, "gitaly_address")
    return isinstance(address, str) and not address.startswith("unix:") and not _is_loopback(address)


def _is_loopback(address: str) -> bool:
    host = address.partition("://")[2].rpartition(":")[0].strip("[]")
    return host in _LOOPBACK


def _in_object_storage(gitlab: Mapping[str, Any]) -> Iterator[str]:
    shared = _at(gitlab, "object_store")
    for name in _STORED:
        own = _at(gitlab, name, "object_store", "enabled")
        of_all = _at(shared, "objects", name)
        by_all = _at(shared, "enabled") is True and isinstance(of_all, dict)
        if own is True or (by_all and _at(of_all, "enabled") is not False and _at(of_all, "bucket")):
            yield name


def _database_host(database: dict[str, Any] | None) -> str | None:
    """Empty for one on this host. Since 15.0 there are several databases in the file, ``main`` always."""
    if database is None:
        return None
    main = _at(database, "main")
    table = main if isinstance(main, dict) else database
    host = table.get("host")
    if host is None or host == "":
        return "" if table.get("adapter") else None
    return "" if str(host).startswith("/") or str(host) in _LOOPBACK else str(host)
