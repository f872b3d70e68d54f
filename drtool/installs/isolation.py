"""What to run on a package installation to stop, read back and let go what ``core.isolation`` names.

Every command is one transaction, done as the role that owns GitLab's tables: a record that belongs to anybody else
could neither be dumped by GitLab's backup nor dropped by its restore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Final

from drtool.core.command import Command
from drtool.core.isolation import RECORD, Target, watched_tables
from drtool.errors import CommandFailed
from drtool.installs.omnibus import Omnibus

_PATIENCE: Final = timedelta(minutes=30)
_SHOWN: Final = 20  # ids, of those that are still active

# The package's own PostgreSQL ends every statement after a minute.
_AS_OWNER = """\
DO $owner$ BEGIN
  PERFORM set_config('role', pg_get_userbyid(relowner), false)
  FROM pg_class WHERE oid = 'public.application_settings'::regclass;
END $owner$;
SET statement_timeout = 0;
"""

_CREATE_RECORD = f"""\
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS public.{RECORD} (
  measure text NOT NULL,
  table_name text NOT NULL,
  row_id bigint NOT NULL,
  former jsonb NOT NULL,
  stopped_at timestamp with time zone DEFAULT now() NOT NULL,
  PRIMARY KEY (measure, table_name, row_id)
);
"""

# What is recorded first stays: stopping twice would otherwise take the stopped state for the former one.
_STOP = """\
WITH found AS (
  SELECT id, jsonb_build_object({former}) AS former FROM public."{table}" WHERE {active} FOR UPDATE
), kept AS (
  INSERT INTO public.{record} (measure, table_name, row_id, former)
  SELECT '{measure}', '{table}', id, former FROM found
  ON CONFLICT DO NOTHING
)
UPDATE public."{table}" AS t SET {values} FROM found WHERE t.id = found.id;
"""

# A row that is no longer as it was stopped was changed by somebody on purpose, and stays as it is.
_LIFT = """\
WITH recorded AS (
  SELECT row_id, former FROM public.{record} WHERE measure = '{measure}' AND table_name = '{table}'
), back AS (
  UPDATE public."{table}" AS t
  SET ({columns}) = (SELECT {former} FROM jsonb_populate_record(t, recorded.former) AS f)
  FROM recorded WHERE t.id = recorded.row_id AND {stopped}
  RETURNING t.id
), forgotten AS (
  DELETE FROM public.{record} WHERE measure = '{measure}' AND table_name = '{table}' RETURNING row_id
)
INSERT INTO lifted SELECT (SELECT count(*) FROM back), (SELECT count(*) FROM forgotten);
"""
_COUNT_LIFTED = "CREATE TEMPORARY TABLE lifted (back bigint, recorded bigint) ON COMMIT DROP;\n"
# The last statement, because psql before 15 prints no other.
_DROP_IF_EMPTY = f"""\
DO $drop$ BEGIN
  IF NOT EXISTS (SELECT FROM public.{RECORD}) THEN DROP TABLE public.{RECORD}; END IF;
END $drop$;
SELECT coalesce(sum(back), 0), coalesce(sum(recorded), 0), (SELECT to_regclass('public.{RECORD}') IS NOT NULL)
FROM lifted"""  # noqa: S608 - a constant

_LOOK = """\
SELECT '{measure}', '{table}', count(*), coalesce(string_agg(id::text, ',' ORDER BY id) FILTER (WHERE n <= {shown}), '')
FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM public."{table}" AS t WHERE {active}) AS found"""


# "$0" is the file, "$1" the digest: a connection that is lost ends the input like its true end does.
_REPLACE_FILE = """\
set -eu
file=$(readlink -f -- "$0")
cp -p -- "$file" "$file.drtool"
trap 'rm -f -- "$file.drtool"' EXIT
cat >"$file.drtool"
printf '%s  %s\\n' "$1" "$file.drtool" | sha256sum --check --status -
sync "$file.drtool"
mv -f -- "$file.drtool" "$file\""""


@dataclass(frozen=True, slots=True)
class Active:
    """Rows of one table that are not stopped: how many, and the ids of the first of them."""

    measure: str
    table: str
    count: int
    ids: tuple[int, ...]


def list_columns(install: Omnibus) -> Command:
    """Print ``table|column`` of every table that a measure may want; see ``parse_columns``."""
    return install.list_columns(watched_tables())


def parse_columns(output: bytes) -> dict[str, frozenset[str]]:
    """Read what ``list_columns`` printed."""
    found: dict[str, set[str]] = {}
    for line in output.decode().splitlines():
        table, _, column = line.partition("|")
        found.setdefault(table, set()).add(column)
    return {table: frozenset(columns) for table, columns in found.items()}


def stop(install: Omnibus, targets: Sequence[Target]) -> Command:
    """Record the rows that are active and stop them, all or none. May be run again."""
    return _statement(install, _CREATE_RECORD + "".join(map(_stop, targets)))


def lift(install: Omnibus, targets: Sequence[Target]) -> Command:
    """Give back the former values and forget them, all or none; remove the record unless something is left in it.

    GitLab's own triggers run as for any change: has_external_wiki and has_external_issue_tracker of a project follow
    its integrations (13.8 and later).
    """
    return _statement(install, _COUNT_LIFTED + "".join(map(_lift, targets)) + _DROP_IF_EMPTY)


def parse_lifted(output: bytes) -> tuple[int, int, bool]:
    """Read what ``lift`` printed: rows given back, rows that were recorded of these targets, and whether others are."""
    fields = output.decode().strip().split("|")
    if len(fields) != 3 or fields[2] not in ("t", "f"):
        raise CommandFailed(f"not what lifting prints: {output[:80]!r}")
    return int(fields[0]), int(fields[1]), fields[2] == "t"


def list_record(install: Omnibus) -> Command:
    """Print ``measure|table|rows`` for what is recorded. Fails where there is no record."""
    return _statement(
        install,
        f"SELECT measure, table_name, count(*) FROM public.{RECORD} GROUP BY 1, 2 ORDER BY 1, 2",  # noqa: S608 - a constant
    )


def parse_record(output: bytes) -> dict[tuple[str, str], int]:
    """Read what ``list_record`` printed, by measure and table."""
    fields = [line.split("|") for line in output.decode().splitlines()]
    return {(measure, table): int(rows) for measure, table, rows in fields}


def list_active(install: Omnibus, targets: Sequence[Target]) -> Command:
    """Print ``measure|table|count|ids`` of what is not stopped, a line for each target."""
    queries = (
        _LOOK.format(measure=each.measure, table=each.table, shown=_SHOWN, active=_active(each)) for each in targets
    )
    return _statement(install, "\nUNION ALL\n".join(queries))


def parse_active(output: bytes, targets: Sequence[Target]) -> tuple[Active, ...]:
    """Read what ``list_active`` printed. CommandFailed unless it speaks of every target: silence is no answer."""
    fields = [line.split("|") for line in output.decode().splitlines()]
    if sorted((measure, table) for measure, table, *_ in fields) != sorted((t.measure, t.table) for t in targets):
        raise CommandFailed("the database did not answer for every measure of the isolation")
    return tuple(
        Active(measure, table, int(count), tuple(map(int, ids.split(",") if ids else ())))
        for measure, table, count, ids in fields
    )


def list_databases(install: Omnibus) -> Command:
    """Print the names of GitLab's databases on this server."""
    return _psql(install, "SELECT datname FROM pg_database WHERE datname LIKE 'gitlabhq\\_production%' ORDER BY 1")


def settings_in_effect(install: Omnibus) -> Command:
    """Print gitlab.yml, which a reconfigure writes: what gitlab.rb says is in effect only when it stands there."""
    return install.read_file(install.root / "var/opt/gitlab/gitlab-rails/etc/gitlab.yml")


def replace_file(path: PurePosixPath, content: bytes) -> Command:
    """Put what comes on standard input in place of a file, if it is this content to its last byte; else touch nothing.

    Owner and mode stay, and a symbolic link stays one.
    """
    return Command(("sh", "-c", _REPLACE_FILE, str(path), hashlib.sha256(content).hexdigest()), timedelta(minutes=1))


def hold_service(install: Omnibus, service: str) -> tuple[Command, Command]:
    """The two commands that keep a service from starting with the host, and that let it again.

    runit's runsv leaves a service down whose directory holds a file ``down``; ``gitlab-ctl start`` starts it all the
    same. Source: runsv(8).
    """
    path = str(install.root / "opt/gitlab/service" / service / "down")
    return Command(("touch", "--", path)), Command(("rm", "-f", "--", path))


def reject_outgoing(user: str, allowed: Sequence[str]) -> tuple[Command, Command]:
    """The command for nft that lets a user speak to this host and ``allowed`` alone, and the one that undoes it.

    A second belt, for an operator who wants one, and tried on no host yet: everything of GitLab but its web server and
    database runs as ``git``, which then reaches neither resolver nor mail relay. ``allowed`` are addresses or networks
    of IPv4. The rules do not outlive a restart of the host.
    """
    table = "drtool_isolation"
    exceptions = [f"ip daddr {{ {', '.join(allowed)} }} accept"] if allowed else []
    rules = "; ".join(['oifname "lo" accept', *exceptions, f'meta skuid "{user}" reject'])
    chain = f"chain outgoing {{ type filter hook output priority 0; {rules}; }}"
    add = f"add table inet {table}; delete table inet {table}; table inet {table} {{ {chain} }}"
    return Command(("nft", add)), Command(("nft", f"add table inet {table}; delete table inet {table}"))


def _stop(target: Target) -> str:
    return _STOP.format(
        former=", ".join(f"'{name}', \"{name}\"" for name in target.values),
        table=target.table,
        active=_active(target),
        record=RECORD,
        measure=target.measure,
        values=", ".join(f'"{name}" = {value}' for name, value in target.values.items()),
    )


def _lift(target: Target) -> str:
    return _LIFT.format(
        record=RECORD,
        measure=target.measure,
        table=target.table,
        columns=", ".join(f'"{name}"' for name in target.values),
        former=", ".join(f'f."{name}"' for name in target.values),
        stopped=_stopped(target),
    )


def _active(target: Target) -> str:
    differing = " OR ".join(f'"{name}" IS DISTINCT FROM {value}' for name, value in target.values.items())
    return f"{target.only} AND ({differing})"


def _stopped(target: Target) -> str:
    return " AND ".join(f't."{name}" IS NOT DISTINCT FROM {value}' for name, value in target.values.items())


def _statement(install: Omnibus, sql: str) -> Command:
    return _psql(install, f"{_AS_OWNER}{sql}")


def _psql(install: Omnibus, sql: str) -> Command:
    program = str(install.root / "opt/gitlab/bin/gitlab-psql")
    # psql sends one -c as one transaction: all of it happens, or nothing.
    return Command((program, "-d", "gitlabhq_production", "-X", "-q", "-At", "-c", sql), _PATIENCE)
