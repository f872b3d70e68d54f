"""A census of a real archive, its JSON, and what two of them differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from drtool.core.census import (
    Census,
    Files,
    Repository,
    compare,
    parse_census,
    render_census,
)
from drtool.errors import FormatTooNew, SetDamaged
from drtool.gitlab.archive import BackupInformation
from drtool.gitlab.census import CensusRows, make_census
from drtool.gitlab.dump import DumpCheck
from tests import archives
from tests.archives import ALPHA, BETA, EMPTY

TAKEN = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def census() -> Census:
    found = archives.judge(archives.files()).census
    assert found is not None
    return found


def test_census_of_a_real_archive_is_what_the_instance_held(census: Census) -> None:
    assert census.instance_id == "2b0d9f6e-0000-4000-8000-00000000feed"
    assert (census.gitlab_version, census.users, census.groups) == ("18.9.0-pre", 120, 2)
    assert [(p.path, p.id, p.visibility, p.repository) for p in census.projects] == [
        ("grp/alpha", 1, "private", ALPHA),
        ("grp/sub/beta", 2, "private", BETA),
        ("root/empty", 3, "private", EMPTY),
    ]
    assert {name: one.refs for name, one in census.repositories.items()}[EMPTY] == 0
    assert (census.repositories[ALPHA].refs, census.repositories[ALPHA].head) == (5, "refs/heads/main")
    assert census.components["lfs"] == Files(2, 4002)
    assert census.components["pages"] == Files(0, 0)
    assert (census.tables["public.issues"], census.rows) == (250, 881)
    assert census.newest_activity == datetime(2026, 11, 21, 0, 7, 57, 8271, tzinfo=UTC)


def test_census_knows_which_repositories_belong_to_a_project(census: Census) -> None:
    alpha = census.project("grp/alpha")
    assert alpha is not None
    stem = ALPHA.removesuffix(".git")
    assert census.repositories_of(alpha) == (ALPHA, f"{stem}.wiki.git", f"{stem}.design.git")
    assert census.project("grp") is None


def test_census_comes_back_from_its_json_and_always_reads_the_same(census: Census) -> None:
    text = render_census(census)
    assert parse_census(text, source="x") == census
    shuffled = replace(census, tables=dict(sorted(census.tables.items(), reverse=True)))
    assert render_census(shuffled) == text


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"format": "1"}', b'{"format": true}', b'{"format": 0}', b"\xff"]
)
def test_what_is_no_census_is_refused(text: bytes) -> None:
    with pytest.raises(SetDamaged, match=r"census\.age: not a census"):
        parse_census(text, source="census.age")


def test_a_census_that_lacks_something_is_refused(census: Census) -> None:
    fields = json.loads(render_census(census))
    for name in set(fields) - {"format"}:
        with pytest.raises(SetDamaged, match=rf"census\.age: {name}"):
            parse_census(json.dumps({**fields, name: [[]]}).encode(), source="census.age")
    with pytest.raises(FormatTooNew):
        parse_census(json.dumps({**fields, "format": 2}).encode(), source="census.age")


def test_equal_censuses_do_not_differ_however_they_were_taken(census: Census) -> None:
    assert compare(census, replace(census, backup_id="other", taken_at=TAKEN)) == ()


def test_the_record_of_an_isolation_makes_no_difference_and_any_other_table_does(census: Census) -> None:
    isolated = replace(census, tables={**census.tables, "public.drtool_isolation": 18})
    changed = replace(census, tables={**census.tables, "public.drtool": 18})

    assert compare(census, isolated) == compare(isolated, census) == ()
    assert [str(difference) for difference in compare(census, changed)] == ["table public.drtool is new"]


def test_every_difference_is_named(census: Census) -> None:
    alpha, beta, empty = census.projects
    second = replace(
        census,
        instance_id="another",
        users=119,
        projects=(replace(alpha, visibility="public"), empty, replace(beta, path="grp/new")),
        repositories={**census.repositories, ALPHA: replace(census.repositories[ALPHA], refs=4)},
        components={name: found for name, found in census.components.items() if name != "lfs"},
        tables={**census.tables, "public.users": 119},
    )
    assert [str(difference) for difference in compare(census, second)] == [
        f"instance id differs: {census.instance_id}; then another",
        "instance users differs: 120; then 119",
        f"project grp/alpha differs: id 1, private, in {ALPHA}; then id 1, public, in {ALPHA}",
        "project grp/new is new",
        "project grp/sub/beta is missing",
        f"repository {ALPHA} differs: 5 refs, digest 10ef29be, HEAD refs/heads/main; "
        "then 4 refs, digest 10ef29be, HEAD refs/heads/main",
        "component lfs is missing",
        "table public.users differs: 120; then 119",
    ]


def test_differences_are_bounded_and_the_rest_is_counted(census: Census) -> None:
    second = replace(census, tables={})
    found = [difference for difference in compare(census, second, shown=3) if difference.kind == "table"]
    assert [difference.name for difference in found[:3]] == sorted(census.tables)[:3]
    assert str(found[3]) == f"table differences: {len(census.tables) - 3} more"
    assert len(compare(census, second, shown=len(census.tables))) == len(census.tables)


def _taken(tables: Mapping[str, str], *, version: str = "9.5.0") -> Census:
    """Count a dump of these tables: columns in the first line, then rows."""
    text = "--\n-- PostgreSQL database dump\n--\n\n"
    for name, content in tables.items():
        columns, *rows = content.splitlines()
        text += (
            f"COPY {name if '.' in name else f'public.{name}'} ({columns}) FROM stdin;\n"
            + "".join(f"{row}\n" for row in rows)
            + "\\.\n\n"
        )
    text += "--\n-- PostgreSQL database dump complete\n--\n\n"
    rows_seen = CensusRows()
    dump = DumpCheck("x", (rows_seen,))
    for at in range(0, len(text), 13):
        dump.write(memoryview(text.encode())[at : at + 13])
    information = BackupInformation(db_version="1", created_at=TAKEN, gitlab_version=version)
    repositories = {"grp/sub/old.git": Repository(1, "x"), "grp/sub/old.wiki.git": Repository(1, "y")}
    return make_census(information, "id", rows_seen, dump.finish().tables, repositories, {})


OLD = {
    "namespaces": "id, path, parent_id, type\n1\troot\t\\N\t\\N\n2\tgrp\t\\N\tGroup\n3\tsub\t2\tGroup",
    "projects": "id, path, namespace_id, visibility_level, archived\n7\told\t3\t20\tt",
}


def test_a_project_of_gitlab_8_lies_where_people_know_it(census: Census) -> None:
    found = _taken(OLD)
    (project,) = found.projects
    assert (project.path, project.visibility, project.archived) == ("grp/sub/old", "public", True)
    assert project.repository == "default/grp/sub/old.git"
    assert found.repositories_of(project) == ("default/grp/sub/old.git", "default/grp/sub/old.wiki.git")
    assert (found.groups, found.instance_id) == (2, "")


def test_a_project_of_gitlab_10_lies_where_its_id_says() -> None:
    columns = "id, path, namespace_id, visibility_level, repository_storage, storage_version"
    found = _taken({**OLD, "projects": f"{columns}\n1\told\t3\t10\tfast\t2"})
    assert found.projects[0].repository == ALPHA.replace("default/", "fast/")
    assert found.projects[0].visibility == "internal"


def test_only_projects_own_routes_and_places_count() -> None:
    found = _taken({
        **OLD,
        "routes": "source_type, source_id, path\nProject\t7\tgrp/sub/renamed\nNamespace\t7\telse",
        "project_repositories": "project_id, shard_name, disk_path\n7\t\\N\tx",
        "x.projects": "id, path\n8\tnone",
    })  # fmt: skip
    assert [(project.path, project.repository) for project in found.projects] == [
        ("grp/sub/renamed", "default/grp/sub/renamed.git")
    ]


def test_the_newest_activity_is_found_among_nulls_and_zones_and_never_lies_in_the_future() -> None:
    events = "id, created_at, action\n1\t2026-01-12 23:00:00+00\t1\n2\t2026-01-13 01:30:00+02\t2\n3\tinfinity\t1"
    users = (
        "id, created_at, current_sign_in_at\n1\t2020-01-01 00:00:00\t\\N\n2\t2020-01-02 00:00:00.5\t2026-01-12 23:10:00"
    )
    assert _taken({**OLD, "events": events, "users": users}).newest_activity == datetime(
        2026, 1, 12, 23, 30, tzinfo=UTC
    )
    assert _taken({**OLD, "users": users}).newest_activity == datetime(2026, 1, 12, 23, 10, tzinfo=UTC)
    assert _taken({**OLD, "users": "id, created_at\n1\t2099-01-01 00:00:00"}).newest_activity == TAKEN
    assert _taken({**OLD, "users": "id, created_at\n1\t\\N"}).newest_activity is None


def test_rows_that_are_not_as_their_header_says_do_not_stop_a_census() -> None:
    found = _taken({
        "application_settings": "id, uuid\nx\tone\n2\ttwo\n1\tthree\n3",
        "events": "id, created_at\n1",
        "projects": "id, path\nx\ty\n5\n\n6\tsix",
        "routes": "path\nq",
    })  # fmt: skip
    assert [project.id for project in found.projects] == [5, 6]
    assert found.newest_activity is None
