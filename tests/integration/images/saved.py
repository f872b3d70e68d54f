"""Images kept as files outside of git, for an engine that has lost them or never had them."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

from docker.errors import DockerException


def directory() -> Path:
    """Where tests keep what takes long to make and fits no repository."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "drtool-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def load(client: Any, tag: str) -> bool:
    """Load a saved image. False when there is none that can be used."""
    path = _path(tag)
    if not path.exists():
        return False
    try:
        with gzip.open(path) as content:
            client.images.load(iter(lambda: content.read(1 << 20), b""))
        client.images.get(tag)
    except (OSError, EOFError, DockerException):
        path.unlink(missing_ok=True)  # damaged: made again
        return False
    return True


def save(client: Any, tag: str) -> None:
    path = _path(tag)
    new = path.with_suffix(f".{os.getpid()}")
    with gzip.open(new, "wb", compresslevel=1) as target:
        for chunk in client.images.get(tag).save(chunk_size=1 << 20, named=tag):
            target.write(chunk)
    shutil.move(new, path)
    for older in path.parent.glob(f"{path.name.partition('-')[0]}-*.tar.gz"):
        if older != path:
            older.unlink(missing_ok=True)


def _path(tag: str) -> Path:
    return directory() / f"{tag.rpartition('/')[2].replace(':', '-')}.tar.gz"
