"""The values of one encrypted column: gathered, tried in batches, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from drtool.gitlab.secrets.columns import Column, Family, Kind
from drtool.gitlab.secrets.fields import EMPTY, unescape
from drtool.gitlab.secrets.keyring import Keyring
from drtool.gitlab.secrets.layouts import (
    Odd,
    Scheme,
    Sealed,
    looks_like_message,
    read_message,
    read_pair,
    read_token,
)
from drtool.gitlab.secrets.verdict import ColumnCount, Untested

_BATCH: Final = 1024

Raw = tuple[bytes, ...]
"""The fields of one value as COPY wrote them: itself, its IV, its salt, as far as there are columns for them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How much to try, so that the time is bounded whatever the size of the database.

    ``values`` of each column; ``slow`` of those that need a derived key each, and once ``slow_in_all`` keys were
    derived only ``slow_at_least`` of each further column. Of a table beyond ``rows`` rows ever fewer are looked at.
    ``seed`` shifts the choice: with another one each night, every value has its turn.
    """

    values: int = 500
    slow: int = 200
    slow_in_all: int = 20_000
    slow_at_least: int = 8
    rows: int = 100_000
    seed: int = 0


@dataclass(slots=True)
class _Tally:
    opened: int = 0
    failed: int = 0
    superseded: int = 0
    opened_with: Counter[str] = field(default_factory=Counter)


class Gathering:
    """Takes rows of one table. Without a ``sample`` every value is tried as it comes, else a choice at the end."""

    def __init__(self, column: Column, keyring: Keyring, sample: Sample | None) -> None:
        self.column = column
        self._keyring, self._sample = keyring, sample
        self._seed = sample.seed if sample else 0
        self._places = [place for place in (column.value, column.iv, column.salt) if place is not None]
        self._last = max(self._places)
        self._kept: list[tuple[int, Raw]] = []
        self._seen, self._stride = 0, 1
        self._tallies: dict[tuple[Family, Scheme], _Tally] = {}
        self._odd: Counter[Odd] = Counter()

    def take(self, fields: Sequence[bytes]) -> None:
        """Keep the value of a row, if it has one that is to be tried. Its fields may be split no further than needed:
        what is behind the last one is not looked at."""
        if len(fields) <= self._last:
            self._odd[Odd.SHORT_ROW] += 1
            return
        if fields[self.column.value] in EMPTY:
            return
        number, self._seen = self._seen, self._seen + 1
        if not self._is_chosen(number):
            return
        self._kept.append((number, tuple([fields[place] for place in self._places])))
        if self._sample is None:
            if len(self._kept) == _BATCH:
                self._try_kept(None)
        elif len(self._kept) > self._sample.values:
            # From here on every second of those; so the choice stays spread over all that passes.
            self._stride *= 2
            self._kept = [kept for kept in self._kept if self._is_chosen(kept[0])]

    def finish(self, keys_left: int) -> int:
        """Try what is left. ``keys_left`` is how many keys a sample may still derive; return how many it did."""
        if self._sample is None:
            return self._try_kept(None)
        return self._try_kept(self._sample.slow if keys_left > 0 else self._sample.slow_at_least)

    def counts(self) -> Iterator[ColumnCount]:
        if self._is_something_else():
            return
        for (family, scheme), tally in sorted(self._tallies.items()):
            yield ColumnCount(
                self.column.table,
                self.column.name,
                scheme,
                family,
                tally.opened,
                tally.failed,
                tally.superseded,
                tuple(sorted(tally.opened_with.items())),
            )

    def untested(self) -> Iterator[Untested]:
        if not self._is_something_else():
            for odd, count in sorted(self._odd.items()):
                yield Untested(self.column.table, self.column.name, self.column.family, odd, count)

    def _is_something_else(self) -> bool:
        """Say whether the column only looked like one that holds ciphertext."""
        if self.column.certain:
            return False
        return bool(self._odd) if self.column.kind is Kind.MESSAGE else not self._tallies

    def _is_chosen(self, number: int) -> bool:
        return self._stride == 1 or (number + self._seed) % self._stride == 0

    def _try_kept(self, slow: int | None) -> int:
        """Try and forget what is kept, of slow values at most ``slow``. Return how many keys were derived."""
        values: list[Sealed] = []
        salted: list[Sealed] = []
        for _, raw in self._kept:
            sealed = self._read(raw)
            if isinstance(sealed, Odd):
                self._odd[sealed] += 1
            else:
                (salted if sealed.scheme is Scheme.CBC_SALTED else values).append(sealed)
        self._kept.clear()
        if slow is not None:
            salted = salted[:: -(-len(salted) // slow) or 1]
        for family in Family:
            self._open(family, [each for each in values + salted if self._family_of(each) is family])
        return len(salted) * self._keyring.count(self.column.family) if salted else 0

    def _read(self, raw: Raw) -> Sealed | Odd:
        value, *companions = (unescape(field) for field in raw)
        if self.column.kind is Kind.MESSAGE or looks_like_message(value):
            return read_message(value)
        if self.column.kind is Kind.TOKEN:
            return read_token(value)
        return read_pair(value, *companions)

    def _family_of(self, sealed: Sealed) -> Family:
        return Family.RAILS if sealed.scheme.of_rails else self.column.family

    def _open(self, family: Family, values: Sequence[Sealed]) -> None:
        if not values:
            return
        for sealed, opener in zip(values, self._keyring.open(family, values), strict=True):
            scheme = sealed.scheme
            if opener is not None and opener.deterministic:
                scheme = Scheme.RAILS_DETERMINISTIC
            tally = self._tallies.setdefault((family, scheme), _Tally())
            if opener is None or not opener.current:
                tally.failed += 1
                tally.superseded += opener is not None
            else:
                tally.opened += 1
                tally.opened_with[opener.label] += 1
