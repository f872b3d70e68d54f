"""Judge a plain SQL dump of PostgreSQL while it passes: is it whole, how many rows has each table, what is in them?

A dump that died leaves a perfectly valid gzip file (GitLab 18.9 even archives an empty one), so only the dump's own
last lines prove it. They are looked for outside of table data, which may hold any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from drtool.errors import SetDamaged

_HEAD = b"-- PostgreSQL database dump"
_COMPLETE = b"-- PostgreSQL database dump complete"
_FROM = b"-- Dumped from database version "
_BY = b"-- Dumped by pg_dump version "
_IDENTIFIER = rb'(?:"(?:[^"]|"")+"|[^".(), ]+)'
_TABLE = re.compile(rb"(?P<schema>" + _IDENTIFIER + rb"\.)?" + _IDENTIFIER)
_COLUMN = re.compile(_IDENTIFIER)
# Before 10.3 and 9.6.8 pg_dump wrote names without their schema, behind a line that says which it is.
_SEARCH_PATH = re.compile(rb"SET search_path = (" + _IDENTIFIER + rb")(?:, pg_catalog)?;")
_END_OF_DATA = b"\\.\n"
_END_LINE = b"\n" + _END_OF_DATA
# No statement of a schema has lines of this length; what has them is not SQL.
_LONGEST_LINE: Final = 16 << 20

NULL: Final = b"\\N"
"""What COPY writes for NULL."""
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class RowSink(Protocol):
    """Takes a table's rows as COPY writes them: bytes without the newline, fields between tabs, still escaped."""

    def take(self, rows: Sequence[bytes], /) -> object: ...


class RowWatcher(Protocol):
    """Chooses, table by table, who gets the rows."""

    def begin_table(self, table: str, columns: tuple[str, ...], /) -> RowSink | None:
        """``table`` is as pg_dump writes it (``public.users``), ``columns`` are in the order of the fields."""
        ...


@dataclass(frozen=True, slots=True)
class DumpSummary:
    """What a complete dump holds. ``tables`` maps names as pg_dump writes them (``public.users``) to rows."""

    dumped_from: str
    dumped_by: str
    tables: Mapping[str, int]
    size: int

    @property
    def rows(self) -> int:
        return sum(self.tables.values())


class DumpCheck:
    """A Sink for plain SQL as pg_dump writes it (9.2 to 18); ``finish`` says whether it is complete.

    ``name`` is what error messages call it. Rows that no watcher wants are only counted, whatever their length.
    """

    def __init__(self, name: str = "the database dump", watchers: Iterable[RowWatcher] = ()) -> None:
        self._name = name
        self._watchers = tuple(watchers)
        self._size = 0
        self._rest = b""  # the beginning of a line that has not ended yet
        self._schema = ""
        self._table: str | None = None  # whose data passes
        self._sinks: tuple[RowSink, ...] = ()
        self._inside_line = False  # of data that nobody watches, whose beginning is not kept
        self._tables: dict[str, int] = {}
        self._begun = False
        self._complete = False
        self._versions: dict[bytes, str] = {}
        self._restricted: bytes | None = None
        self._unrestricted: bytes | None = None

    def write(self, data: memoryview, /) -> None:
        self._size += len(data)
        block = self._rest + data if self._rest else bytes(data)
        self._rest = b""
        at = 0
        while at < len(block):
            if self._table is None:
                at = self._read_statements(block, at)
            elif self._sinks:
                at = self._show_rows(block, at)
            else:
                at = self._count_rows(block, at)

    def close(self) -> None:
        """Nothing is decided yet: ``finish`` does."""

    def finish(self) -> DumpSummary:
        """Return what was seen. Raises SetDamaged unless the dump came to its own end."""
        if not self._size:
            raise SetDamaged(f"{self._name} is empty: pg_dump wrote nothing")
        if not self._begun:
            raise SetDamaged(f"{self._name} is no dump of PostgreSQL")
        if self._table is not None:
            raise SetDamaged(f"{self._name} breaks off inside the data of table {self._table}")
        if not self._complete or self._rest.strip(b"-\n"):
            raise SetDamaged(f"{self._name} breaks off: its last line is not the end of a dump")
        # pg_dump writes the pair since 13.22, 14.19, 15.14, 16.10 and 17.6; psql refuses a dump whose tokens differ.
        if self._restricted != self._unrestricted:
            raise SetDamaged(f"{self._name} breaks off: \\unrestrict is missing or not that of \\restrict")
        return DumpSummary(self._versions.get(_FROM, ""), self._versions.get(_BY, ""), dict(self._tables), self._size)

    # -- rows ----------------------------------------------------------------------------------------------------

    def _count_rows(self, block: bytes, at: int) -> int:
        """Count rows up to the end of the data, or of the block; return where to go on."""
        assert self._table is not None
        if not self._inside_line and block.startswith(_END_OF_DATA, at):
            self._table = None
            return at + len(_END_OF_DATA)
        # Most blocks hold no end, and looking from behind finds that out twice as fast.
        if block.rfind(_END_LINE, at) >= 0:
            end = block.find(_END_LINE, at)
            self._tables[self._table] += block.count(b"\n", at, end + 1)
            self._table, self._inside_line = None, False
            return end + len(_END_LINE)
        self._tables[self._table] += block.count(b"\n", at)
        last = block.rfind(b"\n", at)
        begun = block[max(last + 1, at) :] if last >= 0 or not self._inside_line else b"-"
        self._inside_line = not _END_OF_DATA.startswith(begun)
        self._rest = b"" if self._inside_line else begun
        return len(block)

    def _show_rows(self, block: bytes, at: int) -> int:
        """Pass on whole rows up to the end of the data, or of the block; return where to go on."""
        if block.startswith(_END_OF_DATA, at):
            self._table, self._sinks = None, ()
            return at + len(_END_OF_DATA)
        end = block.find(_END_LINE, at)
        stop = (end if end >= 0 else block.rfind(b"\n", at)) + 1
        if stop:
            self._show(block[at : stop - 1].split(b"\n"))
        if end >= 0:
            self._table, self._sinks = None, ()
            return end + len(_END_LINE)
        self._rest = block[stop or at :]
        return len(block)

    def _show(self, rows: list[bytes]) -> None:
        assert self._table is not None
        self._tables[self._table] += len(rows)
        for sink in self._sinks:
            sink.take(rows)

    # -- statements ----------------------------------------------------------------------------------------------

    def _read_statements(self, block: bytes, at: int) -> int:
        """Read lines up to the next table's data, or to the end of the block; return where to go on."""
        while self._table is None:
            end = block.find(b"\n", at)
            if end < 0:
                self._rest = block[at:]
                if len(self._rest) > _LONGEST_LINE:
                    raise SetDamaged(f"{self._name} is no dump of PostgreSQL: a line has no end")
                return len(block)
            self._read_line(block[at:end])
            at = end + 1
        return at

    def _read_line(self, line: bytes) -> None:
        if line == _COMPLETE:
            self._complete = True
        elif line.startswith(b"\\unrestrict "):
            self._unrestricted = line.split(b" ", 1)[1]
        elif line not in {b"", b"--"}:
            self._complete = False  # the words were part of something else: more follows
            self._read_statement(line)

    def _read_statement(self, line: bytes) -> None:
        if line.startswith(b"COPY ") and line.endswith(b" FROM stdin;"):
            self._begin_table(line)
        elif line == _HEAD:
            self._begun = True
        elif line.startswith(b"\\restrict "):
            self._restricted = line.split(b" ", 1)[1]
        elif found := _SEARCH_PATH.fullmatch(line):
            self._schema = found[1].decode("utf-8", "replace") + "."
        else:
            for words in (_FROM, _BY):
                if line.startswith(words):
                    self._versions.setdefault(words, line[len(words) :].decode("utf-8", "replace"))

    def _begin_table(self, line: bytes) -> None:
        # Whatever stands between: rows that were taken for statements could forge the end of the dump.
        found = _TABLE.match(line, len(b"COPY "))
        name = (found[0] if found else line).decode("utf-8", "replace")
        if found and not found["schema"]:
            name = self._schema + name
        self._table = name
        self._tables.setdefault(name, 0)
        columns = _columns(line[found.end() :]) if found else ()
        chosen = (watcher.begin_table(name, columns) for watcher in self._watchers)
        self._sinks = tuple(sink for sink in chosen if sink is not None)


def read_field(field: bytes) -> bytes | None:
    """Undo what COPY did to one field; None for NULL."""
    if field == NULL:
        return None
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), field) if b"\\" in field else field


def _columns(text: bytes) -> tuple[str, ...]:
    """Read ``(a, "b c") FROM stdin;``; a table without columns has no list."""
    inner = text.strip().removesuffix(b"FROM stdin;").strip()
    if not inner.startswith(b"("):
        return ()
    names = (found.decode("utf-8", "replace") for found in _COLUMN.findall(inner[1:-1]))
    return tuple(name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names)
