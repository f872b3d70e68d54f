"""What of the differences between two hosts is somebody's work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drtool.core.census import compare
from drtool.cutover_runs import meaningful
from tests.cutover_world import census


@pytest.mark.parametrize("table", ["issues", "notes", "keys", "merge_requests"])
def test_rows_that_people_made_are_told(table: str) -> None:
    before, after = (replace(census(3), tables={f"public.{table}": rows}) for rows in (5, 7))
    assert [str(each) for each in meaningful(compare(before, after))] == [f"table public.{table} differs: 5; then 7"]


def test_rows_that_a_living_gitlab_makes_by_itself_are_not() -> None:
    before, after = (replace(census(3), tables={"public.audit_events": rows}) for rows in (5, 7))
    assert meaningful(compare(before, after)) == ()
