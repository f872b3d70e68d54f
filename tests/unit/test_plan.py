from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import timedelta
from itertools import product
from pathlib import PurePosixPath
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.core.command import Command
from drtool.core.packages import FromRepository, FromStore, Package
from drtool.core.plan import (
    Clone,
    Compare,
    Expect,
    Fit,
    Install,
    Isolate,
    Plan,
    Prove,
    PutBack,
    Record,
    Release,
    Restore,
    Run,
    Send,
    Step,
    Wait,
    parse_plan,
    plan_fields,
    render_plan,
)
from drtool.errors import ResumeError

STEPS: tuple[Step, ...] = (
    Prove("prove", "Proving the set"),
    Send(
        "send-application",
        "Sending",
        "application",
        (Command(("mkdir", "-p", "/x y")), Command(("rm", "-rf", "a"), timedelta(minutes=5))),
        Command(("tar", "-x", "-C", "/x y")),
        PurePosixPath("/x y"),
        via="signed-url",
    ),
    Install("install", "Installing", Package("gitlab-ee", "18.9.0-ee.0", "18.9.0-ee"), FromRepository()),
    Install("install-file", "Installing", Package("gitlab-ee", "18.9.0-ee.0", "18.9.0-ee"), FromStore("a/b", "0" * 64)),
    Release("release", "Releasing", Package("gitlab-ee", "18.9.0-ee.0", "18.9.0-ee")),
    Fit("fit", "Looking again", "host.example.com"),
    Isolate("isolate", "Isolating", "database"),
    Clone("clone", "Cloning", 5),
    Run("stop", "Stopping puma", (Command(("gitlab-ctl", "stop", "puma"), timedelta(seconds=90)),)),
    Run("restore", "Restoring", (Command(("a",)), Command(("b", "c d", "'\"\n"))), Expect.RESTORE_DONE),
    Wait(
        "up",
        "Waiting",
        Command(("gitlab-ctl", "status")),
        Expect.ALL_SERVICES_UP,
        timedelta(hours=1, microseconds=3),
        timedelta(milliseconds=250),
    ),
    Restore(
        "restore-all",
        "GitLab restores",
        Command(("rm", "-f", "/backups/x")),
        PurePosixPath("/staging/.x"),
        PurePosixPath("/backups"),
        "information.yml",
        Command(("gitlab-backup", "restore", "force=yes"), timedelta(days=2)),
        timedelta(minutes=10),
    ),
    PutBack(
        "put-back",
        "GitLab restores its own archive",
        Command(("rm", "-f", "/backups/x")),
        Command(("tar", "--list")),
        "drtool-safety-1",
        Command(("gitlab-backup", "restore", "BACKUP=drtool-safety-1")),
        timedelta(minutes=10),
    ),
    Compare("compare", "Counting"),
    Record("record", "Writing the receipt", repeatable=False, irreversible=True),
)
PLAN = Plan(
    "restore-20260113T031500Z-7f3a", "restore", "gitlab", "20260112T031500Z-0b1c", "root@new", STEPS, "", "main"
)


def test_the_plan_under_test_has_a_step_of_every_kind() -> None:
    assert {type(step) for step in STEPS} == set(get_args(Step))


def test_a_plan_reads_back_from_its_json_with_every_kind_of_step() -> None:
    again = parse_plan(render_plan(PLAN))
    assert again == PLAN
    assert [type(step) for step in again.steps] == [type(step) for step in STEPS]


def test_a_plan_is_one_line_of_json() -> None:
    assert "\n" not in render_plan(PLAN)
    assert plan_fields(PLAN) == json.loads(render_plan(PLAN))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_flag_of_a_step_survives(step: Step) -> None:
    for repeatable, irreversible, lasting in product((True, False), repeat=3):
        flagged = replace(step, repeatable=repeatable, irreversible=irreversible, lasting=lasting)
        assert parse_plan(render_plan(replace(PLAN, steps=(flagged,)))).steps == (flagged,)


@pytest.mark.parametrize("expect", Expect)
def test_every_expectation_survives(expect: Expect) -> None:
    step = Run("run", "Running", (Command(("true",)),), expect)
    (again,) = parse_plan(render_plan(replace(PLAN, steps=(step,)))).steps
    assert again == step
    assert isinstance(again, Run)
    assert again.expect is expect


texts = st.text(max_size=12)  # without lone surrogates, as all that comes out of a TOML file
durations = st.timedeltas(timedelta(0), timedelta(days=400))
commands = st.builds(Command, st.lists(texts, min_size=1, max_size=4).map(tuple), st.none() | durations)


@settings(max_examples=150, deadline=None)
@given(commands, durations, durations)
def test_commands_and_durations_survive_to_the_microsecond(
    command: Command, patience: timedelta, pause: timedelta
) -> None:
    step = Wait("wait", "Waiting", command, Expect.SUCCESS, patience, pause)
    assert parse_plan(render_plan(replace(PLAN, steps=(step,)))).steps == (step,)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two steps of one name"):
        replace(PLAN, steps=(*STEPS, Prove("stop", "Another")))


def test_a_journals_plan_with_two_steps_of_one_name_is_refused() -> None:
    written = plan_fields(PLAN)
    steps: Any = written["steps"]
    steps.append(steps[0])
    with pytest.raises(ResumeError):
        parse_plan(json.dumps(written))


@pytest.mark.parametrize("name", [field.name for field in fields(Plan)])
def test_a_plan_without_one_of_its_fields_is_refused(name: str) -> None:
    written = plan_fields(PLAN)
    del written[name]
    with pytest.raises(ResumeError):
        parse_plan(json.dumps(written))


@pytest.mark.parametrize("text", ["", "{}", "null", "[" * 100_000, '{"steps": 1}', "\ud800"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ResumeError):
        parse_plan(text)


def test_a_step_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ResumeError):
        parse_plan(render_plan(PLAN).replace('"kind":"prove"', '"kind":"destroy"'))


def test_a_plan_cut_at_any_length_is_refused() -> None:
    """Half of what was to be done must not look like all of it."""
    text = render_plan(PLAN)
    for size in range(len(text)):
        with pytest.raises(ResumeError):
            parse_plan(text[:size])


def test_a_command_prints_itself_as_a_shell_would_read_it() -> None:
    assert str(Command(("rm", "-rf", "a b", "it's"))) == "rm -rf 'a b' 'it'\"'\"'s'"
