"""What a terminal is shown, with a standard error that says it is one."""

from __future__ import annotations

import io

import pytest

from drtool.events import Event, Noticed, PhaseFinished, PhaseStarted, Progress, Waiting
from drtool.ui import Ui


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, *events: Event) -> str:
    """All that a terminal gets when these happen, one after the other."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    ui = Ui()
    for event in events:
        ui.emit(event)
    ui.close()
    return screen.getvalue()


def test_a_title_is_shown_as_it_is_also_when_it_looks_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    title = "Sealing and sending to /srv/[/]/[red]"
    text = shown(
        monkeypatch, PhaseStarted("send", title), Progress("send", 1, 2, "volumes"), PhaseFinished("send", 1.0)
    )
    assert title in text.partition("✓")[2]


def test_notes_between_bars_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(
        monkeypatch,
        PhaseStarted("send", "Sending"),
        Waiting("send", "for [/] somebody"),
        Noticed("code", "look at [/]", "and at [bold]"),
    )
    for said in ("for [/] somebody", "look at [/]", "and at [bold]"):
        assert said in text


def test_a_reason_to_wait_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui()
    for reason in ("puma is down", "puma is down", "puma starts", "puma starts"):
        ui.emit(Waiting("up", reason))
    assert capsys.readouterr().err.splitlines() == ["  waiting: puma is down", "  waiting: puma starts"]
