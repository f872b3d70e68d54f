"""Try the secrets on the encrypted values of a database dump while it passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from drtool.gitlab.secrets.columns import Column, Family, Kind, find_columns
from drtool.gitlab.secrets.fields import EMPTY, unescape
from drtool.gitlab.secrets.gathering import Gathering, Sample
from drtool.gitlab.secrets.keyring import Keyring, Over
from drtool.gitlab.secrets.layouts import Sealed, looks_like_message, read_message
from drtool.gitlab.secrets.values import Secrets
from drtool.gitlab.secrets.verdict import ColumnCount, SecretsVerdict, Untested, judge

_FIRST_ROWS: Final = 64  # of a table, in which every column is looked at
_MARK: Final = b'"at"'  # a header that every message of Rails' own encryption has


class SecretsCheck:
    """A RowWatcher for ``DumpCheck``; ``finish`` judges. All databases of an instance may pass one after the other.

    Without a ``sample`` every value is tried. ``over`` is ``map``, or that of an executor with threads.
    """

    def __init__(self, secrets: Secrets, *, sample: Sample | None = None, over: Over = map) -> None:
        self._secrets, self._sample = secrets, sample
        self._keyring = Keyring(secrets, over=over)
        self._keys_left = sample.slow_in_all if sample else 0
        self._table: TableSink | None = None
        self._counts: list[ColumnCount] = []
        self._untested: list[Untested] = []

    def begin_table(self, table: str, columns: tuple[str, ...], /) -> TableSink | None:
        """Choose what to look at. The table before is done with."""
        self._end_table()
        if columns:
            self._table = TableSink(table, columns, self._gather, self._sample)
        return self._table

    def finish(self) -> SecretsVerdict:
        """Judge what passed."""
        self._end_table()
        return judge(self._secrets, self._counts, self._untested, complete=self._sample is None)

    def _gather(self, column: Column) -> Gathering:
        return Gathering(column, self._keyring, self._sample)

    def _end_table(self) -> None:
        gatherings, self._table = self._table.gatherings if self._table else [], None
        for gathering in gatherings:
            self._keys_left -= gathering.finish(self._keys_left)
            self._counts += gathering.counts()
            self._untested += gathering.untested()


class TableSink:
    """Takes the rows of one table, and passes them to the gatherings of its encrypted columns."""

    def __init__(
        self, table: str, header: tuple[str, ...], gather: Callable[[Column], Gathering], sample: Sample | None
    ) -> None:
        self.gatherings = [gather(column) for column in find_columns(table, header)]
        self._name, self._header, self._gather, self._sample = table, header, gather, sample
        self._unknown = set(range(len(header))) - {gathering.column.value for gathering in self.gatherings}
        self._rows = 0
        self._aim()

    def take(self, rows: Sequence[bytes], /) -> None:
        before, self._rows = self._rows, self._rows + len(rows)
        rows = self._thinned(rows, before)
        if before < _FIRST_ROWS:
            self._look_at(islice(rows, _FIRST_ROWS - before))
        elif self._unknown:
            self._look_at(row for row in rows if _MARK in row)
        if self.gatherings:
            for row in rows:
                fields = row.split(b"\t", self._splits)
                for gathering in self.gatherings:
                    gathering.take(fields)

    def _thinned(self, rows: Sequence[bytes], before: int) -> Sequence[bytes]:
        if self._sample is None:
            return rows
        stride = 1 << (before // self._sample.rows).bit_length()
        return rows[-(before + self._sample.seed) % stride :: stride]

    def _look_at(self, rows: Iterable[bytes]) -> None:
        """Find columns of Rails' own encryption, whatever their names: the first value is a message.

        Anybody may write a message into a comment; so the gathering drops the column if another value is none.
        """
        for row in rows:
            fields = row.split(b"\t")
            for index in self._unknown.intersection(range(len(fields))):
                value = fields[index]
                if value in EMPTY:
                    continue
                self._unknown.discard(index)
                if looks_like_message(value) and isinstance(read_message(unescape(value)), Sealed):
                    name = self._header[index]
                    self.gatherings.append(
                        self._gather(Column(self._name, name, Kind.MESSAGE, Family.RAILS, index, certain=False))
                    )
                    self._aim()

    def _aim(self) -> None:
        """Know how far a row must be split."""
        columns = [gathering.column for gathering in self.gatherings]
        self._splits = 1 + max((max(c.value, c.iv or 0, c.salt or 0) for c in columns), default=0)
