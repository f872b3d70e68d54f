"""Where on this host things are that run by themselves, read off the configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from drtool.app import App
from drtool.config import SEARCHED
from drtool.config_stores import SECRETS_OF_STORES, LocalStoreTable
from drtool.core.schedule import Site
from drtool.errors import ConfigError

_PRIVATE = (PurePosixPath("/tmp"), PurePosixPath("/var/tmp"))  # noqa: S108 - nothing is written there


def site_of(app: App, root: Path, *, named: bool, metrics: Path | None, program: Path | None = None) -> Site:
    """The site of an instance; ``root`` is what is / on the host. Raises ConfigError for what units cannot reach.

    ``named``: it is one of several, or may be one day. ``program``: what is run; None is the drtool that runs now.
    """
    table = app.instance
    config = _below(app.path.absolute(), root)
    several = named or len(app.config.instance) > 1
    site = Site(
        program=PurePosixPath(_program(program)),
        config=None if config == PurePosixPath(SEARCHED[-1]) else config,
        instance=table.name if several else None,
        state=PurePosixPath(app.config.state_dir),
        gitlab=PurePosixPath(table.prefix),
        backups=PurePosixPath(table.backup_path) if table.backup_path else None,
        stores=tuple(_directories(app)),
        metrics=PurePosixPath(metrics.absolute()) if metrics else None,
    )
    for path in filter(None, (site.program, config, site.state, *site.stores, site.backups, site.metrics)):
        for private in _PRIVATE:
            if path.is_relative_to(private):
                raise ConfigError(
                    f"{path}: what systemd runs has a {private} of its own", hint="Move it to another directory."
                )
    return site


def missing_references(app: App) -> list[str]:
    """References of this instance to variables of the environment: of this one, which nobody sets at night."""
    return sorted({reference for reference in _references(app) if reference.startswith("env:")})


def _references(app: App) -> Iterator[str]:
    for store in _stores(app):
        for name in SECRETS_OF_STORES:
            if reference := getattr(app.config.store[store], name, None):
                yield reference
    notify = app.instance.notify
    yield from (*notify.urls, *([notify.ping_url] if notify.ping_url else []))


def _stores(app: App) -> list[str]:
    return [app.instance.store, *(copied.store for copied in app.instance.copies)]


def _directories(app: App) -> Iterator[PurePosixPath]:
    for name in _stores(app):
        store = app.config.store[name]
        if isinstance(store, LocalStoreTable):
            yield PurePosixPath(store.path)


def _program(named: Path | None) -> Path:
    """The drtool that is running, by the name that it was called by: a link to it outlives an upgrade."""
    path = (named or Path(sys.argv[0])).absolute()
    if not path.is_file():
        raise ConfigError(f"{path}: is not drtool's program", hint="Run the command drtool itself.")
    return path


def _below(path: Path, root: Path) -> PurePosixPath:
    root = root.absolute()
    return PurePosixPath("/") / path.relative_to(root) if path.is_relative_to(root) else PurePosixPath(path)
