"""Judge a plain SQL dump of PostgreSQL while it passes: is it whole, and how many rows has each table?

A dump that died leaves a perfectly valid gzip file (GitLab 18.9 even archives an empty one), so only the dump's own
last lines prove it. They are looked for outside of table data, which may hold any text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from drtool.errors import SetDamaged

_HEAD = b"-- PostgreSQL database dump"
_COMPLETE = b"-- PostgreSQL database dump complete"
_FROM = b"-- Dumped from database version "
_BY = b"-- Dumped by pg_dump version "
_IDENTIFIER = rb'(?:"(?:[^"]|"")+"|[^".( ]+)'
_TABLE = re.compile(_IDENTIFIER + rb"(?:\." + _IDENTIFIER + rb")?")
_END_OF_DATA = b"\\.\n"
# No statement of a schema has lines of this length; what has them is not SQL.
_LONGEST_LINE = 16 << 20


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
    """A Sink for plain SQL as pg_dump writes it (13 to 18); ``finish`` says whether it is complete.

    ``name`` is what error messages call it.
    """

    def __init__(self, name: str = "the database dump") -> None:
        self._name = name
        self._size = 0
        self._rest = b""  # the beginning of a line that has not ended yet
        self._table: str | None = None  # whose data passes
        self._inside_line = False  # of that data, whose beginning is not kept
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
            at = self._read_rows(block, at) if self._table is not None else self._read_statements(block, at)

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

    def _read_rows(self, block: bytes, at: int) -> int:
        """Count rows up to the end of the data, or of the block; return where to go on."""
        assert self._table is not None
        if not self._inside_line and block.startswith(_END_OF_DATA, at):
            self._table = None
            return at + len(_END_OF_DATA)
        end = block.find(b"\n" + _END_OF_DATA, at)
        if end >= 0:
            self._tables[self._table] += block.count(b"\n", at, end + 1)
            self._table, self._inside_line = None, False
            return end + 1 + len(_END_OF_DATA)
        self._tables[self._table] += block.count(b"\n", at)
        last = block.rfind(b"\n", at)
        begun = block[max(last + 1, at) :] if last >= 0 or not self._inside_line else b"-"
        self._inside_line = not _END_OF_DATA.startswith(begun)
        self._rest = b"" if self._inside_line else begun
        return len(block)

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
            # Whatever stands between: rows that were taken for statements could forge the end of the dump.
            found = _TABLE.match(line, len(b"COPY "))
            self._table = (found[0] if found else line).decode("utf-8", "replace")
            self._tables.setdefault(self._table, 0)
        elif line == _HEAD:
            self._begun = True
        elif line.startswith(b"\\restrict "):
            self._restricted = line.split(b" ", 1)[1]
        else:
            for words in (_FROM, _BY):
                if line.startswith(words):
                    self._versions.setdefault(words, line[len(words) :].decode("utf-8", "replace"))
