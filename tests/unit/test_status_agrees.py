"""I8: exit status, JSON, metrics and text of ``status`` never disagree, over many made-up situations."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from drtool.core.history import KnownSet
from drtool.core.model import new_set_id
from drtool.core.policy import Objectives
from drtool.core.situation import Done, Situation, StoreSeen
from drtool.core.standing import Promises, judge
from drtool.errors import ConfigError
from drtool.metrics import registry_of, write_metrics
from drtool.report_status import NOT_WELL, NOTHING, WELL, status_text
from drtool.ui import Ui
from tests.sets import NIGHT
from tests.standings import situations

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = NIGHT + 10 * DAY
STRICT = Promises(Objectives(26 * HOUR, 8 * HOUR, 100 * DAY), 7 * DAY, 7 * DAY, 2, 3 * DAY)
LOOSE = Promises(Objectives(20 * DAY, 100 * DAY, 100 * DAY))


@given(situations(), st.sampled_from([STRICT, LOOSE, Promises()]))
@settings(max_examples=60, deadline=None)
def test_exit_status_json_metrics_and_text_of_a_standing_agree(situation: Situation, promises: Promises) -> None:
    standing = judge(situation, promises, NOW)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        Ui(as_json=True).result({"instances": [standing], "exit_status": standing.exit_status}, "")
    (told,) = json.loads(printed.getvalue())["instances"]
    text, registry = status_text([standing]), registry_of([standing])

    assert told["exit_status"] == value(registry, "status_exit_status") == standing.exit_status
    assert (text.splitlines()[-1] in (WELL, NOTHING)) == (standing.exit_status == 0)
    assert (NOT_WELL in text) == (standing.exit_status != 0)
    assert told["reachable"] == bool(value(registry, "store_reachable"))
    assert told["reachable"] == ("does not answer" not in text.splitlines()[1])
    for each in told["objectives"]:
        verdicts = {
            verdict
            for verdict in ("met", "breached", "unknown", "not promised")
            if value(registry, "objective", objective=each["name"], verdict=verdict)
        }
        assert verdicts == {each["verdict"]}
        assert each["promised"] == value(registry, "objective_promised_seconds", objective=each["name"])
        assert each["reached"] == value(registry, "objective_reached_seconds", objective=each["name"])
    assert text.count("breached") == sum(each["verdict"] == "breached" for each in told["objectives"])
    for severity in ("red", "amber"):
        count = sum(found["severity"] == severity for found in told["findings"])
        assert value(registry, "findings", severity=severity) == count
    assert all(found["message"] in text for found in told["findings"])
    for copy in told["copies"]:
        assert bool(value(registry, "copy_complete", store=copy["store"])) == copy["complete"]
        assert (f"copy in {copy['store']}: complete" in text) == copy["complete"]
    newest = told["last_restorable"]
    taken = value(registry, "last_restorable_set_timestamp_seconds")
    assert (newest is None) == (taken is None)
    assert newest is None or f"can be restored: {newest['set_id']}, {newest['state']}" in text


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"drtool_{name}", {"instance": "gitlab", **labels})


def test_metrics_replace_the_file_as_a_whole_and_can_be_read_by_everybody(tmp_path: Path) -> None:
    standing = judge(Situation("gitlab", StoreSeen("main")), Promises(), NOW)
    file = tmp_path / "drtool.prom"
    file.write_text("old")

    write_metrics(file, [standing])

    assert [*tmp_path.iterdir()] == [file]
    assert file.stat().st_mode & 0o777 == 0o644
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("drtool_status_timestamp_seconds{")]
    assert float(line.split()[1]) == NOW.timestamp()


def test_metrics_that_cannot_be_written_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    standing = judge(Situation("gitlab", StoreSeen("main")), Promises(), NOW)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_metrics(tmp_path / "nowhere/drtool.prom", [standing])
    (tmp_path / "taken.prom").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_metrics(tmp_path / "taken.prom", [standing])
    assert [*tmp_path.iterdir()] == [tmp_path / "taken.prom"]


def test_metrics_of_several_instances_stand_side_by_side() -> None:
    both = [judge(Situation(name, StoreSeen("main")), Promises(), NOW) for name in ("one", "two")]
    registry = registry_of(both)
    for name in ("one", "two"):
        assert registry.get_sample_value("drtool_status_exit_status", {"instance": name}) == 14


def test_where_nothing_is_promised_the_text_says_so() -> None:
    taken = NOW - HOUR
    known = KnownSet(new_set_id(taken, "0000"), taken, taken, "verified", 1)
    standing = judge(Situation("gitlab", StoreSeen("main", (known,))), Promises(), NOW)
    assert standing.exit_status == 0
    assert status_text([standing]).splitlines()[-1] == NOTHING


@pytest.mark.parametrize(
    ("took", "told"), [(9, "9 s"), (119, "119 s"), (600, "10 min"), (9000, "2 h"), (400000, "5 days")]
)
def test_how_long_a_restore_took_is_never_told_as_nothing(took: int, told: str) -> None:
    situation = Situation(
        "gitlab", StoreSeen("main"), restore=Done(NOW, "20260101T000000Z-0000", timedelta(seconds=took))
    )
    assert f"last measured restore: {told}," in status_text([judge(situation, Promises(), NOW)])
