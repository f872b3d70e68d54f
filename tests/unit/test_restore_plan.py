"""What the steps of a restore are, and in which order: some of it holds only as long as nothing comes between."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest

from drtool.core.marker import Marker
from drtool.core.model import Archive
from drtool.core.packages import Package
from drtool.core.plan import Plan, Record
from drtool.installs.omnibus import Omnibus
from drtool.restore_plan import Wanted, plan_restore, plan_undo
from tests import sets
from tests.unit.test_fitness import HOST

RUN = "restore-20260114T031500Z-0001"
MARKER = Marker(RUN, sets.SET_ID, datetime(2026, 1, 14, 3, 15, tzinfo=UTC), "here", "staging", RUN, had_data=True)
PACKAGE = Package("gitlab-ee", "18.9.0-ee.0", "18.9.0-ee")
WAYS = [
    Wanted(package, isolate=isolate, count=count, drill=drill)
    for package, isolate, count, drill in product((None, PACKAGE), (False, True), (False, True), (False, True))
]


def plan(wanted: Wanted, *, had_data: bool = True) -> Plan:
    manifest = sets.manifest_of((), Archive("index", "none", (), 0, ()))
    return plan_restore(Omnibus(), manifest, HOST, replace(MARKER, had_data=had_data), wanted)


def names(found: Plan) -> list[str]:
    return [step.name for step in found.steps]


@pytest.mark.parametrize("wanted", WAYS)
def test_nothing_comes_between_quiescing_and_what_needs_it(wanted: Wanted) -> None:
    for found in (plan(wanted), plan_undo(Omnibus(), "gitlab", HOST, MARKER)):
        order = names(found)
        assert order.index("restore") == order.index("quiesce") + 1


@pytest.mark.parametrize("wanted", WAYS)
def test_everything_is_proven_and_kept_before_anything_is_replaced(wanted: Wanted) -> None:
    order = names(plan(wanted))
    first = order.index("replace")
    for before in ("prove", "mark", "stage", "idle", "safety-copy", "keep-config"):
        assert order.index(before) < first
    assert order.index("send-config") > first


@pytest.mark.parametrize("wanted", WAYS)
def test_the_mark_goes_once_all_is_proven_and_the_receipt_is_last(wanted: Wanted) -> None:
    found = plan(wanted)
    order = names(found)
    for proof in ("up", "ready", "check", "secrets"):
        assert order.index(proof) < order.index("unmark")
    assert isinstance(found.steps[-1], Record)


@pytest.mark.parametrize("wanted", [way for way in WAYS if way.isolate])
def test_what_is_isolated_is_so_before_anything_starts(wanted: Wanted) -> None:
    order = names(plan(wanted))
    assert order.index("isolate-configuration") < order.index("reconfigure")
    assert order.index("hold") < order.index("restore") < order.index("isolate-database")
    assert order.index("isolate-database") < order.index("let-go") < order.index("start")


def test_a_target_without_data_needs_no_safety_copy_of_it() -> None:
    order = names(plan(Wanted(), had_data=False))
    assert "safety-copy" not in order
    assert "keep-config" in order


def test_a_drill_is_called_one() -> None:
    assert plan(Wanted(isolate=True, drill=True)).purpose == "drill"
    assert plan(Wanted(isolate=True)).purpose == "restore"
