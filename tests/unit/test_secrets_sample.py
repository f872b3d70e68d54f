"""A sample is bounded, spread over all that passes, and says that it was one; without one, everything is tried."""

from __future__ import annotations

import pytest

from drtool.gitlab.secrets import ColumnCount, Fit, Sample, SecretsVerdict
from drtool.gitlab.secrets.columns import Family
from drtool.gitlab.secrets.layouts import Scheme
from drtool.gitlab.secrets.verdict import judge
from tests.sealed import RIGHT, WRONG, check, counted, seal, secrets_of, table

MANY = [seal("H", RIGHT, n) for n in range(3000)]
SMALL = Sample(values=50, slow=10, slow_in_all=30, slow_at_least=4, rows=400)


def tried(verdict: SecretsVerdict) -> int:
    (column,) = verdict.columns
    return column.tried


def test_without_a_sample_every_value_is_tried() -> None:
    verdict = check(RIGHT, table("ci_builds", "token_encrypted", MANY))
    assert (tried(verdict), verdict.complete) == (3000, True)
    assert "all values tried" in verdict.sentence()


def test_a_sample_is_bounded_and_says_so() -> None:
    verdict = check(RIGHT, table("ci_builds", "token_encrypted", MANY), sample=SMALL)
    assert 25 <= tried(verdict) <= 50
    assert not verdict.complete
    assert "a sample tried" in verdict.sentence()


def test_a_sample_tries_all_of_what_is_few() -> None:
    values = [(None,)] * 300 + MANY[:40]
    assert tried(check(RIGHT, table("ci_builds", "token_encrypted", values), sample=SMALL)) == 40


@pytest.mark.parametrize("lost", [slice(0, 1000), slice(1000, 2000), slice(2000, 3000)])
def test_a_sample_meets_every_part_of_a_table(lost: slice) -> None:
    values = list(MANY)
    values[lost] = [seal("H", WRONG, n) for n in range(1000)]
    verdict = check(RIGHT, table("ci_builds", "token_encrypted", values), sample=Sample(values=50))
    (column,) = verdict.columns
    assert 0.2 < column.failed / column.tried < 0.5
    assert verdict.fit is Fit.PARTLY


def test_the_same_sample_is_the_same_and_all_seeds_together_meet_every_value() -> None:
    one_lost = [*MANY[:99], seal("H", WRONG), *MANY[100:180]]
    values = table("ci_builds", "token_encrypted", one_lost)
    verdicts = [[check(RIGHT, values, sample=Sample(values=50, seed=seed)).fit for seed in range(4)] for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert set(verdicts[0]) == {Fit.FITS, Fit.PARTLY}


def test_rows_of_a_huge_table_are_looked_at_with_growing_strides_up_to_its_end() -> None:
    lost_at_the_end = [(None,)] * 2900 + [seal("H", WRONG, n) for n in range(100)]
    verdict = check(RIGHT, table("ci_builds", "token_encrypted", lost_at_the_end), sample=SMALL)
    assert 0 < tried(verdict) < 50
    assert verdict.fit is Fit.DOES_NOT_FIT


def test_values_that_need_a_key_each_are_bounded_in_a_column_and_over_all_columns() -> None:
    values = [seal("E", RIGHT, n) for n in range(45)]
    tables = [table(f"made_{n:02}", "encrypted_value", values) for n in range(8)]
    verdict = check(RIGHT, *tables, sample=SMALL)
    assert [sum(found) for found in counted(verdict).values()] == [9, 9, 9, 9, 4, 4, 4, 4]


def cbc(opened: int, failed: int) -> Fit:
    column = ColumnCount("ci_variables", "encrypted_value", Scheme.CBC_SALTED, Family.DB, opened, failed)
    return judge(secrets_of(RIGHT), [column], [], complete=True).fit


@pytest.mark.parametrize(
    ("opened", "failed", "fit"),
    [
        (0, 0, Fit.UNTESTED),
        (1, 0, Fit.UNTESTED),
        (2, 0, Fit.FITS),
        (0, 1, Fit.DOES_NOT_FIT),
        (1, 1, Fit.DOES_NOT_FIT),
        (2, 2, Fit.PARTLY),
        (1, 499, Fit.DOES_NOT_FIT),
        (2, 498, Fit.DOES_NOT_FIT),
        (9, 2_300_000, Fit.DOES_NOT_FIT),
        (2_300_000, 9, Fit.PARTLY),
    ],
)
def test_values_without_a_tag_prove_a_key_only_in_numbers_that_chance_does_not_bring(
    opened: int, failed: int, fit: Fit
) -> None:
    assert cbc(opened, failed) is fit


def test_one_value_with_a_tag_proves_a_key_and_one_that_fails_is_not_hidden_by_chance() -> None:
    sure = ColumnCount("projects", "runners_token_encrypted", Scheme.TOKEN, Family.DB, 1, 0)
    lost = ColumnCount("projects", "runners_token_encrypted", Scheme.TOKEN, Family.DB, 0, 1)
    chance = ColumnCount("ci_variables", "encrypted_value", Scheme.CBC_SALTED, Family.DB, 1, 0)
    assert judge(secrets_of(RIGHT), [sure, chance], [], complete=True).fit is Fit.FITS
    assert judge(secrets_of(RIGHT), [lost, chance], [], complete=True).fit is Fit.DOES_NOT_FIT
