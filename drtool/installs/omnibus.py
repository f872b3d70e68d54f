"""What to run, and where things are, on a GitLab of the Linux package (Omnibus). Nothing here runs anything.

Sources: the package's wrapper scripts and GitLab's backup code, 18.9, and its restore documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final, Literal

from drtool.core.command import Command
from drtool.errors import CommandFailed, ConfigError
from drtool.installs import scripts

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
_ROOT: Final = PurePosixPath("/")

# Blanks would be split by the wrapper, which forwards its arguments unquoted; GitLab takes the base name of a path.
_BACKUP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORD = re.compile(r"[a-z][a-z0-9_-]*")

_CONFIG_REQUIRED = ("etc/gitlab/gitlab.rb", "etc/gitlab/gitlab-secrets.json")
_CONFIG_OPTIONAL = (
    "etc/gitlab/*",  # ssl/, trusted-certs/, what gitlab.rb loads besides, and the Docker image's ssh_host_*
    "etc/ssh/ssh_host_*",
    "opt/gitlab/version-manifest.txt",
)

# 64 KiB for each read and write instead of 10: half of the processor time on either side of the pipe.
_LARGE_RECORDS = "--blocking-factor=128"

# Where the files of a component are, and what in it GitLab leaves out of its tarball. Source: GitLab 18.9.
_COMPONENT_DIRECTORIES = {
    "uploads": ("var/opt/gitlab/gitlab-rails/uploads", "tmp"),
    "builds": ("var/opt/gitlab/gitlab-ci/builds", ""),
    "artifacts": ("var/opt/gitlab/gitlab-rails/shared/artifacts", "tmp"),
    "pages": ("var/opt/gitlab/gitlab-rails/shared/pages", "@pages.tmp"),
    "lfs": ("var/opt/gitlab/gitlab-rails/shared/lfs-objects", ""),
    "terraform_state": ("var/opt/gitlab/gitlab-rails/shared/terraform_state", ""),
    "registry": ("var/opt/gitlab/gitlab-rails/shared/registry", ""),
    "packages": ("var/opt/gitlab/gitlab-rails/shared/packages", "tmp"),
    "ci_secure_files": ("var/opt/gitlab/gitlab-rails/shared/ci_secure_files", "tmp"),
    "external_diffs": ("var/opt/gitlab/gitlab-rails/shared/external-diffs", ""),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as ``list_directory`` finds it."""

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Omnibus:
    """A package installation below ``root`` (``/`` but for a sandbox). ``backups`` overrides where backups are kept."""

    root: PurePosixPath = _ROOT
    backups: PurePosixPath | None = None

    @property
    def backup_path(self) -> PurePosixPath:
        return self.backups or self.root / "var/opt/gitlab/backups"

    @property
    def version_file(self) -> PurePosixPath:
        """The file whose content restore compares, character for character."""
        return self._rails / "VERSION"

    @property
    def pid_file(self) -> PurePosixPath:
        """The lock of GitLab's own backup and restore, since 15.5; holds a process id since 16.0."""
        return self._rails / "tmp/backup_restore.pid"

    @property
    def restore_lock(self) -> PurePosixPath:
        """What one restore at a time holds; gone when the host starts anew."""
        return self.root / "run/drtool-restore.lock"

    @property
    def secrets_file(self) -> PurePosixPath:
        return self.root / "etc/gitlab/gitlab-secrets.json"

    @property
    def config_file(self) -> PurePosixPath:
        return self.root / "etc/gitlab/gitlab.rb"

    @property
    def config_required(self) -> tuple[str, ...]:
        """What no config archive may lack, relative to ``root``: without either file no restore is complete."""
        return _CONFIG_REQUIRED

    @property
    def config_excluded(self) -> tuple[str, ...]:
        """What matches ``config_patterns`` and is left out: copies that ``gitlab-ctl backup-etc`` made."""
        return ("etc/gitlab/config_backup",)

    @property
    def config_patterns(self) -> tuple[str, ...]:
        """What a config archive holds, if it is there, relative to ``root``; the last part may end in ``*``."""
        return _CONFIG_REQUIRED + _CONFIG_OPTIONAL

    def create_backup(self, backup_id: str, *, skip: Sequence[str] = ("tar",)) -> Command:
        """Make a backup; with ``tar`` skipped its members stay loose in ``backup_path``.

        Without CRON=1, which would hide even error lines from us.
        """
        words = ("create", f"BACKUP={_checked_id(backup_id)}")
        return self._program("gitlab-backup", *words, *([f"SKIP={_joined(skip)}"] if skip else []))

    def restore_backup(self, backup_id: str | None = None) -> Command:
        """Restore that archive, or the loose members in ``backup_path``; asks nothing.

        ``force=yes``, in exactly these letters, answers the prompts for tables and authorized_keys; only
        GITLAB_ASSUME_YES the one after SQL errors.
        """
        chosen = () if backup_id is None else (f"BACKUP={_checked_id(backup_id)}",)
        return self._program("gitlab-backup", "restore", *chosen, "force=yes", "GITLAB_ASSUME_YES=1")

    def stop(self, service: str) -> Command:
        """Stop one service: gitlab-ctl takes a single name."""
        return self._control("stop", _word(service))

    def start(self, service: str | None = None) -> Command:
        """Start one service, or all."""
        return self._control("start", *([] if service is None else [_word(service)]))

    def restart(self, service: str) -> Command:
        """Stop and start one service."""
        return self._control("restart", _word(service))

    def status(self) -> Command:
        """Show every service. Its exit status is not 0 when one is down; only the text tells which."""
        return self._control("status")

    def reconfigure(self) -> Command:
        return self._program("gitlab-ctl", "reconfigure", timeout=HOUR)

    def gitlab_check(self) -> Command:
        """Exits 0 whatever it finds; SANITIZE keeps project names out of the output."""
        return self._program("gitlab-rake", "gitlab:check", "SANITIZE=true", timeout=HOUR)

    def doctor_secrets(self) -> Command:
        """Try to decrypt every encrypted row. Exits 0 whatever it finds; hours on a large instance."""
        return self._program("gitlab-rake", "gitlab:doctor:secrets", timeout=12 * HOUR)

    def ready(self) -> Command:
        """Ask GitLab itself, from this host, whether it serves."""
        return self._program("gitlab-healthcheck", "--fail", "--max-time", "10", timeout=MINUTE)

    def count_projects(self) -> Command:
        """Print the number of projects. Fails on a database without tables; see ``find_projects_table``."""
        return self._query("SELECT count(*) FROM projects")

    def find_projects_table(self) -> Command:
        """Print 1 if there is a table of projects, else 0: an interrupted restore leaves none."""
        return self._query("SELECT count(*) FROM pg_class WHERE oid = to_regclass('public.projects')")

    def count_all_rows(self) -> Command:
        """Print ``table|rows`` for every table that GitLab's backup dumps, named as pg_dump names it.

        Reads all of them once. Parents of partitions are left out: pg_dump writes their rows with the partitions.
        """
        return self._query(scripts.COUNT_ALL_ROWS, timeout=2 * HOUR)

    def query(self, sql: str, *, timeout: timedelta) -> Command:
        """Ask GitLab's database; columns are divided by ``|``."""
        return self._query(sql, timeout=timeout)

    def list_columns(self, tables: Sequence[str]) -> Command:
        """Print ``table|column`` for those of these tables that there are, in the schema ``public``."""
        names = ", ".join(f"'{_word(name)}'" for name in tables)
        return self._query(
            "SELECT table_name, column_name FROM information_schema.columns"  # noqa: S608 - see _word
            f" WHERE table_schema = 'public' AND table_name IN ({names}) ORDER BY 1, 2"
        )

    def read_rows(self, table: str, columns: Sequence[str]) -> Command:
        """Print these columns of every row as COPY does in a dump."""
        wanted = ", ".join(map(_word, columns))
        return self._query(f"COPY (SELECT {wanted} FROM public.{_word(table)}) TO STDOUT", timeout=HOUR)  # noqa: S608 - see _word

    def read_newest(self, table: str, columns: Sequence[str]) -> Command:
        """Print the greatest value of each of these columns, as one row of COPY."""
        wanted = ", ".join(f"max({_word(column)})" for column in columns)
        return self._query(f"COPY (SELECT {wanted} FROM public.{_word(table)}) TO STDOUT", timeout=HOUR)  # noqa: S608 - see _word

    def list_refs(self) -> Command:
        """Print every repository of the default storage: a line ``= path``, one ``@ HEAD's target``, and its refs.

        One command for all, because starting one per repository over a network takes hours.
        """
        git = self.root / "opt/gitlab/embedded/bin/git"
        return Command(
            ("find", "-H", str(self.repositories_path), "-type", "d",
             # Below it Gitaly keeps a directory per repository, named alike, that is none (16.11, after a restore).
             "(", "-name", "+gitaly", "-prune", "-o", "-name", "*.git", "-prune",
             "-exec", "sh", "-c", scripts.LIST_REFS, str(git), "{}", "+", ")"),
            6 * HOUR,
        )  # fmt: skip

    def send_clone(self, repository: PurePosixPath) -> Command:
        """Let git pack all that a clone would be sent, to nowhere: every object that the refs lead to is read."""
        git = self.root / "opt/gitlab/embedded/bin/git"
        return Command(("sh", "-c", scripts.SEND_CLONE, str(git), str(repository)), HOUR)

    def count_files(self, component: str) -> Command:
        """Print the size of every file below a component's directory, 0 for a link. Fails if there is no directory."""
        directory, excluded = _COMPONENT_DIRECTORIES[component]
        path = self.root / directory
        left_out = ["-name", "lost+found", *(["-o", "-path", str(path / excluded)] if excluded else [])]
        return Command(
            ("find", "-H", str(path), "-mindepth", "1", "(", *left_out, ")", "-prune", "-o",
             "-type", "l", "-printf", r"0\n", "-o", "!", "-type", "d", "-printf", r"%s\n"),
            2 * HOUR,
        )  # fmt: skip

    @property
    def repositories_path(self) -> PurePosixPath:
        """The storage named ``default``."""
        return self.root / "var/opt/gitlab/git-data/repositories"

    @property
    def component_directories(self) -> Mapping[str, PurePosixPath]:
        """Where the files of each component are, by its id."""
        return {name: self.root / directory for name, (directory, _) in _COMPONENT_DIRECTORIES.items()}

    @property
    def counted_components(self) -> tuple[str, ...]:
        """The components that ``count_files`` knows the directory of."""
        return tuple(_COMPONENT_DIRECTORIES)

    @staticmethod
    def read_file(path: PurePosixPath) -> Command:
        """Print a file."""
        return Command(("cat", "--", str(path)), MINUTE)

    @staticmethod
    def write_file(path: PurePosixPath, text: str) -> Command:
        """Write a small file without a secret in it, whole or not at all, for its owner alone."""
        return Command(("sh", "-c", scripts.WRITE_FILE, str(path), text), MINUTE)

    @staticmethod
    def list_directory(path: PurePosixPath) -> Command:
        """Print what is directly in a directory, for ``parse_directory``. Fails if there is no such directory."""
        # -H: the directory itself may be a symbolic link, often to a larger disk.
        return Command(
            ("find", "-H", str(path), "-mindepth", "1", "-maxdepth", "1", "-printf", r"%y %s %m %T@ %f\0"), 10 * MINUTE
        )

    @staticmethod
    def parse_directory(output: bytes) -> tuple[Entry, ...]:
        """Read what ``list_directory`` printed; sorted by name. CommandFailed if it is something else."""
        records = output.split(b"\0")
        if records.pop() != b"":
            raise CommandFailed("the listing of a directory breaks off")
        return tuple(sorted(map(_entry, records), key=lambda entry: entry.name))

    @staticmethod
    def pack(directory: PurePosixPath, names: Sequence[str], *, follow_links: bool = False) -> Command:
        """Print a tar of these names, in this order, and everything below them; the same tree gives the same bytes.

        Owners go by name, because their numbers differ from host to host. ``follow_links`` stores what links point to,
        as ``gitlab-ctl backup-etc`` does: certificates are often links to /etc/letsencrypt. Fails, with status 1, if a
        file changes meanwhile.
        """
        return Command(
            ("tar", f"--directory={directory}", "--create", "--file=-", "--format=gnu", "--sort=name", _LARGE_RECORDS,
             *(["--dereference", "--hard-dereference"] if follow_links else []), "--", *map(_inside, names))
        )  # fmt: skip

    @staticmethod
    def unpack(directory: PurePosixPath, *, exclude: Sequence[str] = ()) -> Command:
        """Unpack a tar from standard input, but for ``exclude`` and what is below; owners (as root) and modes included.

        What is there already is unlinked and made anew, so no link that lies in the way is followed. Modes of existing
        directories are replaced too (no --no-overwrite-dir): a private directory of the set has to be private again.
        Names must have been judged before (TarScanner); tar itself strips a leading slash and refuses ``..``. Takes
        what ``pack`` makes: GNU tar 1.34 ends after the record with the end mark and reads no more padding than that.
        """
        left_out = ["--anchored", "--no-wildcards", *(f"--exclude={_inside(name)}" for name in exclude)]
        return Command(
            ("tar", f"--directory={directory}", "--extract", "--file=-", "--preserve-permissions",
             *(left_out if exclude else []))
        )  # fmt: skip

    @staticmethod
    def list_archive(path: PurePosixPath) -> Command:
        """Print the names of a tar's members, one per line. Reads all of it."""
        return Command(("tar", f"--file={path}", "--list", "--quoting-style=literal"), 2 * HOUR)

    def kept_config(self, run_id: str) -> PurePosixPath:
        """Where a run keeps what its configuration replaces: not beside the backups, which may lie on a share."""
        return self.root / "etc/gitlab/config_backup" / f"drtool-{_child(run_id)}.tar.gz"

    def kept_backup(self, backup_id: str) -> PurePosixPath:
        """The file of a backup of GitLab's own."""
        return self.backup_path / f"{_checked_id(backup_id)}_gitlab_backup.tar"

    def keep_config(self, archive: PurePosixPath) -> Command:
        """Write what a config archive replaces into a tar on the host, whole or not at all; see ``put_back_config``."""
        return Command(("sh", "-c", scripts.KEEP_CONFIG, str(archive), str(self.root)), 10 * MINUTE)

    def put_back_config(self, archive: PurePosixPath) -> Command:
        """Replace /etc/gitlab, but for its copies, and the SSH host keys by what ``keep_config`` kept."""
        return Command(("sh", "-c", scripts.PUT_BACK_CONFIG, str(archive), str(self.root)), 10 * MINUTE)

    @staticmethod
    def remove(directory: PurePosixPath, names: Sequence[str]) -> Command:
        """Remove exactly these children of a directory, with everything in them. A missing one is no error."""
        return Command(("rm", "-rf", "--", *(str(directory / _child(name)) for name in names)))

    @staticmethod
    def make_directory(path: PurePosixPath, *, mode: int = 0o700) -> Command:
        """Make a directory and its parents. One that is there stays as it is."""
        return Command(("mkdir", "--parents", f"--mode={mode:04o}", "--", str(path)), MINUTE)

    @staticmethod
    def copy(sources: Sequence[PurePosixPath], directory: PurePosixPath, *, link: bool = False) -> Command:
        """Copy files, and directories with everything in them, into a directory where their names are free.

        Owners, modes and times included. ``link`` makes hard links of files: no byte is copied, and who removes the one
        leaves the other. Not every file system can (CIFS, FUSE), and never across two.
        """
        how = ("--link",) if link else ()
        return Command(("cp", "--archive", *how, f"--target-directory={directory}", "--", *map(str, sources)))

    @property
    def _rails(self) -> PurePosixPath:
        return self.root / "opt/gitlab/embedded/service/gitlab-rails"

    def _program(self, name: str, *arguments: str, timeout: timedelta | None = None) -> Command:
        # Absolute: cron's PATH and that of an ssh command do not have it.
        return Command((str(self.root / "opt/gitlab/bin" / name), *arguments), timeout)

    def _control(self, *words: str) -> Command:
        return self._program("gitlab-ctl", *words, timeout=10 * MINUTE)

    def _query(self, sql: str, *, timeout: timedelta = 10 * MINUTE) -> Command:
        return self._program("gitlab-psql", "-d", "gitlabhq_production", "-At", "-c", sql, timeout=timeout)


def _entry(record: bytes) -> Entry:
    fields = record.decode("utf-8", "surrogateescape").split(" ", 4)
    try:
        flag, size, mode, modified, name = fields
        moment = datetime.fromtimestamp(float(modified), UTC)
        return Entry(name, _kind(flag), int(size), int(mode, 8), moment)
    except ValueError as error:
        raise CommandFailed(f"not a line of a directory's listing: {record[:80]!r}") from error


def _kind(flag: str) -> Literal["file", "directory", "symlink", "other"]:
    match flag:
        case "f":
            return "file"
        case "d":
            return "directory"
        case "l":
            return "symlink"
        case _:
            return "other"


def _checked_id(backup_id: str) -> str:
    if not _BACKUP_ID.fullmatch(backup_id):
        raise ConfigError(f"{backup_id!r} cannot be a backup's id: letters, digits, dot, hyphen, underscore")
    return backup_id


def _joined(skip: Sequence[str]) -> str:
    return ",".join(map(_word, skip))


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ConfigError(f"{text!r} is no name of a service or component")
    return text


def _inside(name: str) -> str:
    if not name or name.startswith(("/", "-")) or ".." in name.split("/"):
        raise ConfigError(f"{name!r} is no relative path")
    return name


def _child(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name:
        raise ConfigError(f"{name!r} is no name in a directory")
    return name
