from __future__ import annotations

import gzip
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import SetDamaged
from drtool.gitlab.archive import GzipCheck
from drtool.gitlab.dump import DumpCheck, DumpSummary, read_field

DATA = Path(__file__).parents[1] / "data" / "gitlab-18.9-artefacts"
FULL = DATA / "archives" / "1795219681_2026_11_21_18.9.0-pre_gitlab_backup.tar"
PGFAIL = DATA / "archives" / "pgfail_gitlab_backup.tar"

SMALL = rb"""--
-- PostgreSQL database dump
--

\restrict ofNoUseAnywhere

-- Dumped from database version 16.10
-- Dumped by pg_dump version 16.10 (Debian)

SET statement_timeout = 0;

CREATE TABLE public.notes (note text);

COPY public.notes (note) FROM stdin;
first
-- PostgreSQL database dump complete
COPY public.fake (a) FROM stdin;
\\.
 \.
last\\\n
\.


COPY public.empty (id, name) FROM stdin;
\.


COPY public."Odd (name)" ("from stdin;") FROM stdin;
1
\.


COPY public.no_columns  FROM stdin;
\.


--
-- PostgreSQL database dump complete
--

\unrestrict ofNoUseAnywhere

"""


def check(data: bytes, size: int = 1 << 20) -> DumpSummary:
    dump = DumpCheck("db/database.sql.gz")
    for at in range(0, len(data), size):
        dump.write(memoryview(data)[at : at + size])
    dump.close()
    return dump.finish()


def real_dump(archive: Path) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.extractfile("db/database.sql.gz")
        assert member is not None
        return gzip.decompress(member.read())


def test_a_real_dump_is_complete_and_its_rows_are_those_psql_counted() -> None:
    found = check(real_dump(FULL))
    text = (DATA / "transcripts" / "30a-restore-empty-host-force-assume.txt").read_text()
    counted = [int(line.removeprefix("COPY ")) for line in text.splitlines() if line.startswith("COPY ")]
    assert list(found.tables.values()) == counted
    assert found.tables["public.users"] == 120
    assert found.rows == sum(counted)
    assert found.dumped_from == "17.11 (Debian 17.11-0+deb13u1)"
    assert found.dumped_by == "17.11 (Debian 17.11-0+deb13u1)"
    assert found.size == 128685


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4096])
def test_a_dump_is_read_alike_however_it_is_cut(size: int) -> None:
    assert check(SMALL, size) == check(SMALL)
    assert check(real_dump(FULL), max(size, 50)) == check(real_dump(FULL))


def test_rows_are_counted_whatever_they_hold() -> None:
    found = check(SMALL)
    assert found.tables == {
        "public.notes": 6, "public.empty": 0, 'public."Odd (name)"': 1, "public.no_columns": 0,
    }  # fmt: skip
    assert found.rows == 7


@given(st.lists(st.binary(max_size=30).filter(lambda row: row != rb"\." and b"\n" not in row)), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_any_rows_in_any_chunks_are_counted(rows: list[bytes], seed: int) -> None:
    head, rest = SMALL.split(b"first\n", 1)
    tail = rest[rest.index(b"\n\\.\n") :] if not rows else b"\n\\.\n" + rest.split(b"\n\\.\n", 1)[1]
    body = head + b"\n".join(rows) + tail if rows else head + tail.removeprefix(b"\n")
    dice, dump, at = random.Random(seed), DumpCheck(), 0
    while at < len(body):
        size = dice.randrange(1, 40)
        dump.write(memoryview(body)[at : at + size])
        at += size
    assert dump.finish().tables["public.notes"] == len(rows)


def test_a_dump_cut_anywhere_is_refused() -> None:
    needed = len(SMALL) - 1  # the last empty line means nothing
    for cut in range(needed):
        with pytest.raises(SetDamaged, match=r"db/database\.sql\.gz"):
            check(SMALL[:cut])
    assert check(SMALL[:needed]).rows == 7


def test_a_dump_of_an_older_pg_dump_needs_no_tokens() -> None:
    older = SMALL.replace(b"\\restrict ofNoUseAnywhere\n", b"").replace(b"\\unrestrict ofNoUseAnywhere\n", b"")
    assert check(older).rows == 7
    marker = older.rindex(b"dump complete\n") + len(b"dump complete\n")
    for cut in range(marker):
        with pytest.raises(SetDamaged):
            check(older[:cut])
    for cut in range(marker, len(older)):
        assert check(older[:cut]).rows == 7


def test_a_real_dump_cut_in_many_places_is_refused() -> None:
    data = real_dump(FULL)
    for cut in random.Random(7).sample(range(len(data) - 1), 150):
        with pytest.raises(SetDamaged):
            check(data[:cut])


def test_anything_after_the_end_is_refused() -> None:
    for more in (b"SELECT 1;\n", b"x", b"\\unrestrict other\n", SMALL[:100]):
        with pytest.raises(SetDamaged):
            check(SMALL + more)


def test_a_token_that_is_another_is_refused() -> None:
    with pytest.raises(SetDamaged, match="unrestrict"):
        check(SMALL.replace(b"\\unrestrict ofNo", b"\\unrestrict isNo"))


def test_the_closing_words_inside_table_data_do_not_count() -> None:
    """A row may say anything, also what pg_dump says at its end."""
    fake = b"-- PostgreSQL database dump complete\n"
    cut = SMALL.index(fake) + len(fake)
    with pytest.raises(SetDamaged, match=r"public\.notes"):
        check(SMALL[:cut] + b"--\n\n\\unrestrict ofNoUseAnywhere\n\n")


def test_the_closing_words_inside_a_statement_do_not_count() -> None:
    comment = b"COMMENT ON TABLE public.notes IS '\n-- PostgreSQL database dump complete\n"
    with pytest.raises(SetDamaged):
        check(SMALL.split(b"COPY ", 1)[0] + comment)
    assert check(SMALL.replace(b"SET statement_timeout = 0;\n", comment + b"';\n")).rows == 7


def test_the_dump_of_a_failed_pg_dump_is_empty_and_refused() -> None:
    """Its gzip file, which GitLab put into the archive, is valid."""
    assert real_dump(PGFAIL) == b""
    with pytest.raises(SetDamaged, match="empty"):
        check(real_dump(PGFAIL))


def test_something_else_is_refused() -> None:
    for data in (b"-- MySQL dump 10.13\n", b"\0" * 100, b"\n", b"-- PostgreSQL database dump complete\n"):
        with pytest.raises(SetDamaged, match="no dump"):
            check(data)


def test_a_file_without_lines_is_not_kept_in_memory() -> None:
    dump = DumpCheck()
    block = memoryview(bytes(1 << 20))
    with pytest.raises(SetDamaged, match="no end"):
        for _ in range(64):
            dump.write(block)


def test_rows_of_any_length_are_not_kept_in_memory() -> None:
    head, tail = SMALL.split(b"first\n", 1)
    dump = DumpCheck()
    dump.write(memoryview(head))
    for _ in range(64):
        dump.write(memoryview(b"x" * (1 << 20)))
    assert len(dump._rest) < 10
    dump.write(memoryview(b"\n" + tail))
    assert dump.finish().tables["public.notes"] == 6


def test_a_compressed_dump_goes_through_the_gzip_check() -> None:
    dump = DumpCheck()
    packed = GzipCheck("db/database.sql.gz", dump)
    packed.write(memoryview(gzip.compress(real_dump(FULL))))
    packed.close()
    assert dump.finish().tables["public.projects"] == 3


@dataclass
class Watcher:
    """Remembers the rows of some tables, and the columns of all."""

    wanted: frozenset[str]
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[str, list[bytes]] = field(default_factory=dict)

    def begin_table(self, table: str, columns: tuple[str, ...]) -> Rows | None:
        self.columns[table] = columns
        return Rows(self.rows.setdefault(table, [])) if table in self.wanted else None


@dataclass
class Rows:
    rows: list[bytes]

    def take(self, rows: Sequence[bytes]) -> None:
        assert rows
        self.rows += rows


def watch(data: bytes, size: int, *wanted: str) -> tuple[Watcher, DumpSummary]:
    watcher = Watcher(frozenset(wanted))
    dump = DumpCheck("the dump", (watcher, Watcher(frozenset())))
    for at in range(0, len(data), size):
        dump.write(memoryview(data)[at : at + size])
    return watcher, dump.finish()


@pytest.mark.parametrize("size", [*range(1, 30), 64, 100, 1 << 20])
def test_a_watcher_gets_the_rows_it_asked_for_however_the_dump_is_cut(size: int) -> None:
    watcher, found = watch(SMALL, size, "public.notes", "public.empty", "public.no_columns")
    assert found == check(SMALL)
    assert watcher.rows == {
        "public.notes": [
            b"first",
            b"-- PostgreSQL database dump complete",
            b"COPY public.fake (a) FROM stdin;",
            rb"\\.",
            rb" \.",
            rb"last\\\n",
        ],
        "public.empty": [],
        "public.no_columns": [],
    }


def test_a_watcher_is_told_every_tables_columns() -> None:
    odd = SMALL.replace(b'("from stdin;")', b'(id, "from stdin;", "a "" (b), c", "\xc3\xa4")')
    watcher, _ = watch(odd, 1000)
    assert watcher.columns == {
        "public.notes": ("note",),
        "public.empty": ("id", "name"),
        'public."Odd (name)"': ("id", "from stdin;", 'a " (b), c', "\u00e4"),
        "public.no_columns": (),
    }


def test_a_dump_of_an_old_pg_dump_names_the_schema_of_its_tables() -> None:
    """GitLab up to 10 ships one: the schema stands before, and is not repeated."""
    old = SMALL.replace(b"COPY public.", b"COPY ").replace(
        b"COPY empty", b"SET search_path = other, pg_catalog;\n\nCOPY empty"
    )
    old = old.replace(
        b"SET statement_timeout = 0;\n", b"SET statement_timeout = 0;\nSET search_path = public, pg_catalog;\n"
    )
    assert list(check(old).tables) == ["public.notes", "other.empty", 'other."Odd (name)"', "other.no_columns"]


@given(st.lists(st.binary(max_size=30).filter(lambda row: row != rb"\." and b"\n" not in row)), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_rows_in_any_chunks_are_shown(rows: list[bytes], size: int) -> None:
    head, rest = SMALL.split(b"first\n", 1)
    body = head + b"".join(row + b"\n" for row in rows) + rest[rest.index(b"\n\\.\n") + 1 :]
    watcher, found = watch(body, size, "public.notes")
    assert watcher.rows["public.notes"] == rows
    assert found.tables["public.notes"] == len(rows)


def test_a_dump_whose_rows_are_watched_is_refused_when_cut_anywhere() -> None:
    for cut in range(len(SMALL) - 1):
        with pytest.raises(SetDamaged):
            watch(SMALL[:cut], 64, "public.notes")


@pytest.mark.parametrize(
    ("field_", "expected"),
    [(rb"\N", None), (b"", b""), (rb"a\tb\nc\\d\re", b"a\tb\nc\\d\re"), (rb"\\N", rb"\N"), (b"\xc3\xa4", b"\xc3\xa4")],
)
def test_a_field_is_read_as_it_was_stored(field_: bytes, expected: bytes | None) -> None:
    assert read_field(field_) == expected
