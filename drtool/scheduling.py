"""Write what makes cron or systemd run drtool on this host, and take it away again.

A file that somebody changed is theirs: it is left as it is, and that is said. Running this again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from drtool.core.command import Command
from drtool.core.schedule import Site, cron_file, cron_name, is_untouched, units
from drtool.errors import ConfigError, DrtoolError
from drtool.files import replace_file
from drtool.hosts import Runner

UNITS, CRON = PurePosixPath("etc/systemd/system"), PurePosixPath("etc/cron.d")
_MODE = 0o644
Action = Literal["written", "replaced", "unchanged", "kept", "removed", "absent"]


@dataclass(frozen=True, slots=True)
class Touched:
    """What became of a file; ``kept``: somebody changed it, so it was left as it is."""

    path: Path
    action: Action


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What was done, or with ``dry_run`` would be. ``commands`` were run after the files were in place, or before."""

    files: tuple[Touched, ...]
    commands: tuple[str, ...]
    timers: tuple[str, ...]
    dry_run: bool
    texts: dict[str, str]

    @property
    def kept(self) -> tuple[Path, ...]:
        return tuple(touched.path for touched in self.files if touched.action == "kept")


@dataclass(frozen=True, slots=True)
class Place:
    """``root`` is / but in tests, and for a disk that is mounted somewhere."""

    root: Path
    runner: Runner
    dry_run: bool = False

    def systemctl(self, *words: str) -> Command:
        offline = self.root != Path("/")
        return Command(("systemctl", *((f"--root={self.root}",) if offline else ()), *words))

    @property
    def is_running(self) -> bool:
        return self.root == Path("/")


def install_timers(site: Site, place: Place) -> Scheduled:
    """Write units and enable the timers. Raises ConfigError where cron does it already, CommandFailed, DrtoolError."""
    _refuse_other(place, CRON, [cron_name(site)], "`drtool install-timer --cron --remove` takes it away.")
    files = _write_all(place, UNITS, units(site))
    commands = [place.systemctl("daemon-reload")] if place.is_running else []
    commands.append(place.systemctl("enable", *(["--now"] if place.is_running else []), *site.timers))
    _run_all(place, commands)
    return Scheduled(files, tuple(map(str, commands)), site.timers, place.dry_run, units(site))


def install_cron(site: Site, place: Place) -> Scheduled:
    """Write a file for cron, which sees it by itself. Raises ConfigError where timers do it already, DrtoolError."""
    _refuse_other(place, UNITS, list(site.timers), "`drtool install-timer --remove` takes them away.")
    texts = {cron_name(site): cron_file(site)}
    return Scheduled(_write_all(place, CRON, texts), (), (), place.dry_run, texts)


def remove_timers(site: Site, place: Place) -> Scheduled:
    """Disable the timers and remove the units. Those that somebody changed stay, disabled. Raises CommandFailed."""
    there = [name for name in site.timers if _path(place, UNITS, name).exists()]
    commands = [place.systemctl("disable", *(["--now"] if place.is_running else []), *there)] if there else []
    _run_all(place, commands)
    files = _remove_all(place, UNITS, list(units(site)))
    if place.is_running and there:
        reload = place.systemctl("daemon-reload")
        _run_all(place, [reload])
        commands.append(reload)
    return Scheduled(files, tuple(map(str, commands)), site.timers, place.dry_run, {})


def remove_cron(site: Site, place: Place) -> Scheduled:
    return Scheduled(_remove_all(place, CRON, [cron_name(site)]), (), (), place.dry_run, {})


def _refuse_other(place: Place, directory: PurePosixPath, names: list[str], hint: str) -> None:
    for name in names:
        path = _path(place, directory, name)
        if path.exists():
            raise ConfigError(f"{path}: is there already, and everything would run twice", hint=hint)


def _write_all(place: Place, directory: PurePosixPath, texts: Mapping[str, str]) -> tuple[Touched, ...]:
    _make(place, directory)
    return tuple(_write(_path(place, directory, name), text, place.dry_run) for name, text in texts.items())


def _make(place: Place, directory: PurePosixPath) -> None:
    path = place.root / directory
    if not path.is_dir() and place.is_running:
        what = "systemd" if directory == UNITS else "cron"
        raise ConfigError(f"{path}: no such directory", hint=f"This host does not seem to have {what}; see --help.")
    if not place.dry_run:
        path.mkdir(parents=True, exist_ok=True)


def _write(path: Path, text: str, dry_run: bool) -> Touched:
    there = _read(path)
    if there == text:
        return Touched(path, "unchanged")
    if there is not None and not is_untouched(there):
        return Touched(path, "kept")
    if not dry_run:
        replace_file(path, text.encode(), mode=_MODE)
    return Touched(path, "written" if there is None else "replaced")


def _remove_all(place: Place, directory: PurePosixPath, names: list[str]) -> tuple[Touched, ...]:
    return tuple(_remove(_path(place, directory, name), place.dry_run) for name in names)


def _remove(path: Path, dry_run: bool) -> Touched:
    there = _read(path)
    if there is None:
        return Touched(path, "absent")
    if not is_untouched(there):
        return Touched(path, "kept")
    if not dry_run:
        path.unlink()
    return Touched(path, "removed")


def _read(path: Path) -> str | None:
    """None if it is not there. A link is no file of ours, whatever it leads to: systemd masks units by one."""
    try:
        return "" if path.is_symlink() else path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise DrtoolError(f"{path}: cannot be read: {problem.strerror}", hint="Run as root.") from problem


def _path(place: Place, directory: PurePosixPath, name: str) -> Path:
    return place.root / directory / name


def _run_all(place: Place, commands: list[Command]) -> None:
    if not place.dry_run:
        for command in commands:
            place.runner.run(command)
