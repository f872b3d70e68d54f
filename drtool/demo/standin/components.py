"""The file components: a directory each, as one compressed tarball."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .console import Console, RakeAborted, backup_error, missing_file, wait_for
from .options import Options
from .settings import Host


@dataclass(frozen=True)
class Component:
    """``directory`` is below var/opt/gitlab; ``since`` is the first release that has it."""

    identifier: str
    human_name: str
    directory: str = ""
    excluded: str = ""
    since: tuple[int, int] = (0, 0)

    @property
    def member(self) -> str:
        """Its name in the archive."""
        return {"db": "db", "repositories": "repositories"}.get(self.identifier, f"{self.identifier}.tar.gz")

    def enabled(self, host: Host) -> bool:
        return self.identifier != "registry" or bool(host.settings["registry"])


_SHARED = "gitlab-rails/shared"
COMPONENTS = (
    Component("db", "database"),
    Component("repositories", "repositories"),
    Component("uploads", "uploads", "gitlab-rails/uploads", "tmp"),
    Component("builds", "builds", "gitlab-ci/builds"),
    Component("artifacts", "artifacts", f"{_SHARED}/artifacts", "tmp"),
    Component("pages", "pages", f"{_SHARED}/pages", "@pages.tmp"),
    Component("lfs", "lfs objects", f"{_SHARED}/lfs-objects"),
    Component("terraform_state", "terraform states", f"{_SHARED}/terraform_state", since=(13, 0)),
    Component("registry", "container registry images", f"{_SHARED}/registry"),
    Component("packages", "packages", f"{_SHARED}/packages", "tmp", since=(13, 5)),
    Component("ci_secure_files", "ci secure files", f"{_SHARED}/ci_secure_files", "tmp", since=(16, 1)),
    Component("external_diffs", "external diffs", f"{_SHARED}/external-diffs", since=(17, 1)),
)


def components_of(host: Host) -> list[Component]:
    return [component for component in COMPONENTS if host.release >= component.since]


def dump(component: Component, console: Console, options: Options) -> bool:
    """Pack a directory into its tarball. False when tar or the compressor failed; what they wrote stays."""
    host = console.host
    source = host.data / component.directory
    target = host.backups / component.member
    if not source.is_dir():
        # Not a failed component but the end of the run (18.9): the path is resolved before tar is started.
        message = f"No such file or directory @ rb_check_realpath_internal - {source}"
        raise RakeAborted("Errno::ENOENT", message)
    if options.copy:
        source = _copy(source, host.backups / source.name, component.excluded)
    try:
        succeeded = _pack(component, source, target, console, options)
    finally:
        if options.copy:
            shutil.rmtree(source)
    if not succeeded:
        console.say(
            f"Dumping {component.human_name} failed: Failed to create compressed file '{target}' "
            f"when trying to backup the following paths: '{host.data / component.directory}'",
            "error",
        )
    return succeeded


def _pack(component: Component, source: Path, target: Path, console: Console, options: Options) -> bool:
    host = console.host
    excluded = [f"--exclude=./{component.excluded}"] if component.excluded else []
    # A file that is not there gives the status 2 of an unreadable one, also to root, who can read everything.
    unreadable = ["./unreadable"] if host.switch("tar_fails") == component.identifier else []
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    output = Path("/dev/full") if host.switch("disk_full") == component.identifier else target
    with output.open("wb") as file:
        archiving = subprocess.Popen(
            ["tar", "--exclude=lost+found", *excluded, "-C", str(source), "-cf", "-", ".", *unreadable],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        compressing = subprocess.Popen(
            ["sh", "-c", options.compress], stdin=archiving.stdout, stdout=file, stderr=subprocess.DEVNULL
        )
        if archiving.stdout is not None:
            archiving.stdout.close()
        tar, compressor = wait_for(archiving, compressing)
    if tar == 0 and host.switch("tar_changes") == component.identifier:
        tar = 1
    if tar == 1 and compressor == 0:
        console.say("Ignoring tar exit status 1 'Some files differ': tar: .: file changed as we read it", "warning")
        return True
    return tar == 0 and compressor == 0


def _copy(source: Path, copy: Path, excluded: str) -> Path:
    shutil.rmtree(copy, ignore_errors=True)
    ignore = shutil.ignore_patterns(excluded) if excluded else None
    shutil.copytree(source, copy, symlinks=True, ignore=ignore)
    return copy


def restore(component: Component, console: Console, options: Options) -> None:
    """Move what is there aside (into backups/tmp, which does not last), then unpack."""
    host = console.host
    target = host.data / component.directory
    _move_aside(target, host)
    tarball = host.backups / component.member
    if not tarball.exists():
        raise missing_file(tarball)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarball.open("rb") as file:
        reading = subprocess.Popen(["sh", "-c", options.decompress], stdin=file, stdout=subprocess.PIPE)
    unpacking = subprocess.Popen(
        ["tar", "--unlink-first", "--recursive-unlink", "-C", str(target), "-xf", "-"],
        stdin=reading.stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    if reading.stdout is not None:
        reading.stdout.close()
    complaint = unpacking.stderr.read() if unpacking.stderr is not None else ""
    if wait_for(reading, unpacking) != [0, 0]:
        raise backup_error(f"Restore operation failed: {complaint.strip()}")


def _move_aside(directory: Path, host: Host) -> None:
    if not directory.is_dir():
        return
    aside = host.backups / "tmp" / f"{directory.name}.{int(time.time())}"
    aside.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for entry in sorted(directory.iterdir()):
            shutil.move(entry, aside / entry.name)
    except PermissionError as error:
        message = (
            f"\n### NOTICE ###\nThe existing content of {directory} could not be moved out of the way: it holds files\n"
            "of another user. Move it to a secure place, so that the directory is empty, and restore again.\n"
        )
        raise RakeAborted("RuntimeError", message) from error
