"""Policy files: the ready ones are right, the schema is theirs, and what is wrong is said by file and key."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema
import pytest

from drtool.core.policy import Objectives
from drtool.errors import ConfigError
from drtool.policies import Policy, read_policy, schema_text

POLICIES = Path(__file__).parent.parent.parent / "policies"
READY = sorted(POLICIES.glob("*.toml"))


def complaint(tmp_path: Path, text: str) -> str:
    """What is said about a bad file, less the file's name."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert caught.value.hint
    return str(caught.value).replace(f"{path}: ", "")


def test_there_are_the_four_ready_policies() -> None:
    assert {path.stem for path in READY} == {"small-team", "business", "regulated", "air-gapped"}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_policy_can_be_read_and_promises_something(path: Path) -> None:
    policy = read_policy(path)

    assert not policy.retention.as_retention().is_empty
    assert policy.objectives.rpo and policy.objectives.rto and policy.objectives.drill_age
    assert policy.seal.required
    assert policy.verification.digest and policy.verification.digest <= policy.retention.patience


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_policy_fits_the_schema(path: Path) -> None:
    jsonschema.validate(tomllib.loads(path.read_text()), json.loads(schema_text()))


@pytest.mark.parametrize(
    "text",
    ["[retention]\ndialy = 3", "[objectives]\nrpo = 26", '[objectives]\nrpo = "a day"', "[retention]\nlast = -1"],
)
def test_schema_refuses_what_the_reader_refuses(tmp_path: Path, text: str) -> None:
    complaint(tmp_path, text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), json.loads(schema_text()))


def test_schema_in_the_repository_is_the_one_of_the_code() -> None:
    again = "python -c 'from drtool.policies import schema_text; print(schema_text(), end=\"\")'"
    written = (POLICIES / "policy.schema.json").read_text()
    assert written == schema_text(), f"make it anew: {again} > policies/policy.schema.json"


def test_the_readme_names_every_policy_and_no_other() -> None:
    named = re.findall(r"\]\(([a-z-]+)\.toml\)", (POLICIES / "README.md").read_text())
    assert sorted(named) == [path.stem for path in READY]


def test_an_empty_file_keeps_everything_and_wants_sealing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")

    policy = read_policy(path)

    assert policy == Policy()
    assert policy.retention.as_retention().is_empty
    assert policy.seal.required
    assert policy.objectives.as_objectives() == Objectives()


def test_policy_becomes_the_values_that_are_decided_with(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        '[retention]\nhourly = 24\nwithin = "90m"\ntime_zone = "Europe/Berlin"\n[objectives]\nrpo = "26h"\n'
        '[lock]\ndays = 3\nmode = "compliance"\n[verification]\nsample = "5%"\n'
    )

    policy = read_policy(path)
    retention = policy.retention.as_retention()

    assert (retention.hourly, retention.within) == (24, timedelta(minutes=90))
    assert retention.zone == ZoneInfo("Europe/Berlin")
    assert retention.sets_a_day > 24  # as many as it asks for are nothing unusual
    assert policy.objectives.as_objectives().rpo == timedelta(hours=26)
    assert policy.lock and policy.lock.duration == timedelta(days=3)
    assert policy.verification.sample == 0.05


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retention]\ndialy = 3", "retention.dialy: no such key"),
        ("[retention]\ndaily = '3'", "retention.daily: should be a valid integer"),
        ("[retention]\nminimum = 0", "retention.minimum: should be greater than or equal to 1"),
        ('[retention]\ntime_zone = "Mars/Base"', "retention.time_zone: this host knows no time zone 'Mars/Base'"),
        ('[retention]\ntime_zone = "../../etc/passwd"', "retention.time_zone: this host knows no time zone"),
        ('[objectives]\nrpo = "1w"', "objectives.rpo: write minutes, hours or days"),
        ("[objectives]\nrto = 4", "objectives.rto: write minutes, hours or days"),
        ("[lock]", "lock.days: is missing"),
        ('[lock]\ndays = 3\nmode = "soft"', "lock.mode: should be 'governance' or 'compliance'"),
        ('[verification]\nsample = "0%"', "verification.sample: write a share"),
        ('[retention]\nlast = 1\npatience = "1d"\n[verification]\ndigest = "7d"', "retention.patience is shorter"),
        ("retention = 3", "retention: should be a table"),
        ("[retention", "not TOML"),
    ],
)
def test_wrong_policy_is_refused_by_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    assert complaint(tmp_path, text).startswith(said)


def test_policy_that_is_no_file_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: cannot be read")):
        read_policy(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_policy(tmp_path / "binary")
