"""Bring exactly the GitLab that a backup set needs onto a host, and keep it from being upgraded.

May be done again after any interruption: what is there is looked at anew, nothing is remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, assert_never

from drtool.clock import Clock, SystemClock
from drtool.core.command import Command
from drtool.core.packages import FromHere, FromHost, FromRepository, FromStore, Package, PackageSource
from drtool.core.versions import same_version
from drtool.errors import Busy, CommandFailed, ConfigError, DrtoolError, HostUnfit, SetDamaged
from drtool.events import Emit, HostSaid, Noticed, Progress, Waiting, ignore
from drtool.hosts import Runner
from drtool.installs import package_failures as failures
from drtool.installs import packages
from drtool.installs.omnibus import Omnibus
from drtool.installs.packages import Installed, Manager
from drtool.stores import Store
from drtool.streams import CHUNK
from drtool.survey import look_at_version

PHASE: Final = "install"
_PAUSE: Final = timedelta(seconds=5)
_PLACE = PurePosixPath("/var/cache/drtool")  # its parent is root's alone; apt's own user has to read in it
_ASIDE = "gitlab.rb.drtool-aside"


@dataclass(frozen=True, slots=True)
class HostPackages:
    """What a host's package manager is, and which packages of GitLab it knows."""

    manager: Manager
    architecture: str
    installed: tuple[Installed, ...]

    def find(self, package: Package) -> Installed | None:
        """This very version, whatever its state; None if it is not there."""
        return next((one for one in self.installed if packages.is_package(one, package)), None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``changed`` is False when all was there already. ``held``: nothing upgrades it until ``release_package``."""

    package: Package
    changed: bool
    held: bool


def look_at_packages(runner: Runner) -> HostPackages:
    """Look, and change nothing. Raises HostUnfit for a host without apt and dnf, or with a broken package database."""
    try:
        manager = packages.manager_of(_text(runner, packages.read_os_release()))
        architecture = _text(runner, packages.architecture(manager)).strip()
        installed = packages.parse_installed(manager, _text(runner, packages.list_installed(manager)))
    except CommandFailed as problem:
        raise HostUnfit(
            f"{runner.name} does not tell which packages it has: {problem}",
            hint="drtool installs on hosts with apt or dnf; on others install GitLab by hand.",
        ) from problem
    return HostPackages(manager, architecture, installed)


def refuse_unfit(package: Package, found: HostPackages, runner: Runner) -> None:
    """Raise VersionMismatch when the host has another GitLab, before anything is touched."""
    packages.refuse_other(package, found.installed, runner.name)


def install_package(
    runner: Runner,
    package: Package,
    source: PackageSource,
    emit: Emit,
    clock: Clock,
    *,
    install: Omnibus,
    store: Store | None = None,
    patience: timedelta = timedelta(minutes=30),
    phase: str = PHASE,
) -> Outcome:
    """Install it, hold it, and see by the package database and GitLab's own VERSION file that it is what it must be.

    GitLab is not configured or started by this; a gitlab.rb that was there is there afterwards. Waits for another
    package manager for ``patience``, then Busy. Raises HostUnfit, VersionMismatch, SetDamaged for a file with another
    digest, CommandFailed with what the package manager said, ConfigError, and what the store raises.
    """
    work = _Work(runner, package, emit, clock, install, store, patience, phase)
    found = look_at_packages(runner)
    refuse_unfit(package, found, runner)
    present = found.find(package)
    changed = present is None or present.state != "installed"
    if changed:
        with work.config_aside():
            work.install(found, source)
    else:
        work.bring_config_back()
    return Outcome(package, changed, work.prove_and_hold())


def release_package(
    runner: Runner,
    package: Package,
    emit: Emit = ignore,
    clock: Clock | None = None,
    *,
    patience: timedelta = timedelta(minutes=30),
    phase: str = "release",
) -> None:
    """Allow upgrades again; nothing happens when it was not held. Raises Busy, and what the package manager said."""
    work = _Work(runner, package, emit, clock or SystemClock(), Omnibus(), None, patience, phase)
    work.release(look_at_packages(runner).manager)


@dataclass(frozen=True)
class _Work:
    """One installation, and what its parts share."""

    runner: Runner
    package: Package
    emit: Emit
    clock: Clock
    gitlab: Omnibus
    store: Store | None
    patience: timedelta
    phase: str

    def install(self, found: HostPackages, source: PackageSource) -> None:
        match source:
            case FromRepository():
                self._install_offered(found)
            case FromHost():
                if source.sha256:
                    self._prove_digest(source.path, source.sha256, str(source))
                self._install_file(found, source.path, str(source))
            case FromHere() | FromStore():
                place = _PLACE / packages.file_name(found.manager, self.package)
                if not self._has_arrived(source, place):
                    self._send(source, place)
                self._install_file(found, place, str(source))
                self.runner.run(Omnibus.remove(place.parent, (place.name,)))
            case _:
                assert_never(source)

    def prove_and_hold(self) -> bool:
        found = look_at_packages(self.runner)
        present = found.find(self.package)
        if present is None or present.state != "installed":
            state = present.state if present else "not there"
            raise HostUnfit(
                f"{self.package} is {state} on {self.runner.name} after its installation ended well",
                hint="Look at the host's package manager.",
            )
        same_version(self.package.text, self._look_inside())
        held = present.held or self._hold(found.manager, present)
        if not held:
            self.emit(
                Noticed(
                    "not-held",
                    f"{self.package} is not kept from being upgraded on {self.runner.name}",
                    "Install dnf's plugin versionlock there, or let nothing upgrade it until the restore is done.",
                )
            )
        return held

    def _look_inside(self) -> str:
        try:
            return look_at_version(self.gitlab, self.runner)
        except HostUnfit as problem:
            raise HostUnfit(
                f"{self.package} is installed on {self.runner.name}, and {self.gitlab.version_file} cannot be read",
                hint=f"Files of it were removed: remove {self.package.name} on the host, then run this again.",
            ) from problem

    @contextmanager
    def config_aside(self) -> Iterator[None]:
        """Keep gitlab.rb out of the package's sight: with a URL from it, it would configure and start GitLab."""
        config, aside = self.gitlab.config_file, self._aside
        # With one put aside by a run that was killed, what lies there now is the package's own.
        if self._exists(config) and not self._exists(aside):
            self.runner.run(Command(("mv", "--no-target-directory", "--", str(config), str(aside))))
        try:
            yield
        except BaseException:
            with suppress(DrtoolError):  # what went wrong first is what to tell; the next run brings it back
                self.bring_config_back()
            raise
        self.bring_config_back()

    def bring_config_back(self) -> None:
        """Do so if it is aside, over what the package made instead."""
        if self._exists(self._aside):
            words = ("mv", "--force", "--no-target-directory", "--", str(self._aside), str(self.gitlab.config_file))
            self.runner.run(Command(words))

    @property
    def _aside(self) -> PurePosixPath:
        return self.gitlab.config_file.with_name(_ASIDE)

    def _install_offered(self, found: HostPackages) -> None:
        """Install from the repositories, with lists that are old where they cannot be refreshed."""
        stale: DrtoolError | None = None
        if found.manager == "apt":
            said, failed = self._attempt(packages.refresh())
            stale = failures.failure_of(self.package, self.runner.name, said, failed) if failed else None
        listed = self._must(packages.list_offered(found.manager, self.package))
        offers = packages.parse_offered(found.manager, listed, self.package)
        try:
            operand = packages.choose(found.manager, offers, self.package, found.architecture)
        except HostUnfit as missing:
            raise stale or missing from stale
        if stale:
            self.emit(Noticed("old-package-lists", f"{self.runner.name}: not all package lists are new: {stale}"))
        self._install_operand(found.manager, operand)

    def _install_file(self, found: HostPackages, path: PurePosixPath, name: str) -> None:
        described = self._must(packages.describe_file(found.manager, path))
        packages.judge_file(described, self.package, found.architecture, name)
        self._install_operand(found.manager, str(path))

    def _install_operand(self, manager: Manager, operand: str) -> None:
        command = packages.install(manager, operand)
        said, failed = self._attempt(command)
        if failed and failures.was_interrupted(said):
            self._attempt(packages.finish_interrupted())  # if it cannot, the next line says why
            said, failed = self._attempt(command)
        if failed and failures.was_held(said):
            # A hold of what is not there, or not whole: it is for this very package to be changed, and then held again.
            self._must(packages.unhold_commands(manager, self.package)[0])
            said, failed = self._attempt(command)
        if failed and manager == "apt" and operand.startswith("/") and failures.lacks_dependencies(said):
            self._attempt(packages.refresh())  # a fresh host has no lists; without a network it stays as it is
            said, failed = self._attempt(command)
        if failed:
            raise failures.failure_of(self.package, self.runner.name, said, failed) from failed

    def _has_arrived(self, source: FromHere | FromStore, place: PurePosixPath) -> bool:
        """Whether an earlier try sent it, and failed later."""
        return source.sha256 is not None and self._exists(place) and self._digest(place, str(source)) == source.sha256

    def _send(self, source: FromHere | FromStore, place: PurePosixPath) -> None:
        """Bring a package file to the host, its digest compared there; the name means that it is whole."""
        partial = place.with_name(place.name + ".part")
        digest = hashlib.sha256()
        self.runner.run(Omnibus.make_directory(place.parent, mode=0o755))
        with self._open(source) as (stream, size), self._writing(partial) as sink:
            done = 0
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                sink.write(chunk)
                done += len(chunk)
                self.emit(Progress(self.phase, done, size))
        _compare(digest.hexdigest(), source.sha256, str(source))
        self._prove_digest(partial, digest.hexdigest(), f"what arrived of {source}")
        self.runner.run(Command(("mv", "--force", "--no-target-directory", "--", str(partial), str(place))))

    @contextmanager
    def _writing(self, path: PurePosixPath) -> Iterator[BinaryIO]:
        try:
            with self.runner.write_to(Command(("dd", f"of={path}", "bs=1M", "status=none"))) as sink:
                yield sink
        except CommandFailed as failed:  # most of all: no room
            raise failures.failure_of(self.package, self.runner.name, failed.stderr, failed) from failed

    @contextmanager
    def _open(self, source: FromHere | FromStore) -> Iterator[tuple[BinaryIO, int]]:
        match source:
            case FromHere():
                try:
                    file = Path(source.path).open("rb")  # noqa: SIM115 - closed below, when its errors are told apart
                except OSError as problem:
                    raise ConfigError(
                        f"{source.path}: cannot be read: {problem.strerror}", hint="Give the package file."
                    ) from problem
                with file:
                    yield file, Path(source.path).stat().st_size
            case FromStore():
                if self.store is None:
                    raise ConfigError(
                        f"{source}: there is no store", hint="Configure the store that holds the package."
                    )
                size = self.store.stat(source.key).size
                with self.store.open(source.key) as stream:
                    yield stream, size
            case _:
                assert_never(source)

    def _prove_digest(self, path: PurePosixPath, sha256: str, name: str) -> None:
        _compare(self._digest(path, name), sha256, name)

    def _digest(self, path: PurePosixPath, name: str) -> str:
        try:
            output = _text(self.runner, Command(("sha256sum", "--", str(path)), timedelta(minutes=30)))
        except CommandFailed as problem:
            raise HostUnfit(
                f"{name} cannot be read on {self.runner.name}: {problem}", hint="Check the path."
            ) from problem
        return output.split(maxsplit=1)[0].lstrip("\\")

    def release(self, manager: Manager) -> None:
        if manager == "apt" or self._is_locked_by_dnf():
            for command in packages.unhold_commands(manager, self.package):
                self._must(command)

    def _hold(self, manager: Manager, present: Installed) -> bool:
        """Hold it, and see that it is held: only apt has that built in."""
        said, failed = self._attempt(packages.hold(manager, self.package, present.version))
        if failed and failures.lacks_command(said):
            return False
        if failed:
            raise failures.failure_of(self.package, self.runner.name, said, failed) from failed
        if manager == "dnf":
            return self._is_locked_by_dnf()
        now = look_at_packages(self.runner).find(self.package)
        return now is not None and now.held

    def _is_locked_by_dnf(self) -> bool:
        said, failed = self._attempt(packages.list_held())
        if failed and not failures.lacks_command(said):
            raise failures.failure_of(self.package, self.runner.name, said, failed) from failed
        return failed is None and packages.is_held(said, self.package)

    def _exists(self, path: PurePosixPath) -> bool:
        try:
            self.runner.run(Command(("test", "-e", str(path))))
        except CommandFailed as problem:
            if problem.status == 1:
                return False
            raise
        return True

    def _must(self, command: Command) -> str:
        said, failed = self._attempt(command)
        if failed:
            raise failures.failure_of(self.package, self.runner.name, said, failed) from failed
        return said

    def _attempt(self, command: Command) -> tuple[str, CommandFailed | None]:
        """Run a package manager, as often as another one keeps it out. Returns what it said. Raises Busy."""
        deadline = self.clock.monotonic() + self.patience.total_seconds()
        while True:
            said, failed = self._try(command)
            locked = failures.locked_out(said) if failed else ""
            if not locked:
                return said, failed
            reason = f"another package manager is at work: {locked}"
            if self.clock.monotonic() >= deadline:
                raise Busy(
                    f"{self.runner.name}: {reason}",
                    hint="Wait until it is done, or stop it (often unattended-upgrades); then run this again.",
                )
            self.emit(Waiting(self.phase, reason))
            self.clock.sleep(_PAUSE)

    def _try(self, command: Command) -> tuple[str, CommandFailed | None]:
        # Both streams in one: dpkg tells the cause on one, and what it meant on the other.
        together = Command(("sh", "-c", 'exec "$@" 2>&1', packages.shown(command), *command.argv), command.timeout)
        kept: list[str] = []
        failed = None
        try:
            with self.runner.read_from(together) as output:
                for line in _lines(output):
                    kept.append(line)
                    self.emit(HostSaid(self.phase, failures.without_credentials(line)))
        except CommandFailed as problem:
            failed = problem
        return "\n".join(kept), failed


def _compare(found: str, wanted: str | None, name: str) -> None:
    if wanted is not None and found != wanted:
        raise SetDamaged(
            f"{name}: its SHA-256 is {found} and not {wanted}",
            hint="Fetch the package again; install nothing of this one.",
        )


def _lines(stream: BinaryIO) -> Iterator[str]:
    rest = b""
    while chunk := stream.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode("utf-8", "replace").rstrip("\r")


def _text(runner: Runner, command: Command) -> str:
    return runner.run(command).decode("utf-8", "replace")
