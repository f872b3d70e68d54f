"""backups/: choosing and unpacking an archive, packing one, sending it away, pruning, and cleaning up."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from resource import RLIMIT_FSIZE, setrlimit

from . import information
from .components import components_of
from .console import Console, Quit, RakeAborted, backup_error, die, wait_for
from .options import Options

_SUFFIX = "_gitlab_backup.tar"
_PRUNABLE = re.compile(r"^(\d{10})(_\d{4}_\d{2}_\d{2}(_\d+\.\d+\.\d+((-|\.)(pre|rc\d))?(-ee)?)?)?_gitlab_backup\.tar$")
_FULL_DISK = 70_000  # bytes that still fit


class Staging:
    """The backup directory of one run."""

    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.host = console.host
        self.options = options
        self.directory = self.host.backups

    def members(self) -> list[str]:
        """Names in the archive, in its order: the manifest is first since 14, and was last before (§2.2)."""
        members = [component.member for component in components_of(self.host)]
        if self.host.release >= (14, 0):
            return [information.FILE_NAME, *members]
        first = ["repositories", "db"]
        return [*first, *(member for member in members if member not in first), information.FILE_NAME]

    def unpack(self, wanted: str | None, hint: tuple[str, str]) -> None:
        """Lay the wanted archive's members loose; without a name the loose members, or the only archive."""
        unnamed = wanted is None or not wanted.strip()
        if unnamed and (self.directory / information.FILE_NAME).exists() and self.host.release >= (12, 0):
            self.console.say(f"Non tarred backup found in {self.directory}, using that")
            return
        archive = self._choose(wanted, hint)
        self.console.say("Unpacking backup ... ")
        self.console.phase("unpack")
        tar = subprocess.Popen(["tar", "-xf", str(archive)], cwd=self.directory, stdin=subprocess.DEVNULL)
        if wait_for(tar) != [0]:
            self.console.say("Unpacking backup failed", "error")
            raise Quit
        self.console.say("Unpacking backup ... done")

    def _choose(self, wanted: str | None, hint: tuple[str, str]) -> Path:
        archives = sorted(self.directory.glob(f"*{_SUFFIX}"))
        if not archives:
            self.console.say(f"No backups found in {self.directory}", "error")
            self.console.say(f"Please make sure that file name ends with {_SUFFIX}", "error")
            raise Quit
        if wanted is None and len(archives) > 1:
            self.console.say("Found more than one backup:", "warning")
            for archive in archives:
                self.console.say(f" {archive.name.removesuffix(_SUFFIX)}")
            for line in hint:
                self.console.say(line)
            raise Quit
        if wanted is None or not wanted.strip():  # set but empty: the first one, silently
            return archives[0]
        archive = self.directory / f"{Path(wanted).name}{_SUFFIX}"
        if not archive.exists():
            self.console.say(f"The backup file {archive.name} does not exist!", "error")
            raise Quit
        return archive

    def verify_version(self, manifest: information.Manifest) -> None:
        """End with 1 unless the manifest names exactly the installed version."""
        theirs = manifest.get("gitlab_version")
        if theirs == self.host.version:
            return
        self.console.say(
            "GitLab version mismatch:\n"
            f"  Your current GitLab version ({self.host.version}) differs from the GitLab version in the backup!\n"
            "  Please switch to the following version and try again:\n"
            f"  version: {theirs}",
            "error",
        )
        self.console.say(f"Hint: git checkout v{theirs}")
        raise Quit

    def pack(self, backup_id: str) -> Path:
        """Tar the members under the final name from the first byte on, so a failure leaves half an archive there."""
        archive = self.directory / f"{backup_id}{_SUFFIX}"
        self.console.say(f"Creating backup archive: {archive.name} ... ")
        present = [member for member in self.members() if self._packs(member)]
        command = ["tar", "--exclude=lost+found", f"--directory={self.directory}", "--create", "--file=-", *present]
        archive.unlink(missing_ok=True)
        archive.touch(mode=0o600)
        killed = self.host.switch("kill") == "pack"
        with archive.open("wb") as file:
            # Not a filter of ours in between: a signal to this process alone must not cut the archive (18.9).
            tar = subprocess.Popen(
                self._slowed(command, killed),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,  # swallowed by GitLab as well: the reason of a failure is never seen
                preexec_fn=_fill_the_disk if self.host.switch("disk_full") is True else None,
            )
            failed = wait_for(tar) != [0]
        if killed:
            die()
        if failed:
            self.console.say(f"Creating archive {archive.name} failed", "error")
            raise backup_error("Backup failed")
        self.console.say(f"Creating backup archive: {archive.name} ... done")
        self.console.phase("packed")
        return archive

    def _packs(self, member: str) -> bool:
        identifiers = {component.member: component for component in components_of(self.host)}
        component = identifiers.get(member)
        if component is not None and (self.options.skips(component.identifier) or not component.enabled(self.host)):
            return False
        return member != "repositories" or (self.directory / member).exists()

    def _slowed(self, command: list[str], killed: bool) -> list[str]:
        seconds = self.console.pause_in("pack")
        if not seconds and not killed:
            return command
        rest = "true" if killed else f"sleep {seconds}; cat"
        return ["sh", "-c", f'"$@" | {{ head -c 20480; {rest}; }}', "sh", *command]

    def upload(self, archive: Path) -> None:
        """Send the archive to the remote storage, which exists only as a switch."""
        remote = self.host.switch("upload")
        line = f"Uploading backup archive to remote storage {self.host.settings['remote_directory']} ... "
        if remote is None or self.options.skips("remote"):
            self.console.say(f"{line}[SKIPPED]")
            return
        self.console.say(line)
        self.console.phase("upload")
        if remote == "fails":
            message = f"Expected(200) <=> Actual(403 Forbidden) for {archive.name}"
            raise RakeAborted("Excon::Error::Forbidden", message)
        self.console.say(f"{line}done")

    def prune(self) -> None:
        """Remove archives older than keep_time, judged by their names alone."""
        keep = int(self.host.settings["keep_time"])
        if keep <= 0:
            self.console.say("Deleting old backups ... [SKIPPED]")
            return
        self.console.say("Deleting old backups ... ")
        removed = 0
        for archive in sorted(self.directory.glob(f"*{_SUFFIX}")):
            name = _PRUNABLE.match(archive.name)
            if name is not None and time.time() - int(name[1]) > keep:
                archive.unlink()
                removed += 1
        self.console.say(f"Deleting old backups ... done. ({removed} removed)")

    def clean(self) -> None:
        """Delete loose members, each with a line; only those that are there."""
        self.console.say("Deleting tar staging files ... ")
        for member in self._all_members():
            path = self.directory / member
            if not path.exists():
                continue
            self.console.say(f"Cleaning up {path}")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.console.say("Deleting tar staging files ... done")

    def _all_members(self) -> list[str]:
        return [information.FILE_NAME, *(component.member for component in components_of(self.host))]

    def delete_temporary(self) -> None:
        """Delete backups/tmp and with it whatever was moved aside."""
        self.console.say("Deleting backups/tmp ... ")
        shutil.rmtree(self.directory / "tmp", ignore_errors=True)
        self.console.say("Deleting backups/tmp ... done")


def _fill_the_disk() -> None:
    """Run in the child: files cannot grow further, and tar sees a write error instead of a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    setrlimit(RLIMIT_FSIZE, (_FULL_DISK, _FULL_DISK))
