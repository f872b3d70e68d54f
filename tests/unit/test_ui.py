from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pytest

from drtool.errors import SetDamaged, SetMissing
from drtool.events import Event, HostSaid, Noticed, PhaseFinished, PhaseStarted, Progress, Waiting
from drtool.ui import Ui, mark, seconds_text, size_text, table, time_text

Captured = pytest.CaptureFixture[str]

EVENTS: tuple[Event, ...] = (
    PhaseStarted("send", "Sending"),
    Progress("send", 5, 10),
    HostSaid("send", "a line"),
    Noticed("odd", "something is odd", "look at it", ("one", "two")),
    Waiting("send", "another task"),
    PhaseFinished("send", 1.5),
)


@dataclass(frozen=True)
class Found:
    """A result with one of everything."""

    text: str
    when: datetime
    took: timedelta
    path: Path
    pure: PurePosixPath
    names: frozenset[str]
    colour: StrEnum
    parts: tuple[Noticed, ...]
    error: SetDamaged


class Colour(StrEnum):
    RED = "red"


FOUND = Found(
    "täxt\n",
    datetime(2026, 1, 13, 12, 15, tzinfo=timezone(timedelta(hours=9))),
    timedelta(minutes=2),
    Path("/a b"),
    PurePosixPath("/c"),
    frozenset({"b", "a"}),
    Colour.RED,
    (Noticed("code", "message"),),
    SetDamaged("broken", hint="use another"),
)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -- JSON ------------------------------------------------------------------------------------------------------------


def test_there_is_an_event_of_every_kind_here() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


def test_every_event_is_one_json_object_with_its_name_and_fields(capsys: Captured) -> None:
    ui = Ui(as_json=True, verbose=True)
    for event in EVENTS:
        ui.emit(event)
    told = capsys.readouterr()
    assert told.err == ""
    names = ["phase_started", "progress", "host_said", "noticed", "waiting", "phase_finished"]
    assert [line.pop("event") for line in lines(told.out)] == names
    for line, event in zip(lines(told.out), EVENTS, strict=True):
        assert is_dataclass(event)
        assert set(line) == {"event", *(field.name for field in fields(event))}


def test_json_leaves_out_progress_and_the_hosts_lines_unless_asked(capsys: Captured) -> None:
    ui = Ui(as_json=True)
    for event in EVENTS:
        ui.emit(event)
    assert {line["event"] for line in lines(capsys.readouterr().out)} == {
        "phase_started",
        "noticed",
        "waiting",
        "phase_finished",
    }


def test_a_result_of_any_value_is_one_json_object(capsys: Captured) -> None:
    Ui(as_json=True).result(FOUND, "for people")
    told = capsys.readouterr()
    (line,) = lines(told.out)
    assert told.err == ""
    assert line["event"] == "result"
    assert line["when"] == "2026-01-13T03:15:00+00:00"
    assert (line["took"], line["path"], line["pure"]) == (120.0, "/a b", "/c")
    assert (line["names"], line["colour"]) == (["a", "b"], "red")
    assert line["parts"][0]["code"] == "code"
    assert line["error"]["error"] == "SetDamaged"
    assert line["error"]["message"] == "broken"


def test_an_error_in_json_tells_class_message_hint_and_status(capsys: Captured) -> None:
    Ui(as_json=True).error(SetMissing("no set", hint="list them"))
    told = capsys.readouterr()
    (line,) = lines(told.out)
    assert told.err == ""
    assert line == {
        "event": "error",
        "error": "SetMissing",
        "message": "no set",
        "hint": "list them",
        "exit_status": 14,
    }


def test_json_from_several_threads_stays_one_object_per_line(capsys: Captured) -> None:
    ui = Ui(as_json=True, verbose=True)

    def talk() -> None:
        for number in range(200):
            ui.emit(Progress("send", number, None))

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(capsys.readouterr().out)) == 800


def test_a_value_that_is_not_for_json_is_a_defect_and_no_silent_text() -> None:
    with pytest.raises(TypeError, match="not for JSON"):
        Ui(as_json=True).result({"x": object()}, "")


# -- text ------------------------------------------------------------------------------------------------------------


def test_the_result_goes_to_standard_output_and_all_else_to_standard_error(capsys: Captured) -> None:
    ui = Ui(verbose=True)
    for event in EVENTS:
        ui.emit(event)
    ui.say("by the way")
    ui.error(SetMissing("no set", hint="list them"))
    ui.result(FOUND, "the result")
    told = capsys.readouterr()
    assert told.out == "the result\n"
    for part in ("Sending", "a line", "something is odd", "look at it", "two", "another task", "by the way", "no set"):
        assert part in told.err


def test_what_the_host_said_is_shown_only_when_asked(capsys: Captured) -> None:
    Ui().emit(HostSaid("send", "group/secret-project"))
    assert capsys.readouterr().err == ""


def test_quiet_prints_nothing_unless_something_is_wrong(capsys: Captured) -> None:
    ui = Ui(quiet=True, verbose=True)
    for event in EVENTS:
        if not isinstance(event, Noticed | Waiting):
            ui.emit(event)
    ui.say("by the way")
    ui.result(FOUND, "the result")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    ui.emit(EVENTS[3])
    ui.error(SetMissing("no set"))
    ui.result(FOUND, "damaged", bad=True)
    told = capsys.readouterr()
    assert told.out == "damaged\n"
    assert "something is odd" in told.err
    assert "no set" in told.err


def test_waiting_for_one_reason_is_told_once(capsys: Captured) -> None:
    ui = Ui()
    for reason in ("task 1", "task 1", "task 2", "task 2"):
        ui.emit(Waiting("look", reason))
    assert [line.strip() for line in capsys.readouterr().err.splitlines()] == ["waiting: task 1", "waiting: task 2"]


def test_without_a_terminal_nothing_is_coloured_and_no_bar_is_drawn(capsys: Captured) -> None:
    ui = Ui(verbose=True)
    for event in EVENTS:
        ui.emit(event)
    ui.error(SetMissing("no set"))
    ui.result(FOUND, mark("bad"))
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err


def test_nobody_at_the_terminal_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert Ui().confirm("Replace everything?") is False
        assert Ui(as_json=True).confirm("Replace everything?") is False


ON_TERMINAL = """
from drtool.errors import SetMissing
from drtool.events import *
from drtool.ui import Ui
ui = Ui(verbose=True)
title = "Sending to /srv/[bold]x[/odd] [red]"
ui.emit(PhaseStarted("send", title))
ui.emit(Progress("send", 5, 10))
ui.emit(Progress("send", 5, None, "volumes"))
ui.emit(HostSaid("send", "a [/line] of the host"))
ui.emit(Noticed("odd", "an [/odd] notice"))
ui.emit(PhaseFinished("send", 1.5))
ui.emit(PhaseStarted("next", "Never finished"))
ui.error(SetMissing("no [/set] here"))
"""


def on_terminal(program: str, **environment: str) -> str:
    """What a person sees: the program's standard error on a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        process.wait()
    os.close(ours)
    assert process.returncode == 0, seen.decode()
    return seen.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says EIO once the other end is closed
        return b""


def test_brackets_in_names_are_shown_as_they_are_on_a_terminal() -> None:
    seen = on_terminal(ON_TERMINAL, NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    for part in (
        "✓ Sending to /srv/[bold]x[/odd] [red]",
        "a [/line] of the host",
        "an [/odd] notice",
        "no [/set] here",
    ):
        assert part in plain, plain


def test_the_cursor_is_given_back_after_an_error_in_the_middle_of_a_phase() -> None:
    seen = on_terminal(ON_TERMINAL)
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l") >= 0


# -- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 50, "3.0 PiB"),
    ],
)
def test_sizes_are_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (1.26, "1.3 s"),
        (89.94, "89.9 s"),
        (90, "1 min 30 s"),
        (3599.7, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_durations_are_in_units_people_use(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_times_are_in_utc() -> None:
    assert time_text(datetime(2026, 1, 13, 12, 15, tzinfo=timezone(timedelta(hours=9)))) == "2026-01-13 03:15 UTC"
    assert time_text(datetime(2026, 1, 13, 3, 15, tzinfo=UTC)) == "2026-01-13 03:15 UTC"


def test_a_table_aligns_its_columns_and_cuts_nothing() -> None:
    text = table([("a", "x" * 300, "1"), ("long name", "y", "2")], ("NAME", "TEXT", "N"))
    head, first, second = text.splitlines()
    assert head.index("TEXT") == first.index("x") == second.index("y")
    assert "x" * 300 in first
    assert all(line == line.rstrip() for line in (head, first, second))


def test_an_empty_table_is_its_head() -> None:
    assert table([], ("A", "B")) == "A  B"
