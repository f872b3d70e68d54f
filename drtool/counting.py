"""Take the census of a living host, with what it has on board: psql, git, find. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime
from typing import BinaryIO

from drtool.core.census import Census, Files, Repository
from drtool.core.command import Command
from drtool.errors import CommandFailed, HostUnfit
from drtool.gitlab.archive import BackupInformation
from drtool.gitlab.census import ACTIVITY, WANTED, CensusRows, make_census
from drtool.gitlab.repositories import RefSet
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.streams import CHUNK
from drtool.survey import look_at_version

_STORAGE = "default"
_NOT_GITLABS = ("+gitaly/", "@pools/", "@cluster/")  # Gitaly's own, and what no backup holds


def count_host(install: Omnibus, runner: Runner, now: datetime) -> Census:
    """Count what a running instance holds at this moment, in the terms of a backup's census.

    What people do meanwhile may be in one number and not in another. Raises HostUnfit when the database or a
    repository does not answer.
    """
    version = look_at_version(install, runner)
    try:
        information = BackupInformation(db_version="", created_at=now, gitlab_version=version)
        return make_census(
            information,
            "",
            _rows(install, runner),
            _tables(install, runner),
            dict(_repositories(install, runner)),
            dict(_components(install, runner)),
        )
    except CommandFailed as problem:
        raise HostUnfit(
            f"{runner.name} cannot be counted: {problem}", hint="As root, with PostgreSQL running: gitlab-ctl status."
        ) from problem


def as_a_backup_would(now: Census, then: Census, disabled: Collection[str]) -> Census:
    """Leave out components that are ``disabled``, and so are in no backup, and empty directories of any other."""
    components = {
        name: files
        for name, files in now.components.items()
        if name in then.components or (files.count and name not in disabled)
    }
    return replace(now, components=components)


def _tables(install: Omnibus, runner: Runner) -> dict[str, int]:
    lines = runner.run(install.count_all_rows()).decode().splitlines()
    return {name: int(rows) for name, _, rows in (line.rpartition("|") for line in lines)}


def _rows(install: Omnibus, runner: Runner) -> CensusRows:
    """Show a census the rows that it would see in a dump."""
    found = CensusRows()
    columns: dict[str, list[str]] = {}
    for line in runner.run(install.list_columns(sorted({*WANTED, *ACTIVITY}))).decode().splitlines():
        table, _, column = line.partition("|")
        columns.setdefault(table, []).append(column)
    for table, there in columns.items():
        wanted = [column for column in WANTED.get(table, ()) if column in there]
        moments = [column for column in ACTIVITY.get(table, ()) if column in there]
        if wanted:
            _show(found, table, wanted, install.read_rows(table, wanted), runner)
        if moments:
            _show(found, table, moments, install.read_newest(table, moments), runner)
    return found


def _show(found: CensusRows, table: str, columns: list[str], command: Command, runner: Runner) -> None:
    sink = found.begin_table(f"public.{table}", tuple(columns))
    if sink is None:
        return
    with runner.read_from(command) as output:
        for lines in _lines(output):
            sink.take(lines)


def _repositories(install: Omnibus, runner: Runner) -> Iterator[tuple[str, Repository]]:
    """Read what ``list_refs`` prints: every repository that a backup would hold, with its refs."""
    front = f"{install.repositories_path}/"
    path, head, refs = "", "", bytearray()
    with runner.read_from(install.list_refs()) as output:
        for lines in _lines(output):
            for line in lines:
                if line.startswith(b"= "):
                    yield from _repository(path, head, bytes(refs))
                    path, head, refs = line[2:].decode("utf-8", "surrogateescape").removeprefix(front), "", bytearray()
                elif line.startswith(b"@ "):
                    head = line[2:].decode("utf-8", "replace")
                else:
                    refs += line + b"\n"
    yield from _repository(path, head, bytes(refs))


def _repository(path: str, head: str, refs: bytes) -> Iterator[tuple[str, Repository]]:
    if path and not path.startswith(_NOT_GITLABS):
        found = RefSet.of(refs)
        yield f"{_STORAGE}/{path}", Repository(found.count, found.digest, head)


def _components(install: Omnibus, runner: Runner) -> Iterator[tuple[str, Files]]:
    for name in install.counted_components:
        try:
            with runner.read_from(install.count_files(name)) as output:
                sizes = [int(line) for lines in _lines(output) for line in lines]
        except CommandFailed as problem:
            if "No such file or directory" not in problem.stderr:
                raise
            continue
        yield name, Files(len(sizes), sum(sizes))


def _lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := stream.read(CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]
