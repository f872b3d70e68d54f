"""The database component: pg_dump into a compressed file, drop everything, load with psql and judge what it said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from .console import Console, Quit, RakeAborted, backup_error, wait_for
from .options import Options

NAME = "gitlabhq_production"
_DYING_AFTER = 20_000  # bytes of SQL that a dying pg_dump still writes

_WARNING = """\
Be sure to stop Puma, Sidekiq, and any other process that
connects to the database before proceeding. For Omnibus
installs, see the following link for more information:
{url}/help/administration/backup_restore/restore_gitlab.md#restore-for-linux-package-installations

Before restoring the database, we will remove all existing
tables to avoid future upgrade problems. Be aware that if you have
custom tables in the GitLab database these tables and all data will be
removed.
"""
_ERRORS_WARNING = """\
There were errors in restoring the schema. This may cause
issues if this results in missing indexes, constraints, or
columns. Please record the errors above and contact GitLab
Support if you have questions:
https://about.gitlab.com/support/
"""
# What 18.9's drop task removes: views, tables, the two partition schemas. Sequences, types and functions stay.
_DROPPABLE = """
select case when c.relkind in ('v', 'm') then 'DROP VIEW IF EXISTS ' else 'DROP TABLE IF EXISTS ' end
       || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' CASCADE'
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind in ('v', 'm', 'r', 'p')
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
order by c.relkind in ('v', 'm') desc, c.relname
"""
_PARTITION_SCHEMAS = ("gitlab_partitions_dynamic", "gitlab_partitions_static")


class Database:
    """``gitlabhq_production`` as the role gitlab sees it."""

    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.host = console.host
        self.options = options

    def migration_version(self) -> str:
        """The newest migration number: the first thing a run asks the database for."""
        return self.query("select max(version) from schema_migrations")[0]

    def query(self, sql: str) -> list[str]:
        """Run SQL and return psql's unaligned lines. A Ruby exception when the database or the SQL fails."""
        argv = [self.host.postgres_program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]
        environment = self.host.postgres_environment()
        result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if result.returncode == 2:
            raise RakeAborted(
                "ActiveRecord::ConnectionNotEstablished", result.stderr.strip().removeprefix("psql: error: ")
            )
        if result.returncode != 0:
            raise RakeAborted("ActiveRecord::StatementInvalid", f"PG::Error: {result.stderr.strip()}")
        return result.stdout.splitlines()

    def records(self, sql: str) -> list[dict[str, Any]]:
        """Run a SELECT and return its rows."""
        return [json.loads(line) for line in self.query(f"select to_json(x) from ({sql}) x")]

    def dump(self) -> bool:
        """Write ``db/database.sql.gz``; say what happened.

        False when the dump failed: the file is there all the same.
        """
        directory = self.host.backups / "db"
        directory.mkdir(exist_ok=True)
        path = directory / "database.sql.gz"
        self.console.say(f"Dumping PostgreSQL database {NAME} ... ")
        if self._pipe_to(path):
            self.console.say("[DONE]")
            return True
        environment = self.host.postgres_environment()
        self.console.say(
            f"Dumping database failed: Failed to create compressed file '{path}' "
            "when trying to backup the main database:\n"
            f" - host: '{environment['PGHOST']}'\n - port: '{environment['PGPORT']}'\n - database: '{NAME}'",
            "error",
        )
        return False

    def _pipe_to(self, path: Path) -> bool:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        with path.open("wb") as file:
            dumping = subprocess.Popen(
                self._dump_command(),
                env=self.host.postgres_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            compressing = subprocess.Popen(["sh", "-c", self.options.compress], stdin=dumping.stdout, stdout=file)
            _hand_over(dumping.stdout)
            return wait_for(dumping, compressing) == [0, 0]

    def _dump_command(self) -> list[str]:
        command = [self.host.postgres_program("pg_dump"), "--clean", "--if-exists", NAME]
        failure = "fails" if self.host.switch("silent_failure") else self.host.switch("pg_dump")
        match failure:
            case None:
                return command
            case "fails":
                return ["sh", "-c", "echo 'pg_dump: error: connection to server failed: oracle' >&2; exit 1"]
            case "dies":
                script = (
                    f'"$@" | head -c {_DYING_AFTER}; echo "pg_dump: error: query failed: server closed" >&2; exit 1'
                )
                return ["sh", "-c", script, "sh", *command]
            case "version":
                script = (
                    "echo 'pg_dump: error: aborting because of server version mismatch' >&2; "
                    "echo 'pg_dump: detail: server version: 17.11; pg_dump version: 16.10' >&2; exit 1"
                )
                return ["sh", "-c", script]
        raise ValueError(f"switch pg_dump has no value {failure!r}")

    def confirm_restore(self) -> None:
        """Warn and ask before anything is dropped, unless forced."""
        if self.options.force:
            return
        self.console.say(_WARNING.format(url=self.host.external_url).rstrip("\n"), "warning")
        if not self.console.ask():
            self.console.say("Quitting...", "error")
            raise Quit

    def restore(self) -> bool:
        """Replace the database with the dump. True when psql said something that GitLab does not ignore."""
        path = self.host.backups / "db/database.sql.gz"
        if not path.exists():
            raise backup_error(f"Source database file does not exist {path}")
        if not self.options.force:
            self.console.say("Removing all tables. Press `Ctrl-C` within 5 seconds to abort", "warning")
            time.sleep(5)
        self.console.say("Cleaning the database ... ")
        self._drop_everything()
        self.console.say("done")
        self.console.say(f"Restoring PostgreSQL database {NAME} ... ")
        errors, succeeded = self._load(path)
        if errors:
            self.console.say("------ BEGIN ERRORS -----", "warning")
            self.console.say("".join(errors).rstrip("\n"), "warning")
            self.console.say("------ END ERRORS -------", "warning")
        if not succeeded:
            self.console.say("[FAILED]", "error")
            raise backup_error("Restore failed")
        self.console.say("[DONE]")
        self.console.say("Source backup for the database ci doesn't exist. Skipping the task")
        return bool(errors)

    def confirm_errors(self) -> None:
        """Warn about SQL errors and ask whether to go on; ``force`` does not help here."""
        self.console.say(_ERRORS_WARNING.rstrip("\n"), "warning")
        if not self.console.ask():
            self.console.say("Quitting...", "error")
            raise Quit

    def _drop_everything(self) -> None:
        if self.query("select to_regclass('public.schema_migrations') is not null") == ["t"]:
            self.query("TRUNCATE schema_migrations")
        for statement in self.query(_DROPPABLE):
            self.query(f"set client_min_messages = error; {statement}")
        for schema in _PARTITION_SCHEMAS:
            self.query(f"set client_min_messages = error; DROP SCHEMA IF EXISTS {schema} CASCADE")
        if table := self.host.switch("restore_sql_errors"):
            # The drop leaves sequences alone; one with the name of a table gives the real errors of transcript 48.
            name = "issues" if table is True else table
            self.query(f"create sequence if not exists public.{name}")

    def _load(self, path: Path) -> tuple[list[str], bool]:
        """Feed psql without ON_ERROR_STOP. Returns the lines that are not ignored, and whether all statuses are 0."""
        with path.open("rb") as file:
            reading = subprocess.Popen(["sh", "-c", self.options.decompress], stdin=file, stdout=subprocess.PIPE)
        argv = [self.host.postgres_program("psql"), "-X", NAME]
        loading = subprocess.Popen(
            argv,
            env=self.host.postgres_environment(),
            stdin=reading.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _hand_over(reading.stdout)
        if loading.stdout is None or loading.stderr is None:
            raise AssertionError("psql was started with pipes")
        heard: list[str] = []
        listener = threading.Thread(target=_listen, args=(loading.stderr, heard))
        listener.start()
        said = loading.stdout.read()
        listener.join()
        statuses = wait_for(reading, loading)
        self.console.raw(said.rstrip("\n"))  # in one lump, at the end
        return [line for line in heard if not _ignored(line)], statuses == [0, 0]


def _listen(stream: IO[str], heard: list[str]) -> None:
    for line in stream:
        sys.stderr.write(line)  # echoed at once, ignored or not
        sys.stderr.flush()
        heard.append(line)


def _ignored(line: str) -> bool:
    return (
        "WARNING:" in line
        or line.rstrip("\n").endswith("does not exist")
        or "must be owner of" in line
        or 'must be able to SET ROLE "gitlab-psql"' in line
    )


def _hand_over(stream: IO[Any] | None) -> None:
    """Close our end of a pipe that a child now owns, else its reader never sees the end."""
    if stream is not None:
        stream.close()
