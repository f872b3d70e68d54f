"""What a host says when it is not isolated, and that nobody passes over it. The real database is in the contracts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO

import pytest

from drtool.core.command import Command
from drtool.core.isolation import RECORD, decide
from drtool.core.versions import parse_version
from drtool.errors import CommandFailed, DrtoolError, HostUnfit, RestoreFailed
from drtool.installs import gitlab_rb
from drtool.installs.omnibus import Omnibus
from drtool.isolating import (
    isolate_configuration,
    isolate_database,
    lift,
    look_at_isolation,
    refuse_unless_isolated,
)
from tests.unit.test_isolation import NEW

VERSION = "18.9.0-ee"
INSTALL = Omnibus()
QUIET = "production: {gitlab: {email_enabled: false}}"
PLAIN = b"external_url 'https://gitlab.example.com'\n"


class Told:
    """A host that says what it is told to; by default that it is isolated."""

    name = "host"

    def __init__(self, **said: str) -> None:
        tables = {**NEW, RECORD: "measure", "clusters": "id enabled", "audit_events": "id"}
        columns = {name: frozenset(names.split()) for name, names in tables.items()}
        targets = [target for each in decide(parse_version(VERSION), columns) for target in each.targets]
        isolated = gitlab_rb.add_isolation(PLAIN, gitlab_rb.isolation_lines(parse_version(VERSION), PLAIN))
        self.said = {
            "columns": "\n".join(f"{table}|{column}" for table, names in columns.items() for column in names),
            "active": "\n".join(f"{each.measure}|{each.table}|0|" for each in targets),
            "version": VERSION,
            "gitlab.rb": isolated.decode(),
            "gitlab.yml": QUIET,
            "databases": "gitlabhq_production",
            "record": "",
            "lifted": "0|0|f",
            **said,
        }

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        text = " ".join(command.argv)
        for words, name in {
            "information_schema.columns": "columns",
            "string_agg": "active",
            "gitlab-rails/VERSION": "version",
            "sha256sum": "",
            "/etc/gitlab/gitlab.rb": "gitlab.rb",
            "gitlab.yml": "gitlab.yml",
            "datname": "databases",
            "GROUP BY 1, 2": "record",
            "TEMPORARY TABLE lifted": "lifted",
        }.items():
            if words in text:
                return self.said.get(name, "").encode()
        return b""

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        raise CommandFailed("nobody reads here")

    def write_to(self, command: Command) -> AbstractContextManager[BinaryIO]:
        raise CommandFailed("nobody writes here")


def without(name: str) -> str:
    return "\n".join(line for line in Told().said["columns"].splitlines() if not line.startswith(f"{name}|"))


def still_active() -> str:
    first, *rest = Told().said["active"].splitlines()
    return "\n".join((f"{first.removesuffix('0|')}12|1,2", *rest))


def silent(name: str) -> str:
    return "\n".join(line for line in Told().said["active"].splitlines() if f"|{name}|" not in line)


FINDINGS = {
    "record": ({"columns": without(RECORD)}, "nothing is recorded"),
    "settings": ({"gitlab.rb": PLAIN.decode()}, "gitlab.rb lacks the settings"),
    "mail that nobody sees": ({"gitlab.yml": "production: 1"}, "gitlab.yml cannot be read"),
    "mail that is on": ({"gitlab.yml": "production: {}"}, "mail from GitLab is on"),
    "a table that should be there": ({"columns": without("ci_runners"), "active": silent("ci_runners")}, "runners: "),
    "active rows": ({"active": still_active()}, "12 active in"),
    "another database": ({"databases": "gitlabhq_production gitlabhq_production_ci"}, "gitlabhq_production_ci is not"),
    "a way out": ({"gitlab.rb": "gitlab_rails['db_host'] = 'a'\n"}, "gitlab.rb leads to a database elsewhere"),
}


def test_isolated_host_has_nothing_against_it() -> None:
    found = look_at_isolation(INSTALL, Told())
    assert found.findings == ()
    refuse_unless_isolated(found, "host")


@pytest.mark.parametrize("name", FINDINGS)
def test_host_that_is_not_wholly_isolated_is_refused_by_what_is_missing(name: str) -> None:
    said, finding = FINDINGS[name]
    with pytest.raises(RestoreFailed, match=finding):
        refuse_unless_isolated(look_at_isolation(INSTALL, Told(**said)), "host")


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"active": still_active()}, RestoreFailed, "12 active in"),
        ({"columns": without(RECORD)}, RestoreFailed, "the record is gone"),
        ({"columns": without("application_settings")}, HostUnfit, "no tables to isolate"),
    ],
    ids=["active", "no record", "no tables"],
)
def test_database_that_does_not_show_its_isolation_is_not_isolated(
    said: dict[str, str], error: type[DrtoolError], words: str
) -> None:
    with pytest.raises(error, match=words):
        isolate_database(INSTALL, Told(**said))


def test_configuration_that_did_not_arrive_is_noticed() -> None:
    with pytest.raises(HostUnfit, match="is not what was written"):
        isolate_configuration(INSTALL, Told(**{"gitlab.rb": PLAIN.decode()}))


def test_rows_that_cannot_be_given_back_are_named() -> None:
    with pytest.raises(HostUnfit, match=r"3 of services \(integrations\)"):
        lift(INSTALL, Told(lifted="0|0|t", record="integrations|services|3"))
