"""Do the secrets fit the database? Judge what trying them found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from drtool.gitlab.secrets.columns import Family
from drtool.gitlab.secrets.layouts import Scheme
from drtool.gitlab.secrets.values import Key, Secrets

_NEEDED: Final = {
    Family.DB: (Key.DB,),
    Family.OTP: (Key.OTP,),
    Family.RAILS: (Key.RAILS_PRIMARY, Key.RAILS_DETERMINISTIC, Key.RAILS_SALT),
}
_SHOWN: Final = 3


class Fit(StrEnum):
    FITS = "fits"
    PARTLY = "fits in part"  # secrets were lost once, or a value is missing of a list; GitLab itself fares the same
    DOES_NOT_FIT = "does not fit"
    UNTESTED = "could not be tested"


@dataclass(frozen=True, slots=True)
class ColumnCount:
    """What became of the values of one column in one scheme.

    ``superseded`` of those that failed open with a value that GitLab does not use, as another source overrules it.
    """

    table: str
    column: str
    scheme: Scheme
    family: Family
    opened: int
    failed: int
    superseded: int = 0
    opened_with: tuple[tuple[str, int], ...] = ()

    @property
    def tried(self) -> int:
        return self.opened + self.failed


@dataclass(frozen=True, slots=True)
class Untested:
    """Values of one column that no key was tried on, and why."""

    table: str
    column: str
    family: Family
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class FamilyVerdict:
    """Whether the secrets of one family fit. ``opened_with`` counts values by the key that opened them."""

    family: Family
    fit: Fit
    reason: str
    opened: int
    failed: int
    untested: int
    opened_with: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SecretsVerdict:
    """The whole answer. Holds names of tables and columns and counts, nothing of any value.

    ``complete`` is whether every value was tried, not a sample. ``problems`` are those of ``read_secrets``.
    """

    fit: Fit
    complete: bool
    families: tuple[FamilyVerdict, ...]
    columns: tuple[ColumnCount, ...]
    untested: tuple[Untested, ...]
    problems: tuple[str, ...]

    @property
    def opened(self) -> int:
        return sum(column.opened for column in self.columns)

    @property
    def failed(self) -> int:
        return sum(column.failed for column in self.columns)

    @property
    def culprits(self) -> tuple[ColumnCount, ...]:
        """Columns with values that did not open, those with most of them first."""
        return tuple(sorted((each for each in self.columns if each.failed), key=lambda each: -each.failed))

    def sentence(self) -> str:
        """Say it in one line."""
        how = "all values tried" if self.complete else "a sample tried"
        if self.fit is Fit.FITS:
            text = f"the secrets fit the database: {self.opened} values opened, {how}"
        elif self.fit is Fit.UNTESTED:
            text = "whether the secrets fit the database could not be tested"
        else:
            which = "do not fit" if self.fit is Fit.DOES_NOT_FIT else "fit only a part of"
            text = f"the secrets {which} the database: {self.failed} of {self.opened + self.failed} values do not open"
            text += f", {how} ({_few([_culprit(column) for column in self.culprits])})"
        reasons = [f"{each.family}: {each.reason}" for each in self.families if each.reason and _matters(each)]
        return "; ".join([text, *reasons])


def judge(
    secrets: Secrets, columns: Sequence[ColumnCount], untested: Sequence[Untested], *, complete: bool
) -> SecretsVerdict:
    """Draw the conclusions from the counts."""
    families = tuple(_judge_family(family, secrets, columns, untested) for family in Family)
    return SecretsVerdict(_together(families), complete, families, tuple(columns), tuple(untested), secrets.problems)


def _judge_family(
    family: Family, secrets: Secrets, columns: Sequence[ColumnCount], untested: Sequence[Untested]
) -> FamilyVerdict:
    mine = [column for column in columns if column.family is family]
    opened, failed = sum(column.opened for column in mine), sum(column.failed for column in mine)
    skipped = sum(each.count for each in untested if each.family is family)
    superseded = sum(column.superseded for column in mine)
    missing = [key for key in _NEEDED[family] if not secrets.current(key)]
    computed = [key for key in missing if key in secrets.unreadable]
    fit, reason = _fit(mine), ""
    if computed and (failed or skipped):
        fit, reason = Fit.UNTESTED, f"{' and '.join(computed)} could not be read"
    elif missing and failed:
        reason = f"the secrets hold no {' and no '.join(missing)}"
    elif fit is Fit.UNTESTED:
        reason = _why_untested(mine, skipped)
    if superseded:
        reason = "; ".join(filter(None, (reason, f"{superseded} values open with one that GitLab does not use")))
    return FamilyVerdict(family, fit, reason, opened, failed, skipped, _opened_with(mine))


def _fit(columns: Sequence[ColumnCount]) -> Fit:
    sure = [column for column in columns if column.scheme.authenticated]
    weak = [column for column in columns if not column.scheme.authenticated]
    failed = sum(column.failed for column in columns)
    proven = any(column.opened for column in sure) or _beyond_chance(weak)
    if proven:
        return Fit.PARTLY if failed else Fit.FITS
    return Fit.DOES_NOT_FIT if failed else Fit.UNTESTED


def _beyond_chance(columns: Iterable[ColumnCount]) -> bool:
    """Say whether so many values without a tag would not open by accident.

    With a wrong key one in a million does (measured: none of 400,000). Two of a few prove the key; of millions some
    always pass, so what proves must be thousands of times more than chance brings.
    """
    columns = list(columns)
    opened, tried = sum(column.opened for column in columns), sum(column.tried for column in columns)
    return opened >= 2 + tried // 500


def _together(families: Sequence[FamilyVerdict]) -> Fit:
    fits = {each.family: each.fit for each in families}
    for worst in (Fit.DOES_NOT_FIT, Fit.PARTLY):
        if worst in fits.values():
            return worst
    # A database always holds something under db_key_base; where none was seen, nobody knows.
    if fits[Family.DB] is not Fit.FITS or any(_is_open(each) for each in families):
        return Fit.UNTESTED
    return Fit.FITS


def _is_open(verdict: FamilyVerdict) -> bool:
    """Say whether there are values that leave a doubt. One lone value that opens is no proof, but no doubt either."""
    return verdict.fit is Fit.UNTESTED and bool(verdict.failed or verdict.untested)


def _matters(verdict: FamilyVerdict) -> bool:
    """Say whether a reason is worth telling: few databases hold values of every family."""
    return verdict.family is Family.DB or bool(verdict.opened or verdict.failed or verdict.untested)


def _why_untested(columns: Sequence[ColumnCount], skipped: int) -> str:
    if columns:
        return "too few values to be sure; what there is opens"
    return f"{skipped} values, none of a layout that is understood" if skipped else "the database holds no value of it"


def _opened_with(columns: Sequence[ColumnCount]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for column in columns:
        for label, count in column.opened_with:
            counts[label] = counts.get(label, 0) + count
    return tuple(sorted(counts.items()))


def _culprit(column: ColumnCount) -> str:
    return f"{column.table}.{column.column}: {column.failed} of {column.tried}, {column.scheme}"


def _few(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
